"""What is trained on, as train, plan and the order of a run need it: conversations, or preference pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from burnish.core.artifacts import Manifest, Plan
from burnish.core.rows import TokenPair, TokenRow, pairs_of
from burnish.store.home import Home

if TYPE_CHECKING:
    from collections.abc import Sequence

    from burnish.core.mix import Blocks, RunOrder
    from burnish.core.packing import Length
    from burnish.core.recipe import Recipe
    from burnish.data.order import Drawable


@dataclass(frozen=True, slots=True)
class Samples:
    """The training split. `rows` are empty where it holds pairs, `pairs` where it holds conversations."""

    rows: Sequence[TokenRow] = ()
    pairs: Sequence[TokenPair] = ()

    @property
    def ids(self) -> list[str]:
        """The id of each sample."""
        return [row.row_id for row in self.rows] or [pair.pair_id for pair in self.pairs]

    @property
    def lengths(self) -> list[Length]:
        """What packing needs of each sample: the tokens that it may share (as key), how many, and how many follow."""
        rows: list[Length] = [(row.ids[: row.prefix], row.prefix, len(row.ids) - row.prefix) for row in self.rows]
        pairs: list[Length] = [
            (pair.prompt, len(pair.prompt), len(pair.chosen) + len(pair.rejected)) for pair in self.pairs
        ]
        return rows or pairs

    @property
    def trained(self) -> list[int]:
        """Tokens with loss of each sample."""
        return [sum(row.mask) for row in self.rows] or [
            sum(pair.chosen_mask or (1,) * len(pair.chosen)) + sum(pair.rejected_mask or (1,) * len(pair.rejected))
            for pair in self.pairs
        ]


def train_samples(manifest: Manifest, home: Home) -> Samples:
    """Read what is trained on as token ids."""
    from burnish.data.rows import iterate_token_rows

    rows = iterate_token_rows(home.path(manifest.splits["train"].token_file))
    return Samples(pairs=tuple(pairs_of(rows))) if manifest.of_pairs else Samples(rows=tuple(rows))


def drawable(manifest: Manifest, home: Home, samples: Samples) -> Drawable:
    """Return what an order has to know of the samples. A rendering of an earlier answer is one by itself."""
    from burnish.data.order import Drawable
    from burnish.data.rows import iterate_messages
    from burnish.data.tables import EARLIER

    said = {
        row.row_id: (row.source_name, row.difficulty)
        for row in iterate_messages(home.path(manifest.splits["train"].file))
    }
    of_samples = [said[row_id.partition(EARLIER)[0]] for row_id in samples.ids]
    return Drawable(
        sources=[source for source, _ in of_samples],
        tokens=[prefix + tail for _, prefix, tail in samples.lengths],
        trained=samples.trained,
        difficulties=[difficulty for _, difficulty in of_samples],
    )


def asked_order(recipe: Recipe, manifest: Manifest, home: Home, samples: Samples) -> RunOrder | None:
    """Return the order of the run that a recipe asks for, or None where it asks for none."""
    from burnish.data.order import is_ordered, run_order

    return run_order(recipe, drawable(manifest, home, samples)) if is_ordered(recipe) else None


def planned_order(plan: Plan, manifest: Manifest, home: Home, samples: Samples) -> Blocks | None:
    """Return the order of the run that a plan fixes, or None where it fixes none."""
    from burnish.data.order import order_of

    numbers = plan.train
    if numbers.mix is None:
        return None
    return order_of(numbers.mix, drawable(manifest, home, samples), numbers.epochs, numbers.seed)
