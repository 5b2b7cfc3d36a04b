"""Which format a file's rows have: counted over a sample, with a sentence that says what was seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from burnish.data.formats.keys import PAIRS
from burnish.data.formats.refusal import RowRefused
from burnish.data.formats.rows import BARE, Value, read_any
from burnish.data.formats.transcripts import TRANSCRIPTS
from burnish.data.record import Record


@dataclass(frozen=True, slots=True)
class Detection:
    """What a sample of rows looks like.

    format:     of most rows, or None when no row has a known one.
    confidence: 0 to 1, the share of rows that can be read as it.
    why:        one sentence for a person: what was counted, and why the other rows do not count.
    runner_up:  the second most frequent format, or None.
    counts:     rows by format.
    refused:    rows by the reason for which they cannot be read.
    """

    format: str | None
    confidence: float
    why: str
    runner_up: str | None
    counts: dict[str, int]
    refused: dict[str, int]


def detect(values: Sequence[Value]) -> Detection:
    """Tell the format of a sample of rows. Mixed files are normal: each row is read by itself."""
    formats: Counter[str] = Counter()
    seen: dict[str, Counter[str]] = {}
    refused: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for value in values:
        try:
            record = read_any(value)
        except RowRefused as refusal:
            refused[refusal.reason] += 1
            examples.setdefault(refusal.reason, refusal.detail)
            continue
        name: str = record.meta["format"]
        formats[name] += 1
        seen.setdefault(name, Counter())[_evidence(record)] += 1
    ranked = formats.most_common()
    best, count = ranked[0] if ranked else (None, 0)
    return Detection(
        format=best,
        confidence=count / len(values) if values else 0.0,
        why=_why(len(values), ranked, seen, refused, examples),
        runner_up=ranked[1][0] if len(ranked) > 1 else None,
        counts=dict(ranked),
        refused=dict(refused.most_common()),
    )


def _why(
    rows: int,
    ranked: list[tuple[str, int]],
    seen: dict[str, Counter[str]],
    refused: Counter[str],
    examples: dict[str, str],
) -> str:
    if not rows:
        return "There are no rows to look at."
    parts: list[str] = []
    if ranked:
        best, count = ranked[0]
        parts.append(
            f"{count:,} of {rows:,} {'row has' if rows == 1 else 'rows have'} {seen[best].most_common(1)[0][0]}"
        )
    else:
        parts.append(f"none of {rows:,} {'row' if rows == 1 else 'rows'} has a known format")
    parts += [f"{count:,} {'is' if count == 1 else 'are'} {name}" for name, count in ranked[1:4]]
    for reason, count in refused.most_common(2):
        detail = f" ({examples[reason][:120]})" if examples[reason] else ""
        parts.append(f"{count:,} cannot be read: {reason}{detail}")
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _evidence(record: Record) -> str:
    """What in a row shows its format, in the words of the row itself."""
    name: str = record.meta["format"]
    layout = cast(dict[str, Any], record.meta.get("layout", {}))
    if name in TRANSCRIPTS:
        return f"`{layout.get('key', 'text')}` with {TRANSCRIPTS[name].starts[0]} turns"
    if name in ("messages", "sharegpt"):
        return _turns(record, name, layout)
    if name in ("text", "document"):
        return f"`{layout.get('key', 'text')}` alone"
    if name == "preference":
        whole = " that hold the whole conversation" if layout.get("whole") else ""
        better, worse, *prompt = layout["keys"]
        return f"{''.join(f'`{key}`, ' for key in prompt)}`{better}` and `{worse}`{whole}"
    asked, answered = layout.get("keys") or PAIRS.get(name, PAIRS["prompt-completion"])
    if name == "kto":
        return f"`{asked}`, `{answered}` and a `label` of true or false"
    context = f", `{layout['context_key']}`" if "context_key" in layout else ""
    return f"`{asked}`{context} and `{answered}`"


def _turns(record: Record, name: str, layout: dict[str, Any]) -> str:
    key = layout.get("key", "conversations" if name == "sharegpt" else "messages")
    names = layout.get("names", ("from", "value") if name == "sharegpt" else ("role", "content"))
    tools = " and tools" if record.tools or any("tool_calls" in message for message in record.messages) else ""
    where = "a list" if key == BARE else f"`{key}`"
    return f"{where} with {'/'.join(names)} turns{tools}"
