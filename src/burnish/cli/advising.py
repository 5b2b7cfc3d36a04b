"""The verb advise: questions, or a flag for each of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from burnish.cli.verbs import AddVerb, print_json
from burnish.core.errors import UsageError

ASKED_ALWAYS = ("needs", "prompt", "rows")
ASKED_WITH: Mapping[str, tuple[str, ...]] = {
    "document_tokens": ("facts", "fresh-facts"),
    "pairs": ("preferences", "safety"),
}
"""Questions that only some needs bring up."""
ASKED_LAST = (
    "tasks", "data_may_leave", "team", "base", "gpu", "gpu_usd_low", "gpu_usd_high", "budget_usd", "requests_per_day",
    "prompt_tokens", "prompt_tokens_saved", "answer_tokens", "api_input_usd", "api_output_usd", "hours_saved_per_month",
)  # fmt: skip


def add_verbs(verb: AddVerb) -> None:
    """Add the verbs of this file."""
    advise = verb("advise", "say whether to fine-tune and how, with reasons, prices and risks", _advise)
    advise.add_argument(
        "--ask", action="store_true", help="ask the questions (the default in a terminal without flags)"
    )
    advise.add_argument("--write", metavar="NAME", help="write the recipe of the advice to NAME.yaml")
    advise.add_argument("--data", metavar="PATH", help="data of the recipe (default: NAME.jsonl)")
    advise.add_argument(
        "--prices", type=Path, metavar="FILE", help="prices of GPUs in place of the bundled ones, as for plan"
    )
    group = advise.add_argument_group("the situation; what is not said is taken as the default")
    for name, (default, about) in _questions().items():
        flag = "--" + name.replace("_", "-")
        group.add_argument(
            flag, dest=f"situation_{name}", metavar="VALUE", help=f"{about} {default}".replace("%", "%%"),
            action="append" if name == "needs" else "store",
        )  # fmt: skip


def _questions() -> dict[str, tuple[str, str]]:
    """Return (default, description) by name, without importing the models: the table is read from their source of truth."""
    from burnish.plan.advise.situation import NEEDS, Situation, choices

    found: dict[str, tuple[str, str]] = {}
    for name, field in Situation.model_fields.items():
        words = list(NEEDS) if name == "needs" else choices(name)
        allowed = f"{', '.join(words)}" if words else ""
        default = "" if field.is_required() or field.default is None else f"default: {field.default}"
        notes = "; ".join(filter(None, [allowed, default]))
        found[name] = (f"({notes})" if notes else "", field.description or "")
    return found


def _advise(options: argparse.Namespace) -> int:
    from burnish.plan.advise.advice import advise
    from burnish.plan.advise.situation import read_situation
    from burnish.plan.prices import read_prices
    from burnish.views.advice import print_advice

    given = {
        name.removeprefix("situation_"): value
        for name, value in vars(options).items()
        if name.startswith("situation_") and value is not None
    }
    if "needs" in given:
        given["needs"] = ",".join(given["needs"])
    if options.data is not None and options.write is None:
        raise UsageError("--data is the data of a recipe, and none is written: give --write NAME as well")
    if options.ask or (not given and not options.json and sys.stdin.isatty()):
        given = ask(sys.stdin, sys.stderr if options.json else sys.stdout, given)
    if not given:
        raise UsageError(
            "nothing is said of the situation, and there is no terminal to ask in. Say at least --needs (format, skill, labels "
            "...); --ask reads the answers from a pipe; burnish advise --help shows every question."
        )
    advice = advise(read_situation(given), read_prices(options.prices))
    if options.write is not None:
        advice["written"] = str(write_recipe(advice, options.write, options.data, Path.cwd()))
    if options.json:
        print_json(advice)
        return 0
    print_advice(advice)
    if options.write is not None:
        sys.stdout.write(f"wrote {advice['written']}\nnext: burnish check {advice['written']}\n")
    elif advice["verdict"] == "fine-tune":
        sys.stdout.write("the recipe: the same command with --write NAME\n")
    return 0


def write_recipe(advice: dict[str, Any], name: str, data: str | None, folder: Path) -> Path:
    """Write NAME.yaml into `folder` and return its path. Raises UsageError for a bad name, a file that exists, and no recipe."""
    from burnish.model.bases import BUNDLED
    from burnish.plan.advise.recipe import recipe_text
    from burnish.scaffold.write import check_name, refuse_existing
    from burnish.store.files import write_bytes

    check_name(name)
    path = folder / f"{name}.yaml"
    refuse_existing(path)
    write_bytes(path, recipe_text(advice, name, data or f"{name}.jsonl", bundled=BUNDLED).encode())
    return path


def ask(answers: TextIO, out: TextIO, given: Mapping[str, Any]) -> dict[str, Any]:
    """Ask one question after the other and return what was said; an empty line takes the default, a wrong one is asked again.

    Raises UsageError when the answers end early.
    """
    from burnish.plan.advise.situation import NEEDS

    found = dict(given)
    questions = _questions()

    def one(name: str) -> None:
        default, about = questions[name]
        if name not in found:
            said = _answer(name, f"{about} {default}\n> ", answers, out)
            if said is not None:
                found[name] = said

    if "needs" not in found:
        for need, meaning in NEEDS.items():
            out.write(f"  {need:<12} {meaning}\n")
    for name in ASKED_ALWAYS:
        one(name)
    for name, needs in ASKED_WITH.items():
        if set(needs) & set(str(found["needs"]).replace(" ", "").split(",")):
            one(name)
    for name in ASKED_LAST:
        one(name)
    return found


def _answer(name: str, question: str, answers: TextIO, out: TextIO) -> str | None:
    from burnish.plan.advise.situation import SituationError, read_situation

    while True:
        out.write(question)
        out.flush()
        text = answers.readline()
        if not text:
            raise UsageError(f"the answers ended before {name} was said. Give it as --{name.replace('_', '-')}.")
        if not text.strip() and name != "needs":
            return None
        try:
            read_situation({"needs": "skill", "prompt_tokens": 10**7, **{name: text.strip()}})
        except SituationError as error:
            out.write("\n".join(f"  {problem.allowed}" for problem in error.problems) + "\n")
            continue
        return text.strip()
