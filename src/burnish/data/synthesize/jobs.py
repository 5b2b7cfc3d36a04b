"""Each kind of synthetic row as jobs: what the teacher is asked, and how its reply becomes drafts.

Job number n of a kind is the same in every run with the same material and seed, so the cache answers what was asked before.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, cast

import yaml

from burnish.core.completion import Ask, Turn
from burnish.core.errors import DataError
from burnish.core.recipe_augment import Synthesize, Template
from burnish.data.synthesize import prompts
from burnish.data.synthesize.draft import Draft
from burnish.data.synthesize.material import Piece, Seed
from burnish.data.synthesize.shape import Asked, Example, Examples, read_json, read_text

SHOWN_EXAMPLES = 4
"""Rows that are shown to the teacher at a time."""
SEVERAL = ("self_instruct", "persona", "adversarial", "questions")
"""Kinds of which one reply brings several rows, none of them of a single row of the user's."""
PARAPHRASES = ("in other words", "as a different person would say it", "with another order of its parts", "more briefly",
               "in more words", "as a question, or, if it is one, as a statement")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Job:
    """One thing to ask, or nothing (`ask` None: `read` needs no reply). `read` raises Misshapen."""

    kind: str
    ask: Ask | None
    read: Callable[[str], list[Draft]]


class Jobs:
    """Makes the jobs of a recipe."""

    def __init__(self, said: Synthesize, seed: int, seeds: Sequence[Seed], pieces: Sequence[Piece]) -> None:
        """Take the material. Raises DataError when a kind that is asked for has nothing to be made from."""
        self._said, self._seed = said, seed
        self._seeds, self._pieces = _shuffled(seeds, f"{seed}:seeds"), _shuffled(pieces, f"{seed}:pieces")
        self._check()

    def of(self, kind: str, number: int) -> Job:
        """Return job number `number` of a kind."""
        return _KINDS[kind](self, number)

    def a_reply(self, kind: str) -> int:
        """Return how many rows a reply may bring."""
        return prompts.PAIRS_AT_ONCE if kind in SEVERAL else 1

    def most(self, kind: str, wanted: int) -> int:
        """Return how many jobs of a kind there may be."""
        most = math.ceil(wanted / self.a_reply(kind)) * self._said.tries
        template = self._said.make.template
        return min(most, _combinations(template)) if kind == "template" and template is not None else most

    def answers(self, number: int) -> tuple[Seed, list[Ask]]:
        """Return a request and the two asks whose answers a preference pair is made of."""
        seed = self._seeds[number % len(self._seeds)]
        turns = prompts.answer(seed.request, seed.instructions, self._said.task)
        return seed, [self._ask(turns, 2 * number + which) for which in range(2)]

    def _check(self) -> None:
        wanted = self._said.make.wanted()
        need_rows = [kind for kind in ("paraphrase", "style", "translation", "preference") if kind in wanted]
        if need_rows and not self._seeds:
            raise DataError(
                f"synthesize.make.{need_rows[0]} is made from training rows with one request and one answer, and `data` has none "
                "that is not synthetic. Add some, or make other kinds."
            )
        free = [kind for kind in ("self_instruct", "persona", "adversarial") if kind in wanted]
        if free and not self._seeds and self._said.task is None:
            raise DataError(
                f"synthesize.make.{free[0]} needs examples in `data`, or synthesize.task: what the specialist does."
            )
        if "questions" in wanted and not self._pieces:
            raise DataError(f"no text was found in synthesize.documents: {', '.join(self._said.documents)}")

    def _ask(self, turns: tuple[Turn, ...], number: int) -> Ask:
        return Ask(turns, self._said.max_tokens, self._said.temperature, number)

    def _examples(self, kind: str, number: int, manner: str, by: str | None) -> Job:
        draw = random.Random(f"{self._seed}:{kind}:{number}")
        shown = draw.sample(self._seeds, min(SHOWN_EXAMPLES, len(self._seeds)))
        like = shown[0] if shown else None
        # All examples stand under one system prompt: what fits one day's calendar need not fit another's.
        shown = [seed for seed in shown if like is not None and seed.system == like.system]

        def read(reply: str) -> list[Draft]:
            found = read_json(reply, Examples).examples
            return [Draft(kind, each.request, each.answer, like, by) for each in found]

        return Job(kind, self._ask(prompts.examples(self._said.task, shown, manner), number), read)

    def self_instruct(self, number: int) -> Job:
        """Ask for new examples in the manner of some."""
        manner = "Each asks for something that none of the examples asks for, in its own way and length."
        return self._examples("self_instruct", number, manner, None)

    def persona(self, number: int) -> Job:
        """Ask for examples as one person would ask."""
        said = self._said.make.persona
        people = (said.personas if said is not None else ()) or _personas()
        who = people[number % len(people)]
        manner = f"Each request is what {who} would ask, in that person's words and about that person's concerns."
        return self._examples("persona", number, manner, who)

    def adversarial(self, number: int) -> Job:
        """Ask for hard examples."""
        case = _hard_cases()[number % len(_hard_cases())]
        manner = f"They are hard in one way: each request {case['request']}. The right answer {case['answer']}."
        return self._examples("adversarial", number, manner, case["name"])

    def questions(self, number: int) -> Job:
        """Ask for questions that a piece of a document answers."""
        said = self._said.make.questions
        assert said is not None, "asked for by the recipe"
        piece = self._pieces[number % len(self._pieces)]

        def read(reply: str) -> list[Draft]:
            return [
                Draft(
                    "questions",
                    f"{piece.text}\n\n{each.question}" if said.passage else each.question,
                    each.answer,
                    piece=piece,
                    said_quote=each.quote,
                )
                for each in read_json(reply, Asked).questions
            ]

        return Job("questions", self._ask(prompts.questions(self._said.task, piece, piece.text), number), read)

    def paraphrase(self, number: int) -> Job:
        """Ask for a request in other words."""
        turn = number // len(self._seeds)
        return self._rewrite("paraphrase", number, PARAPHRASES[(number + turn) % len(PARAPHRASES)], None)

    def style(self, number: int) -> Job:
        """Ask for a request in another manner of speaking."""
        said = self._said.make.style
        assert said is not None, "asked for by the recipe"
        manner = said.styles[(number + number // len(self._seeds)) % len(said.styles)]
        return self._rewrite("style", number, f"in this style: {manner}", manner)

    def _rewrite(self, kind: str, number: int, how: str, by: str | None) -> Job:
        seed = self._seeds[number % len(self._seeds)]

        def read(reply: str) -> list[Draft]:
            text = read_text(reply)
            if (
                prompts.REQUEST not in seed.request
            ):  # small models write what they were asked once more before the answer
                text = text.rpartition(prompts.REQUEST)[2].strip() or text
            return [Draft(kind, text, seed.answer, seed, by)]

        return Job(kind, self._ask(prompts.rewrite(seed.request, how), number), read)

    def translation(self, number: int) -> Job:
        """Ask for a request in another language, and its answer unless that is JSON."""
        said = self._said.make.translation
        assert said is not None, "asked for by the recipe"
        seed = self._seeds[number % len(self._seeds)]
        language = said.languages[(number + number // len(self._seeds)) % len(said.languages)]
        if not said.answers or _is_json(seed.answer):
            turns = prompts.translation(seed.request, language)

            def read(reply: str) -> list[Draft]:
                return [Draft("translation", read_text(reply), seed.answer, seed, language)]

            return Job("translation", self._ask(turns, number), read)

        def read_both(reply: str) -> list[Draft]:
            pair = read_json(reply, Example)
            return [Draft("translation", pair.request, pair.answer, seed, language)]

        turns = prompts.pair_translation(seed.request, seed.answer, language)
        return Job("translation", self._ask(turns, number), read_both)

    def template(self, number: int) -> Job:
        """Fill the template; the teacher answers unless the answer is a template too."""
        said = self._said.make.template
        assert said is not None, "asked for by the recipe"
        values = _combination(said, number, self._seed)
        request = said.request.format(**values)
        like = self._seeds[number % len(self._seeds)] if self._seeds else None
        if said.answer is not None:
            answer = said.answer.format(**values)
            return Job("template", None, lambda _: [Draft("template", request, answer, like)])
        turns = prompts.answer(request, like.instructions if like is not None else "", self._said.task)
        return Job(
            "template",
            self._ask(turns, number),
            lambda reply: [Draft("template", request, read_text(reply), like)],
        )


_KINDS: dict[str, Callable[[Jobs, int], Job]] = {
    "self_instruct": Jobs.self_instruct,
    "persona": Jobs.persona,
    "adversarial": Jobs.adversarial,
    "questions": Jobs.questions,
    "paraphrase": Jobs.paraphrase,
    "style": Jobs.style,
    "translation": Jobs.translation,
    "template": Jobs.template,
}


def _shuffled(items: Sequence[Any], seed: str) -> list[Any]:
    order = list(items)
    random.Random(seed).shuffle(order)
    return order


def _combinations(template: Template) -> int:
    return math.prod(len(values) for values in template.fields.values())


def _combination(template: Template, number: int, seed: int) -> dict[str, str]:
    """Return the values of one filling. Each combination comes once before any comes again, in an order of the seed's."""
    total = _combinations(template)
    step = random.Random(f"{seed}:template").randrange(total) | 1
    while math.gcd(step, total) != 1:
        step += 2
    place = (number * step + seed) % total
    values: dict[str, str] = {}
    for name, choices in template.fields.items():
        place, at = divmod(place, len(choices))
        values[name] = choices[at]
    return values


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


@cache
def _personas() -> tuple[str, ...]:
    return tuple(_file("personas.txt").split("\n")[:-1])


@cache
def _hard_cases() -> tuple[dict[str, str], ...]:
    return tuple(cast("list[dict[str, str]]", yaml.safe_load(_file("hard_cases.yaml"))))


def _file(name: str) -> str:
    return resources.files("burnish.data.synthesize").joinpath(name).read_text(encoding="utf-8")
