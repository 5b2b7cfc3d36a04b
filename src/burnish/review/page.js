"use strict";
// Everything that is shown goes in as text, never as HTML: rows come from models and from anybody's data.
const by = (id) => document.getElementById(id);
const KEY = "burnish-review-token";
let token = location.hash.slice(1) || sessionStorage.getItem(KEY) || "";
if (location.hash) history.replaceState(null, "", location.pathname);
let state = null;
let editing = false;
let busy = false;

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function say(text, calm) {
  by("message").textContent = text;
  by("message").className = calm ? "calm" : "";
}

async function call(path, body) {
  const headers = { Authorization: `Bearer ${token}` };
  const options = body === undefined ? { headers } : { method: "POST", headers, body: JSON.stringify(body) };
  const response = await fetch(path, options);
  const value = await response.json();
  if (response.status === 401) {
    by("ask").hidden = false;
    by("code").focus();
  }
  if (!response.ok) throw new Error(value.error || `HTTP ${response.status}`);
  return value;
}

async function go(body, told) {
  if (busy) return;
  busy = true;
  setButtons();
  try {
    state = body === undefined ? await call("/api/state") : await call("/api/act", body);
    sessionStorage.setItem(KEY, token);
    by("ask").hidden = true;
    editing = false;
    show();
    say(told || "", true);
  } catch (error) {
    say(error instanceof TypeError ? "The terminal's command has ended, or cannot be reached. What was saved is saved." : error.message);
  } finally {
    busy = false;
    setButtons();
  }
}

function show() {
  const row = state.row;
  by("reviewer").textContent = state.reviewer;
  by("folder").textContent = state.folder;
  const share = state.queue ? state.done / state.queue : 1;
  by("filled").style.width = `${(100 * share).toFixed(1)}%`;
  by("bar").setAttribute("aria-valuenow", String(Math.round(100 * share)));
  by("progress").textContent = `${state.done} of ${state.queue} rows` + (state.skipped ? `, ${state.skipped} left for later` : "");
  by("row").hidden = by("actions").hidden = !row;
  by("done").hidden = Boolean(row);
  if (row) showRow(row);
  else {
    by("done").textContent = state.queue ? "That was the last row. Ctrl-C in the terminal ends the review." : "There is no row to review here.";
    by("actions").hidden = !state.can_undo;
  }
  showTables();
}

function showRow(row) {
  const chips = [element("span", row.kind, "chip")];
  chips.push(element("span", row.detail ? `${row.verdict}: ${row.detail}` : row.verdict, row.verdict === "kept" ? "chip good" : "chip bad"));
  for (const key of ["by", "place"]) if (row.shown[key]) chips.push(element("span", row.shown[key], "chip"));
  if (row.shown.grade) chips.push(element("span", `graded ${row.shown.grade} of 5`, "chip"));
  chips.push(element("span", row.id.slice(0, 8), "chip"));
  by("chips").replaceChildren(...chips);
  by("turns").replaceChildren(...row.turns.map(turnOf));
  const beside = besideOf(row);
  by("beside").replaceChildren(...beside);
  by("beside").parentElement.classList.toggle("alone", beside.length === 0);
  by("note").value = "";
}

function turnOf(turn, number) {
  const made = element("div", undefined, `turn ${turn.label}`);
  const title = element("h2", turn.label);
  title.id = `turn${number}`;
  made.append(title);
  if (editing) {
    const area = element("textarea", turn.text);
    area.setAttribute("aria-labelledby", title.id);
    area.rows = Math.min(20, 2 + turn.text.split("\n").length + Math.floor(turn.text.length / 70));
    made.append(area);
  } else made.append(element("div", turn.text, "text"));
  return made;
}

function besideOf(row) {
  const found = [];
  const add = (title, text) => {
    const made = element("div", undefined, "beside");
    made.append(element("h2", title), text);
    found.push(made);
  };
  if (row.shown["made from"]) add("made from this row", element("div", row.shown["made from"], "text"));
  if (row.shown["as it stands"]) add("the line as it stands", element("div", row.shown["as it stands"], "text"));
  if (row.shown.passage) add("the passage", marked(row.shown.passage, row.quote));
  if (row.shown.why) add("the judge says", element("div", row.shown.why, "text"));
  for (const other of row.others) {
    const said = [other.note, ...(other.edited || [])].filter(Boolean).join("\n\n");
    add(`${other.reviewer}: ${other.verdict}`, element("div", said, "text"));
  }
  return found;
}

