// Two models answer one prompt, blind: which is which is told after the vote.

import { answer, sendFeedback } from "/assets/api.js";
import { Body, button, make, note, numbers } from "/assets/chat.js";

// Ask both, in random order. Returns the two results and the node that shows them; `onVote(winner)` ends the blindness.
export async function compare(requests, signal, options) {
  const order = crypto.getRandomValues(new Uint8Array(1))[0] < 128 ? [0, 1] : [1, 0];
  const sides = order.map((index, place) => {
    const body = new Body(options.around);
    const title = make("h2", {}, `Answer ${"AB"[place]}`);
    const tools = make("div", { class: "tools" });
    return { index, body, title, tools, node: make("section", { "aria-label": `Answer ${"AB"[place]}`, "aria-busy": "true" }, title, body.node, tools) };
  });
  const vote = make("div", { class: "vote", role: "group", "aria-label": "Your vote" });
  const turn = make("article", { class: "turn assistant pair" }, make("div", { class: "answers" }, ...sides.map((side) => side.node)), vote);
  options.add(turn);
  await Promise.all(sides.map(async (side) => {
    try {
      side.result = await answer(requests[side.index], signal, (text) => side.body.show(text));
    } catch (error) {
      side.error = error;
      side.body.fail(error.message);
    }
    side.body.draw();
    side.node.removeAttribute("aria-busy");
  }));
  if (!turn.isConnected) return { turn, sides };
  if (sides.every((side) => side.result?.text)) ask(sides, vote, options);
  else {
    reveal(sides, requests);
    const failed = sides.find((side) => side.error);
    options.tell(failed ? failed.error.message : "Stopped.");
  }
  return { turn, sides };
}

function reveal(sides, requests) {
  for (const side of sides) {
    if (!side.result) {
      side.title.textContent = requests[side.index].model;
      continue;
    }
    side.title.textContent = side.result.model;
    side.tools.append(make("span", { class: "numbers" }, numbers(side.result)));
  }
}

function ask(sides, vote, options) {
  const [a, b] = sides;
  const cast = async (place, label) => {
    vote.replaceChildren(make("span", {}, place === null ? `Your vote: ${label}` : `Your vote: ${label}, which was ${sides[place].result.model}`));
    reveal(sides);
    if (place !== null) sides[place].node.classList.add("chosen");
    options.onVote(place === null ? null : sides[place].result);
    const consent = options.consent();
    const record = {
      kind: "vote", model: a.result.model, other: b.result.model, winner: place === null ? "tie" : place === 0 ? "model" : "other",
      prompt_hash: a.result.promptHash, consent,
      ...(consent ? { messages: options.messages, answer: a.result.text, other_answer: b.result.text } : {}),
    };
    try {
      await sendFeedback(record);
      options.tell(`A was ${a.result.model}, B was ${b.result.model}. Your vote is kept.`);
    } catch (error) {
      note(vote, error.message, options.tell);
    }
  };
  vote.append(
    button("A is better", () => cast(0, "A"), { "aria-keyshortcuts": "Alt+1" }),
    button("No difference", () => cast(null, "no difference"), { "aria-keyshortcuts": "Alt+2" }),
    button("B is better", () => cast(1, "B"), { "aria-keyshortcuts": "Alt+3" }),
  );
  const ended = sides.some((side) => side.result.stopped) ? "Stopped." : "Both answers are complete.";
  options.tell(`${ended} Vote: A is better, no difference, or B is better.`);
}
