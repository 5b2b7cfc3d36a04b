// The page: log-in, settings, one conversation. It speaks to the gateway through api.js and to nobody else.

import { answer, listModels, setKey } from "/assets/api.js";
import { againButton, answerTools, Body, make, userTurn } from "/assets/chat.js";
import { compare } from "/assets/compare.js";

const at = (id) => document.getElementById(id);
const log = at("log"), field = at("message"), model = at("model"), other = at("other");

// Each exchange: what was said, what was answered (null while it runs or when it failed), and its nodes.
let exchanges = [];
let running = null;
let loggedIn = false;
let chosen = null; // the model to go on with after a key that expired

const consent = () => at("consent").checked;
const tell = (text) => (at("status").textContent = text);
const nearEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 120;
const toEnd = () => (log.scrollTop = log.scrollHeight);

function add(...nodes) {
  at("empty").hidden = true;
  log.append(...nodes);
  toEnd();
}

// Draw something; whoever was at the end stays there.
function around(draw) {
  const follow = nearEnd();
  draw();
  if (follow) toEnd();
}

// Whether a message may be sent now; a setting that cannot be sent is shown instead of left out.
function ready() {
  if (running) return false;
  const wrong = at("settings").querySelector("input:invalid");
  if (!wrong) return true;
  showSettings(true);
  wrong.reportValidity();
  tell(`${wrong.labels[0].firstChild.textContent}: ${wrong.validationMessage}`);
  return false;
}

function sampling() {
  const number = (id) => (at(id).value === "" ? undefined : at(id).valueAsNumber);
  return { temperature: number("temperature"), top_p: number("top-p"), max_tokens: number("max-tokens"), seed: number("seed") };
}

function messagesFor(upTo) {
  const turns = exchanges.slice(0, upTo).flatMap((each) => (!each.answer ? [] : [
    { role: "user", content: each.said }, { role: "assistant", content: each.answer },
  ]));
  const system = at("system").value.trim();
  return [...(system ? [{ role: "system", content: system }] : []), ...turns];
}

function busy(controller) {
  running = controller;
  at("stop").hidden = controller === null;
  at("send").hidden = controller !== null;
  log.classList.toggle("busy", controller !== null);
  model.disabled = other.disabled = controller !== null;
  at("compare").disabled = controller !== null || model.options.length < 2;
}

async function ask(said) {
  const exchange = { said, answer: null, result: null, nodes: [], system: at("system").value.trim() || null, sampling: sampling() };
  const messages = [...messagesFor(exchanges.length), { role: "user", content: said }];
  const place = exchanges.push(exchange) - 1;
  const mine = userTurn(said, (text) => cutBack(place) && ask(text));
  exchange.nodes.push(mine);
  add(mine);
  const controller = new AbortController();
  busy(controller);
  tell("Answering");
  try {
    if (at("compare").getAttribute("aria-pressed") === "true") await both(exchange, messages, controller.signal, place);
    else await one(exchange, messages, controller.signal, place);
  } finally {
    busy(null);
    field.focus();
  }
}

async function one(exchange, messages, signal, place) {
  const title = make("h2", {}, model.value);
  const body = new Body(around);
  const turn = make("article", { class: "turn assistant", "aria-busy": "true" }, title, body.node);
  exchange.nodes.push(turn);
  add(turn);
  try {
    const result = await answer({ model: model.value, messages, ...exchange.sampling }, signal, (text) => body.show(text));
    body.draw();
    title.textContent = result.intent ? `${result.model} (picked by what you asked: ${result.intent.split("; ").slice(1).join(", ")})` : result.model;
    exchange.answer = result.text;
    exchange.result = result;
    around(() => turn.append(answerTools(result, messages, consent, () => cutBack(place) && ask(exchange.said), tell)));
    tell(result.stopped ? "Stopped." : `Answer complete: ${result.text}`);
  } catch (error) {
    body.fail(error.message);
    tell(error.message);
    around(() => turn.append(make("div", { class: "tools" }, againButton(() => cutBack(place) && ask(exchange.said)))));
  } finally {
    turn.removeAttribute("aria-busy");
  }
}

async function both(exchange, messages, signal, place) {
  const requests = [other.value, model.value].map((name) => ({ model: name, messages, ...exchange.sampling }));
  const { turn, sides } = await compare(requests, signal, {
    add: (node) => (exchange.nodes.push(node), add(node)),
    around, consent, tell, messages,
    onVote: (winner) => {
      const taken = winner ?? sides[0].result;
      exchange.answer = taken.text;
      exchange.result = taken;
      exchange.compared = { vote: winner ? winner.model : "tie", answers: sides.map(({ result }) => recordOf(result)) };
    },
  });
  if (!turn.isConnected) return; // a new chat was begun meanwhile
  turn.append(make("div", { class: "tools" }, againButton(() => cutBack(place) && ask(exchange.said))));
  const first = sides.find((side) => side.result?.text);
  exchange.answer ??= first ? first.result.text : null;
  toEnd();
}

// Forget everything from one exchange on. Returns whether that was possible.
function cutBack(place) {
  if (!ready()) return false;
  for (const exchange of exchanges.splice(place)) exchange.nodes.forEach((node) => node.remove());
  return true;
}