function marked(text, quote) {
  const made = element("div", undefined, "text");
  const at = quote ? text.indexOf(quote) : -1;
  if (at < 0) made.textContent = text;
  else made.append(text.slice(0, at), element("mark", quote), text.slice(at + quote.length));
  return made;
}

function tableOf(title, head, rows) {
  const table = element("table");
  table.append(element("caption", title));
  const line = (cells, name) => {
    const made = element("tr");
    made.append(...cells.map((cell) => element(name, cell)));
    return made;
  };
  table.append(line(head, "th"), ...rows.map((cells) => line(cells, "td")));
  return table;
}

function showTables() {
  const tables = [tableOf("Rows", Object.keys(state.rows), [Object.values(state.rows).map(String)])];
  const people = Object.entries(state.reviewers);
  if (people.length) tables.push(tableOf("Reviewers", ["name", "rows"], people.map(([name, rows]) => [name, String(rows)])));
  const agreed = state.agreement.map((pair) => [
    pair.reviewers.join(" and "), String(pair.rows), `${pair.agreed} (${Math.round((100 * pair.agreed) / pair.rows)}%)`,
    pair.kappa === null ? "not defined: one verdict throughout" : `${pair.kappa.toFixed(2)} (${pair.low.toFixed(2)} to ${pair.high.toFixed(2)})`,
  ]);
  if (agreed.length) tables.push(tableOf("Agreement", ["who", "rows of both", "same verdict", "Cohen's kappa (95%)"], agreed));
  by("table").replaceChildren(...tables);
}

function setButtons() {
  const row = state && state.row;
  for (const id of ["accept", "edit", "reject", "skip"]) {
    by(id).hidden = editing || !row;
    by(id).disabled = busy;
  }
  for (const id of ["save", "cancel"]) {
    by(id).hidden = !editing;
    by(id).disabled = busy;
  }
  by("undo").hidden = editing;
  by("undo").disabled = busy || !state || !state.can_undo;
}

function edit(on) {
  if (!state || !state.row || busy) return;
  editing = on;
  by("turns").replaceChildren(...state.row.turns.map(turnOf));
  setButtons();
  const areas = by("turns").querySelectorAll("textarea");
  if (!areas.length) return;
  const last = areas[areas.length - 1];
  last.focus();
  last.setSelectionRange(last.value.length, last.value.length);
}

const verdict = (word, told) => () => {
  if (state && state.row) go({ do: word, id: state.row.id, note: by("note").value }, told);
};
const actions = {
  accept: verdict("accept", "Accepted."),
  reject: verdict("reject", "Rejected."),
  skip: verdict("skip", "Left for later."),
  edit: () => edit(true),
  cancel: () => edit(false),
  undo: () => go({ do: "undo" }, "Taken back."),
  save: () => {
    if (!editing) return;
    const texts = [...by("turns").querySelectorAll("textarea")].map((area) => area.value);
    go({ do: "edit", id: state.row.id, note: by("note").value, texts }, "Edited.");
  },
};
for (const [id, act] of Object.entries(actions)) by(id).addEventListener("click", act);
by("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  token = by("code").value.trim();
  go();
});

const KEYS = { a: "accept", e: "edit", r: "reject", s: "skip", u: "undo" };
document.addEventListener("keydown", (event) => {
  if (editing && event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    actions.save();
  } else if (event.key === "Escape") {
    if (editing) edit(false);
    else document.activeElement.blur();
  } else if (!editing && !event.ctrlKey && !event.metaKey && !event.altKey && KEYS[event.key]
    && !["INPUT", "TEXTAREA"].includes(document.activeElement.tagName)) {
    event.preventDefault();
    const button = by(KEYS[event.key]);
    if (!button.hidden && !button.disabled) actions[KEYS[event.key]]();
  }
});
go();
