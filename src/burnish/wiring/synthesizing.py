"""What making synthetic rows needs: the functions that ask over HTTP, with their cache and budget, and the rows they start from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from burnish.core.artifacts import Manifest
from burnish.core.events import Emit, Note, Progress
from burnish.core.ids import content_id
from burnish.core.recipe import Recipe
from burnish.core.recipe_augment import LOOPBACK, Model, Synthesize
from burnish.core.units import format_seconds
from burnish.store.home import Home
from burnish.wiring.own_rows import synthesize_section
from burnish.wiring.preparing import sentence_embedder_for

if TYPE_CHECKING:
    from burnish.endpoint.budget import Budget
    from burnish.endpoint.complete import Asking

SPENT = "spent.jsonl"
"""The journal of the budget, beside what was made with it."""


def synthesize(recipe: Recipe, manifest: Manifest | None, home: Home, emit: Emit) -> dict[str, Any]:
    """Make synthetic rows, and return the report. manifest: the dataset of the recipe's own rows, where it has any.

    Raises UsageError when a key is missing or wrong, ResourceError when the endpoint does not answer, StoreError when another
    process is at work on the same folder.
    """
    from burnish.data.synthesize.run import Models, material_of
    from burnish.data.synthesize.run import synthesize as make
    from burnish.endpoint.budget import Budget
    from burnish.endpoint.cache import Cache

    said = synthesize_section(recipe)
    folder = Path(said.into)
    with home.working("synthesize", content_id(str(folder.resolve()))):
        budget = Budget(folder / SPENT, tokens=said.budget.tokens, dollars=said.budget.dollars)
        cache = Cache(home.root / "synthesize" / "cache")
        teacher = _asking(said.teacher, cache, budget, emit)
        judge = teacher if said.grader == said.teacher else _asking(said.grader, cache, budget, emit)
        before = budget.spent
        try:
            material = material_of(recipe, said, manifest, home.root)
            embed = sentence_embedder_for(recipe, emit)

            def spent() -> dict[str, Any]:
                return _spent(said, budget, before.tokens, teacher, judge)

            return make(
                recipe,
                material,
                Models(teacher.complete, judge.complete, embed),
                spent=spent,
                tell=lambda text: emit(Note("synthesize", text)),
            )
        finally:
            for asking in {id(each): each for each in (teacher, judge)}.values():
                asking.close()
            budget.close()


def _asking(model: Model, cache: Any, budget: Budget, emit: Emit) -> Asking:
    from burnish.endpoint.client import Client
    from burnish.endpoint.complete import Asking

    address = urlsplit(model.endpoint)
    if model.key_variable is not None and address.scheme == "http" and address.hostname not in LOOPBACK:
        emit(
            Note(
                "synthesize",
                f"The key for {model.endpoint} goes over the network unencrypted; use https where you can.",
            )
        )
    what = f"asking {model.model}"

    def tell(done: int, total: int, left_s: float | None) -> None:
        left = "" if left_s is None else f", {format_seconds(left_s)} left"
        emit(Progress("synthesize", what, done, total, f"replies ({budget.spent.tokens:,} tokens spent{left})"))

    return Asking(Client(model), cache, budget, tell, lambda text: emit(Note("synthesize", text)))


def _spent(said: Synthesize, budget: Budget, before: int, teacher: Asking, judge: Asking) -> dict[str, Any]:
    """Return what was asked and paid, in this run and in all."""
    everyone = [teacher] if judge is teacher else [teacher, judge]
    asked = [each.asked for each in everyone]
    spent = budget.spent
    troubles: dict[str, int] = {}
    for each in asked:
        for trouble, count in each.troubles.items():
            troubles[trouble] = troubles.get(trouble, 0) + count
    return {
        "requests": {
            "asked": sum(each.requests for each in asked),
            "from_the_cache": sum(each.cached for each in asked),
            "answered": sum(each.sent for each in asked),
            "failed": sum(each.failed for each in asked),
            "troubles": troubles,
        },
        "spent": {
            "tokens": spent.tokens,
            "tokens_in_this_run": spent.tokens - before,
            "dollars": spent.dollars,
            "tokens_of_requests_without_an_end": spent.unknown,
        },
        "budget": said.budget.model_dump(mode="json"),
    }
