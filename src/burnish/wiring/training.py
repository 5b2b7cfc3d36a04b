"""What the training stage needs."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.core.artifacts import Adapter, Manifest, Plan
from burnish.core.events import Emit
from burnish.store.files import file_ref
from burnish.store.home import Home
from burnish.wiring.base import Base, load_planned

if TYPE_CHECKING:
    from burnish.core.mix import Blocks
    from burnish.core.rows import TokenRow
    from burnish.data.order import Drawable
    from burnish.train.objective import Objective


def train_rows(manifest: Manifest, home: Home) -> list[TokenRow]:
    """Return the training rows as token ids."""
    from burnish.data.rows import read_token_rows

    return read_token_rows(home.path(manifest.splits["train"].token_file))


def drawable(manifest: Manifest, home: Home, rows: Sequence[TokenRow]) -> Drawable:
    """Return what an order has to know of the training rows. A rendering of an earlier answer is a row of its own."""
    from burnish.data.order import Drawable
    from burnish.data.rows import iterate_messages
    from burnish.data.tables import EARLIER

    said = {
        row.row_id: (row.source_name, row.difficulty)
        for row in iterate_messages(home.path(manifest.splits["train"].file))
    }
    of_rows = [said[row.row_id.partition(EARLIER)[0]] for row in rows]
    return Drawable(
        sources=[source for source, _ in of_rows],
        tokens=[len(row.ids) for row in rows],
        trained=[sum(row.mask) for row in rows],
        difficulties=[difficulty for _, difficulty in of_rows],
    )


def planned_order(plan: Plan, manifest: Manifest, home: Home, rows: Sequence[TokenRow]) -> Blocks | None:
    """Return the order of the run that a plan fixes, or None where it fixes none."""
    from burnish.data.order import order_of

    numbers = plan.train
    if numbers.mix is None:
        return None
    return order_of(numbers.mix, drawable(manifest, home, rows), numbers.epochs, numbers.seed)


def train(plan: Plan, manifest: Manifest, base: Base, home: Home, folder: Path, emit: Emit) -> Adapter:
    """Load the base as planned, train the adapter on it, and name what came out."""
    from burnish.model.lora import attach_lora
    from burnish.train.choose import choose
    from burnish.train.loop import train as train_stage

    model = load_planned(plan, base, emit)
    attach_lora(model, plan.method, seed=plan.train.seed)
    objective = planned_objective(plan, manifest, home)
    paths = choose(plan, objective, model, home=home.root, emit=emit)
    with interruptible() as stop:
        measured = train_stage(plan, objective, model, folder=folder, emit=emit, stop=stop, paths=paths)
    files = folder / "adapter"
    return Adapter(
        parents=(plan.id, manifest.id),
        name=plan.name,
        base=plan.base,
        plan=plan.id,
        manifest=manifest.id,
        method=plan.method,
        fingerprint=manifest.fingerprint,
        weights_file=file_ref(files / "adapter_model.safetensors", home.root),
        config_file=file_ref(files / "adapter_config.json", home.root),
        events_file=file_ref(folder / "events.jsonl", home.root),
        measured=measured,
    )


def planned_objective(plan: Plan, manifest: Manifest, home: Home) -> Objective[Any]:
    """Return what is learned, from the rows of the dataset."""
    from burnish.train import sft

    rows = train_rows(manifest, home)
    return sft.objective(plan.train, rows, planned_order(plan, manifest, home, rows))


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Within the block the first Ctrl-C (or SIGTERM) asks to save and stop; a second one stops at once."""
    asked: list[int] = []

    def handler(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        sys.stderr.write("\nsaving after this step; press Ctrl-C again to stop at once\n")

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
