// Turns on the page: what the person said, what a model answered, and the buttons beside them.

import { markdown } from "/assets/markdown.js";
import { sendFeedback } from "/assets/api.js";

export function make(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [property, value] of Object.entries(properties)) {
    if (property === "class") made.className = value;
    else if (property.startsWith("aria-")) made.setAttribute(property, value);
    else made[property] = value;
  }
  made.append(...children);
  return made;
}

export function button(label, onClick, properties = {}) {
  const made = make("button", { type: "button", ...properties }, label);
  made.addEventListener("click", () => onClick(made));
  return made;
}

const labels = new WeakMap(); // of buttons that say for a moment what became of a copy

export async function copy(from, text) {
  if (!labels.has(from)) labels.set(from, from.textContent);
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    done = copyPlainly(text); // pages of plain http have no clipboard, unless they are local
  }
  document.getElementById("status").textContent = from.textContent = done ? "Copied" : "Not allowed here";
  setTimeout(() => (from.textContent = labels.get(from)), 1500);
}

function copyPlainly(text) {
  const field = make("textarea", { value: text, class: "hidden", readOnly: true, "aria-hidden": "true" });
  const before = document.activeElement;
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  before?.focus();
  return done;
}

const BUSY_SHARE = 4;

// Shows a text that grows; drawn once a frame at most, and no more than a fifth of the time. What is drawn already and
// stays as it is keeps its elements, so that one can select and copy there while the rest grows.
export class Body {
  constructor(around = (draw) => draw()) {
    this.node = make("div", { class: "body" });
    this.around = around;
    this.drawn = "";
    this.text = "";
    this.waiting = false;
    this.cost = 0;
  }

  show(text) {
    this.text = text;
    if (this.waiting) return;
    this.waiting = true;
    const draw = () => {
      this.waiting = false;
      this.draw();
    };
    setTimeout(() => requestAnimationFrame(draw), BUSY_SHARE * this.cost);
  }

  draw() {
    if (this.text === this.drawn) return;
    this.drawn = this.text;
    const began = performance.now();
    const made = markdown(this.text, copy);
    const old = [...this.node.childNodes];
    let same = 0;
    while (same < Math.min(old.length, made.length) && old[same].isEqualNode(made[same])) same += 1;
    this.around(() => {
      for (const node of old.slice(same)) node.remove();
      this.node.append(...made.slice(same));
    });
    this.cost = performance.now() - began;
  }

  fail(message) {
    this.draw(); // a drawing that still waits would take the message away
    this.around(() => this.node.append(make("p", { class: "failed" }, message)));
  }
}

export function numbers(result) {
  const parts = [];
  if (result.tokens !== null) parts.push(`${result.tokens} tokens`);
  if (result.tokens > 1 && result.seconds - result.firstSeconds > 0.1) { // a shorter time measures the network
    parts.push(`${((result.tokens - 1) / (result.seconds - result.firstSeconds)).toFixed(1)} tokens/s`);
  }
  if (result.firstSeconds !== null) parts.push(`first after ${result.firstSeconds.toFixed(2)} s`);
  if (result.stopped) parts.push("stopped");
  if (result.finish === "length") parts.push("cut at the length limit");
  return parts.join(" · ");
}

export function userTurn(text, onEdit) {
  const body = make("div", { class: "body", dir: "auto" }, text);
  const tools = make("div", { class: "tools" });
  const turn = make("article", { class: "turn user" }, make("h2", {}, "You"), body, tools);
  const edit = button("Edit", () => {
    const field = make("textarea", { value: text, dir: "auto", rows: Math.min(8, text.split("\n").length + 1), "aria-label": "Edit your message" });
    const back = () => {
      field.replaceWith(body);
      tools.replaceChildren(edit);
      edit.focus();
    };
    field.addEventListener("keydown", (event) => event.key === "Escape" && (event.stopPropagation(), back()));
    body.replaceWith(field);
    tools.replaceChildren(button("Send again", () => field.value.trim() && onEdit(field.value), { class: "when-idle" }), button("Cancel", back));
    field.focus();
  }, { class: "when-idle" });
  tools.append(edit);
  return turn;
}

export function againButton(onAgain) {
  return button("Again", onAgain, { class: "when-idle", "aria-label": "Let it answer again" });
}

// Says beside its buttons what became of something that was sent, and to screen readers.
export function note(beside, message, tell) {
  beside.querySelector(":scope > .failed")?.remove();
  beside.append(make("span", { class: "failed" }, message));
  tell(message);
}

// The row beneath an answer: copy, again, thumbs, a correction. `about()` gives the result and the messages it answers.
export function answerTools(result, messages, consent, onAgain, tell) {
  const tools = make("div", { class: "tools" });
  const record = (more, texts) => ({
    model: result.model,
    prompt_hash: result.promptHash,
    consent: consent(),
    ...more,
    ...(consent() ? { messages, answer: result.text, ...texts } : {}),
  });
  const send = async (value, said) => {
    try {
      await sendFeedback(value);
      tools.querySelector(":scope > .failed")?.remove();
      tell(said);
      return true;
    } catch (error) {
      note(tools, error.message, tell);
      return false;
    }
  };
  const thumb = (label, up) =>
    button(label, async (from) => {
      if (await send(record({ kind: "thumb", up }), "Thank you, that is noted.")) {
        for (const each of tools.querySelectorAll("[aria-pressed]")) each.setAttribute("aria-pressed", String(each === from));
      }
    }, { "aria-pressed": "false", "aria-label": up ? "A good answer" : "A bad answer" });
  tools.append(button("Copy", (from) => copy(from, result.text)), againButton(onAgain));
  if (result.promptHash) {
    tools.append(thumb("Good", true), thumb("Bad", false), button("Correct", () => correction(tools, result, record, send)));
  }
  tools.append(make("span", { class: "numbers" }, numbers(result)));
  return tools;
}

function correction(tools, result, record, send) {
  if (tools.nextElementSibling?.classList.contains("correct")) return tools.nextElementSibling.remove();
  const field = make("textarea", { value: result.text, rows: 5, dir: "auto", "aria-label": "The answer as it should have been" });
  const note = make("span", { class: "failed", hidden: true }, "Tick the box in Settings first: a correction is kept with the texts it is about.");
  const box = make("div", { class: "correct" }, field, make("div", {},
    button("Save the correction", async () => {
      const value = record({ kind: "correction" }, { correction: field.value });
      note.hidden = value.consent;
      if (value.consent && (await send(value, "Thank you, the correction is kept."))) box.remove();
    }),
    button("Cancel", () => box.remove())), note);
  tools.after(box);
  field.focus();
  return undefined;
}