function fresh() {
  running?.abort();
  exchanges.flatMap((each) => each.nodes).forEach((node) => node.remove());
  exchanges = [];
  tell(""); // it holds the last answer, for screen readers
  at("empty").hidden = false;
  field.focus();
}

function recordOf(result) {
  return {
    answer: result?.text ?? null, model: result?.model ?? null, tokens: result?.tokens ?? null,
    first_token_s: result?.firstSeconds ?? null, seconds: result?.seconds ?? null, prompt_hash: result?.promptHash ?? null,
  };
}

function exportChat() {
  const record = {
    exported: new Date().toISOString(), system: at("system").value || null, sampling: sampling(),
    turns: exchanges.map((each) => ({
      said: each.said, system: each.system, sampling: each.sampling,
      ...recordOf(each.result), answer: each.answer, ...(each.compared ? { compared: each.compared } : {}),
    })),
  };
  const url = URL.createObjectURL(new Blob([JSON.stringify(record, null, 2)], { type: "application/json" }));
  const link = make("a", { href: url, download: `burnish-chat-${record.exported.slice(0, 19).replaceAll(":", "")}.json` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
  tell("Exported.");
}

function fill(select, names, chosen) {
  select.replaceChildren(...names.map((name) => make("option", { value: name, selected: name === chosen }, name)));
  select.disabled = names.length === 0;
}

async function logIn(text) {
  setKey(text);
  const names = await listModels();
  const tuned = names.filter((name) => name !== "base" && name !== "auto");
  fill(model, names, names.includes(chosen) ? chosen : tuned[0] ?? names[0]);
  fill(other, names.filter((name) => name !== "auto"), names.includes("base") ? "base" : names[0]);
  at("compare").disabled = model.options.length < 2;
  if (at("compare").disabled) at("compare").setAttribute("aria-pressed", "false"); // nobody could turn it off
  loggedIn = true;
  field.disabled = at("send").disabled = false;
  at("log-out").hidden = false;
  field.focus();
}

function logOut(why = "") {
  running?.abort();
  chosen = why ? model.value : null;
  setKey(null);
  loggedIn = false;
  fill(model, []);
  fill(other, []);
  field.disabled = at("send").disabled = true;
  at("log-out").hidden = true;
  at("log-in-error").textContent = why;
  at("log-in").showModal();
  at("key").focus();
}

at("log-in").addEventListener("cancel", (event) => event.preventDefault());
at("log-in").addEventListener("close", () => loggedIn || logOut()); // a browser lets a second Esc close it all the same
at("log-in-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = at("key").value.trim();
  at("log-in-error").textContent = "";
  at("log-in-go").disabled = true;
  try {
    await logIn(text);
    at("key").value = "";
    at("log-in").close();
    field.focus();
  } catch (error) {
    setKey(null);
    at("log-in-error").textContent = error.status === 401 ? "That key is not valid." : error.message;
    at("key").select();
  } finally {
    at("log-in-go").disabled = false;
  }
});

// The next person finds nothing of the last one: no text, and no consent.
function forget() {
  fresh();
  for (const each of at("settings").querySelectorAll("input, textarea")) {
    each.value = each.defaultValue;
    each.checked = false;
  }
  field.value = "";
  grow();
  logOut();
}

function showSettings(shown) {
  at("settings").hidden = !shown;
  at("settings-open").setAttribute("aria-expanded", String(shown));
}

function grow() {
  field.style.setProperty("height", "auto");
  field.style.setProperty("height", `${field.scrollHeight + 2}px`);
}

at("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = field.value.trim();
  if (!text || !ready()) return;
  field.value = "";
  grow();
  ask(text);
});
field.addEventListener("input", grow);
field.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    at("composer").requestSubmit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running) running.abort();
  // Alt writes other characters than digits on a Mac, and AltGr, which also is Ctrl+Alt, is for writing.
  const digit = /^Digit([123])$/.exec(event.code)?.[1] ?? (["1", "2", "3"].includes(event.key) ? event.key : null);
  if (event.altKey && !event.ctrlKey && !event.metaKey && digit) {
    const votes = [...log.querySelectorAll(".vote")].at(-1)?.querySelectorAll("button") ?? [];
    if (votes.length === 3) (event.preventDefault(), votes[Number(digit) - 1].click());
  }
});
at("stop").addEventListener("click", () => running?.abort());
at("fresh").addEventListener("click", fresh);
at("export").addEventListener("click", exportChat);
at("log-out").addEventListener("click", forget);
document.addEventListener("key-refused", () => loggedIn && logOut("Your key is no longer valid."));
at("compare").addEventListener("click", (event) => {
  const on = event.currentTarget.getAttribute("aria-pressed") !== "true";
  event.currentTarget.setAttribute("aria-pressed", String(on));
  tell(on ? `Each message is answered by ${model.value} and ${other.value}, blind.` : "One model answers.");
});
at("settings-open").addEventListener("click", () => showSettings(at("settings").hidden));
window.addEventListener("pagehide", () => running?.abort());
logOut();
