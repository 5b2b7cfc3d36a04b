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

export async function copy(from, text) {
  const before = from.textContent;
  try {
    await navigator.clipboard.writeText(text);
    from.textContent = "Copied";
  } catch {
    from.textContent = "Not allowed here";
  }
  setTimeout(() => (from.textContent = before), 1500);
}

// Shows a text that grows; drawn once a frame at most.
export class Body {
  constructor() {
    this.node = make("div", { class: "body" });
    this.drawn = "";
    this.text = "";
    this.waiting = false;
  }

  show(text) {
    this.text = text;
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }

  draw() {
    if (this.text === this.drawn) return;
    this.drawn = this.text;
    this.node.replaceChildren(...markdown(this.text, copy));
  }

  fail(message) {
    this.draw(); // a drawing that still waits would take the message away
    this.node.append(make("p", { class: "failed" }, message));
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
  const body = make("div", { class: "body" }, text);
  const tools = make("div", { class: "tools" });
  const turn = make("article", { class: "turn user" }, make("h2", {}, "You"), body, tools);
  const edit = button("Edit", () => {
    const field = make("textarea", { value: text, rows: Math.min(8, text.split("\n").length + 1), "aria-label": "Edit your message" });
    const back = () => {
      field.replaceWith(body);
      tools.replaceChildren(edit);
      edit.focus();
    };
    field.addEventListener("keydown", (event) => event.key === "Escape" && (event.stopPropagation(), back()));
    body.replaceWith(field);
    tools.replaceChildren(button("Send again", () => field.value.trim() && onEdit(field.value)), button("Cancel", back));
    field.focus();
  });
  tools.append(edit);
  return turn;
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
      tell(said);
      return true;
    } catch (error) {
      tell(error.message);
      return false;
    }
  };
  const thumb = (label, up) =>
    button(label, async (from) => {
      if (await send(record({ kind: "thumb", up }), "Thank you, that is noted.")) {
        for (const each of tools.querySelectorAll("[aria-pressed]")) each.setAttribute("aria-pressed", String(each === from));
      }
    }, { "aria-pressed": "false", "aria-label": up ? "A good answer" : "A bad answer" });
  tools.append(button("Copy", (from) => copy(from, result.text)), button("Again", onAgain, { "aria-label": "Let it answer again" }));
  if (result.promptHash) {
    tools.append(thumb("Good", true), thumb("Bad", false), button("Correct", () => correction(tools, result, record, send)));
  }
  tools.append(make("span", { class: "numbers" }, numbers(result)));
  return tools;
}

function correction(tools, result, record, send) {
  if (tools.nextElementSibling?.classList.contains("correct")) return tools.nextElementSibling.remove();
  const field = make("textarea", { value: result.text, rows: 5, "aria-label": "The answer as it should have been" });
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
