"""What a rendered row must be before anything is trained on it, and how a row is shortened without breaking that.

Trainers that skip these checks report a loss of 0.0 and go on: rows whose answer was cut away have no trained token, and an
answer without its stop token in the loss makes a model that never stops.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from burnish.core.errors import DataError
from burnish.text.render import Rendered
from burnish.text.tokenizer import Tokenizer


class TokenIds(Protocol):
    """A row as ids: a Rendered, or a row read back from a dataset."""

    @property
    def ids(self) -> Sequence[int]:
        """Token ids."""
        ...

    @property
    def mask(self) -> Sequence[int]:
        """1 where the token has loss."""
        ...

    @property
    def prefix(self) -> int:
        """Leading tokens of the system turn."""
        ...

    @property
    def prompt(self) -> int:
        """Tokens before the last answer."""
        ...


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over rows, in tokens; the longest is one row's."""

    rows: int
    tokens: int
    trained_tokens: int
    longest_tokens: int

    @property
    def trained_share(self) -> float:
        """Trained tokens of all tokens, between 0 and 1; 0 without any token."""
        return self.trained_tokens / self.tokens if self.tokens else 0.0


def answer_spans(mask: Sequence[int]) -> list[tuple[int, int]]:
    """Where runs of trained tokens begin and end."""
    edges = [at for at in range(len(mask)) if mask[at] != (mask[at - 1] if at else 0)]
    if len(edges) % 2:
        edges.append(len(mask))
    return list(zip(edges[::2], edges[1::2], strict=True))


def check_row(tokenizer: Tokenizer, row: TokenIds) -> None:
    """Raise DataError where a row begins twice, has no or only trained tokens, or trains an answer without its stop token."""
    ids, mask = row.ids, row.mask
    if len(ids) != len(mask):
        raise DataError(f"the row has {len(ids)} tokens and a loss mask of {len(mask)}: both must be equally long")
    if len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_id:
        raise DataError(f"the row begins with {tokenizer.token(ids[0])} twice; a server would send it once")
    if not any(mask):
        raise DataError(
            f"none of the row's {len(ids)} tokens has loss, so it teaches nothing: its answer is missing or was cut away"
        )
    if all(mask):
        raise DataError(f"all {len(ids)} tokens of the row have loss: nothing is asked before the answer")
    for start, end in answer_spans(mask):
        if ids[end - 1] not in tokenizer.stop_ids:
            stops = ", ".join(sorted(tokenizer.token(stop) for stop in tokenizer.stop_ids))
            raise DataError(
                f"the answer at tokens {start} to {end - 1} has no stop token in its loss: it ends with "
                f"{tokenizer.token(ids[end - 1])!r}, allowed is {stops}. A model trained on it would never stop."
            )


def check_dataset(rows: Iterable[TokenIds], what: str = "the train split") -> Totals:
    """Sum up rows. Raises DataError where there is none, or none or all of their tokens have loss."""
    count = tokens = trained = longest = 0
    for row in rows:
        count += 1
        tokens += len(row.ids)
        trained += sum(row.mask)
        longest = max(longest, len(row.ids))
    if not count:
        raise DataError(f"{what} has no rows. See the ledger for what was rejected, and why.")
    if trained in (0, tokens):
        how = "None" if not trained else "All"
        raise DataError(
            f"{how} of the {tokens:,} tokens of {what} ({count:,} rows) have loss: there would be nothing to learn. "
            "Look at a row with its mask, and at the chat template."
        )
    return Totals(count, tokens, trained, longest)


def shorten(row: Rendered, limit: int) -> Rendered:
    """Return the row up to its last answer that ends within `limit` tokens: later turns are left out, no answer is cut.

    Raises DataError where not even the first answer fits, with the length it would need.
    """
    if len(row.ids) <= limit:
        return row
    spans = answer_spans(row.mask)
    fitting = [span for span in spans if span[1] <= limit]
    if not fitting:
        need = spans[0][1] if spans else len(row.ids)
        raise DataError(
            f"cut to {limit} tokens, the row would have no whole answer left to learn: its first answer ends at token {need:,}. "
            f"Set prepare.max_tokens to {need} or more, shorten the request, or reject the row."
        )
    start, end = fitting[-1]
    return Rendered(row.ids[:end], row.mask[:end], row.prefix, start)
