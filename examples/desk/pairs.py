"""Write `preferences.jsonl`: tickets with a better and a worse answer, for direct preference optimisation.

    python examples/desk/pairs.py [--seed 5] [--out PATH]

Standard library only. The same seed gives the same bytes. The worse answer is what a model makes of a ticket after a little
training: it overlooks that something is urgent or sees urgency everywhere, sends the ticket to another team, or talks.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

HERE = Path(__file__).parent
ROWS, TEST_ROWS = 240, 60
TEAMS = {
    "shipping": (
        "The {thing} came without its cable",
        "Tracking says that the {thing} is back in your storehouse",
        "The driver would not carry the {thing} up the stairs",
        "Half of my order is missing, there is only the {thing}",
    ),
    "billing": (
        "Your letter says that I still owe you for the {thing}",
        "The discount on the {thing} was not taken off",
        "I paid for the {thing} in another currency than the page showed",
        "Where is my money for the {thing} that I sent back",
    ),
    "technical": (
        "The {thing} gets hot and switches itself off",
        "The {thing} cannot find the network",
        "Since yesterday the {thing} shows error {number}",
        "The page crashes when I look at the {thing}",
    ),
}
TEST_ONLY = {
    "shipping": "Two weeks and still no {thing}, the depot knows nothing",
    "billing": "The {thing} stands twice on my statement",
    "technical": "The button of the {thing} does nothing",
}
THINGS = ("desk lamp", "router", "keyboard", "smoke alarm", "coffee grinder", "yearly plan", "office chair", "mug")
URGENT = (". This is urgent.", ", and I need it today.", ". Please answer at once!", ". It cannot wait.")
CALM = (".", ", no hurry.", ". Any day this month will do.", ", ticket {number}.")
TALK = (
    "I am sorry to hear that. {}",
    "Sure! Here is the answer: {}",
    "{} Let me know if I can help with anything else.",
)


def answer(team: str, urgent: bool) -> str:
    """The answer as the help desk's own software reads it."""
    return json.dumps({"team": team, "urgent": urgent}, separators=(",", ":"))


def worse(team: str, urgent: bool, draw: random.Random) -> str:
    """What a model that has learned a little says: half of the time it is wrong about urgency."""
    fault = draw.choice(("urgency", "urgency", "team", "talk"))
    if fault == "urgency":
        return answer(team, not urgent)
    if fault == "team":
        return answer(draw.choice([other for other in TEAMS if other != team]), urgent)
    return draw.choice(TALK).format(answer(team, urgent))


def rows(seed: int) -> list[dict[str, str]]:
    """Return the pairs; no ticket stands twice, and the sentences of `TEST_ONLY` are in test rows alone."""
    draw, seen, made = random.Random(seed), set[str](), list[dict[str, str]]()
    while len(made) < ROWS:
        test = len(made) >= ROWS - TEST_ROWS
        team, urgent = draw.choice(list(TEAMS)), draw.random() < 0.5
        sentence = TEST_ONLY[team] if test and draw.random() < 0.5 else draw.choice(TEAMS[team])
        text = sentence + draw.choice(URGENT if urgent else CALM)
        text = text.format(thing=draw.choice(THINGS), number=draw.randrange(100, 1000))
        if text in seen:
            continue
        seen.add(text)
        row = {"prompt": text, "chosen": answer(team, urgent), "rejected": worse(team, urgent, draw)}
        made.append({**row, "split": "test"} if test else row)
    return made


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE / "preferences.jsonl")
    asked = parser.parse_args()
    asked.out.write_text("".join(json.dumps(row) + "\n" for row in rows(asked.seed)), encoding="utf-8")


if __name__ == "__main__":
    main()
