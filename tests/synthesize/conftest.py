"""A teacher for each test, and a function that asks it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from teacher import Teacher, teaching

from burnish.core.recipe_augment import Model
from burnish.endpoint.budget import Budget
from burnish.endpoint.cache import Cache
from burnish.endpoint.client import Client
from burnish.endpoint.complete import Asking


@pytest.fixture
def teacher() -> Iterator[Teacher]:
    with teaching() as found:
        yield found


@pytest.fixture
def asking(teacher: Teacher, tmp_path: Path) -> Iterator[Callable[..., Asking]]:
    """Return make(tokens=..., dollars=..., keys of the model): what asks the teacher, with cache and journal in tmp_path."""
    made: list[tuple[Asking, Budget]] = []

    def make(tokens: int | None = 10**9, dollars: float | None = None, tell: Any = None, **settings: Any) -> Asking:
        model = Model.model_validate({"endpoint": teacher.url, "model": "scripted", "timeout_s": 5, **settings})
        budget = Budget(tmp_path / "spent.jsonl", tokens=tokens, dollars=dollars)
        more = {} if tell is None else {"tell": tell}
        asks = Asking(Client(model, backoff_s=0.01), Cache(tmp_path / "cache"), budget, **more)
        made.append((asks, budget))
        return asks

    yield make
    for asks, budget in made:
        asks.close()
        budget.close()
