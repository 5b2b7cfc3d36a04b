"""The page about a dataset: what went in and out, samples with their loss mask, duplicates side by side, proofs, accounts."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from difflib import SequenceMatcher
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, cast

from markupsafe import Markup

from burnish.core.artifacts import Manifest
from burnish.core.rows import TokenRow
from burnish.core.units import format_count
from burnish.data.cleaning import PERSONAL
from burnish.data.filters.page import audit_section, filters_section
from burnish.data.private.replace import redact
from burnish.data.rows import MessageRow, iterate_messages, iterate_token_rows
from burnish.data.versions.diff import rejected_rows
from burnish.page.plots import Bar, bars, histogram
from burnish.page.svg import HALF_PX, both_widths
from burnish.page.template import render_page
from burnish.text.preview import STYLE, html, runs
from burnish.text.tokenizer import Tokenizer

SAMPLES = 3
"""Rows of each split that are shown with their mask."""
PAIRS = 6
"""Duplicates that are shown beside the row that stays."""
EXAMPLES = 3
"""Rejected rows that are shown of each reason."""
SHOWN_CHARACTERS = 700
_WORD = re.compile(r"\s+|\w+|[^\w\s]+")


class Pair(NamedTuple):
    """A row that went, and the one that stays instead; what each has alone is marked."""

    reason: str
    place: str
    text: Markup
    kept_place: str
    kept_text: Markup


class Example(NamedTuple):
    """A rejected row."""

    place: str
    detail: str
    text: str


def data_report(manifest: Manifest, root: Path, *, name: str, tokenizer: Tokenizer | None = None) -> str:
    """Return a self-contained HTML page about a dataset whose files lie under `root`.

    tokenizer: that of the base model, to show samples with their loss mask; without it the samples are plain. All texts are
    shown without personal data, whatever the dataset itself keeps. Raises DataError when a file of the dataset is damaged.
    """
    rejected = list(rejected_rows(manifest, root))
    filters = filters_section(manifest, root)
    changed: list[dict[str, Any]] = [] if filters is None else filters["repaired"]
    return render_page(
        "burnish.data",
        "report.html.j2",
        name=name,
        manifest=manifest,
        flow=both_widths(lambda width: bars(_flow(manifest), width, "Rows kept, and rejected by reason")),
        changed=_bars(manifest.ledger.changed, "Rows changed, by what was changed"),
        repaired=[each for each in changed if each["name"] != PERSONAL],
        personal=_bars(manifest.personal_data, "Personal data, by type"),
        treated=[each for each in changed if each["name"] == PERSONAL],
        splits=[_split(manifest, split, root, tokenizer) for split in manifest.splits],
        style=Markup(STYLE) if tokenizer is not None else "",
        proof=_proof(manifest, root),
        certificate=certificate_of(manifest, root),
        filters=filters,
        audit=audit_section(manifest, root),
        account=_account(manifest),
        sources=_sources(manifest),
        pairs=list(_pairs(manifest, root, rejected)),
        rejected=_examples(rejected),
        count=format_count,
    )


def certificate_of(manifest: Manifest, root: Path) -> list[dict[str, Any]]:
    """Return recall by kind as the dataset's certificate has it; nothing where there is none."""
    if manifest.certificate_file is None:
        return []
    return json.loads((root / manifest.certificate_file.path).read_text(encoding="utf-8"))["kinds"]


def _flow(manifest: Manifest) -> list[Bar]:
    ledger = manifest.ledger

    def share(count: int) -> str:
        return f"{count:,} ({count / max(1, ledger.rows_in):.1%})"

    lost = sorted(ledger.rejected.items(), key=lambda item: -item[1])
    return [
        Bar("kept", ledger.rows_kept, share(ledger.rows_kept), "kept"),
        *(Bar(reason, count, share(count), "rejected") for reason, count in lost),
    ]


def _bars(counts: Mapping[str, int], label: str) -> Markup | None:
    rows = [
        Bar(name, count, f"{count:,}", "changed") for name, count in sorted(counts.items(), key=lambda item: -item[1])
    ]
    return both_widths(lambda width: bars(rows, width, label)) if rows else None


def _split(manifest: Manifest, name: str, root: Path, tokenizer: Tokenizer | None) -> dict[str, Any]:
    split = manifest.splits[name]
    found = split.lengths
    plot = histogram(found.edges, found.counts, HALF_PX, "tokens", "rows", max(found.counts)) if found.counts else None
    tokens = islice(iterate_token_rows(root / split.token_file.path), SAMPLES)
    messages = islice(iterate_messages(root / split.file.path), SAMPLES)
    if tokenizer is None:
        samples = [Markup("<pre>{}</pre>").format(_shown(_conversation(row))) for row in messages]
    else:
        samples = [_preview(tokenizer, row) for row in tokens]
    return {"name": name, "numbers": split, "plot": plot, "samples": samples}


def _preview(tokenizer: Tokenizer, row: TokenRow) -> Markup:
    # The preview escapes what it shows; what may be personal is replaced before it gets there.
    found = [run._replace(text=redact(run.text).text) for run in runs(tokenizer, row)]
    return Markup(html(found, style=False))


def _proof(manifest: Manifest, root: Path) -> dict[str, Any] | None:
    if manifest.leakage_file is None:
        return None
    return cast(dict[str, Any], json.loads((root / manifest.leakage_file.path).read_text(encoding="utf-8")))


def _sources(manifest: Manifest) -> list[dict[str, Any]]:
    """Return what each named source brought: rows in and kept, what it lost most rows to, and its part of training."""
    train = manifest.splits["train"]
    told: list[dict[str, Any]] = []
    for name, ledger in (manifest.ledger.sources or {}).items():
        own = (train.sources or {})[name]
        told.append(
            {
                "name": name,
                "license": manifest.settings["sources"][name]["license"] or "not said",
                "ledger": ledger,
                "lost": ", ".join(f"{reason}: {n:,}" for reason, n in ledger.rejected.items()) or "none",
                "train": own,
                "share": own.trained_tokens / max(1, train.trained_tokens),
            }
        )
    return told


def _account(manifest: Manifest) -> list[dict[str, Any]]:
    if manifest.account is None:
        return []
    names = told_apart(manifest.account.sources)
    sources = {names[file]: source for file, source in manifest.account.sources.items()}
    largest = sorted(sources.items(), key=lambda item: -item[1].tokens_in)[:20]
    return [
        {"name": name, "of": source, "dropped": sum(source.dropped.values())}
        for name, source in [*largest, ("all", manifest.account.total)]
    ]


def told_apart(files: Iterable[str]) -> dict[str, str]:
    """Return what to call each file: its name, with as many folders before it as tell it from the others."""
    parts = {file: PurePosixPath(file).parts for file in files}
    names: dict[str, str] = {}
    count = 1
    while len(names) < len(parts):
        tails = {file: str(PurePosixPath(*own[-count:])) for file, own in parts.items() if file not in names}
        seen = Counter(tails.values())
        names |= {file: tail for file, tail in tails.items() if seen[tail] == 1 or count >= len(parts[file])}
        count += 1
    return names


def _pairs(manifest: Manifest, root: Path, rejected: Iterable[dict[str, Any]]) -> Iterator[Pair]:
    """Yield some duplicates beside the rows that stay; near ones first, since exact ones show nothing."""
    found = [record for record in rejected if str(record["detail"]).startswith("of ") and record["row"]]
    names = Counter(PurePosixPath(source.path).name for source in manifest.sources)
    # Rows name their file without its folder: where several are called so, which row stays is not known here.
    found = [record for record in found if names[_kept_place(record)[0]] < 2]
    found.sort(key=lambda record: "semantic" not in record["reason"] and "near" not in record["reason"])
    wanted = {_kept_place(record): record for record in found[: 20 * PAIRS]}
    shown = 0
    for split in manifest.splits.values():
        for row in iterate_messages(root / split.file.path):
            record = wanted.pop((row.source, row.line), None)
            if record is None or shown == PAIRS:
                continue
            shown += 1
            gone, stays = _shown(_conversation_of(record["row"])), _shown(_conversation(row))
            yield Pair(
                record["reason"] + "".join(record["detail"].partition(", similarity")[1:]),
                f"{PurePosixPath(record['file']).name}:{record['line']}",
                _marked(gone, stays),
                f"{row.source}:{row.line}",
                _marked(stays, gone),
            )


def _marked(text: str, other: str) -> Markup:
    """Return a text with the words marked that the other does not have there."""
    words, others = _WORD.findall(text), _WORD.findall(other)
    parts: list[Markup | str] = []
    for kind, start, end, _, _ in SequenceMatcher(None, words, others, autojunk=False).get_opcodes():
        part = "".join(words[start:end])
        parts.append(part if kind == "equal" or not part else Markup('<span class="extra">{}</span>').format(part))
    return Markup("").join(parts)


def _kept_place(record: dict[str, Any]) -> tuple[str, int]:
    file, _, line = str(record["detail"]).removeprefix("of ").partition(", similarity")[0].rpartition(":")
    return PurePosixPath(file).name, int(line)


def _examples(rejected: Iterable[dict[str, Any]]) -> dict[str, list[Example]]:
    found: dict[str, list[Example]] = {}
    for record in rejected:
        of = found.setdefault(record["reason"], [])
        if len(of) < EXAMPLES:
            place = f"{PurePosixPath(record['file']).name}:{record['line']}"
            of.append(Example(place, record["detail"], _shown(_conversation_of(record["row"]))))
    return found


def _conversation(row: MessageRow) -> str:
    said = [f"{message['role']}: {message['content']}" for message in row.messages if message["role"] != "system"]
    if row.rejected is not None:
        said += [f"rejected: {row.rejected[-1]['content']}"]
    return "\n".join(said)


def _conversation_of(text: str) -> str:
    """The conversation in a rejected row where it is one, else the row as it is."""
    try:
        messages = json.loads(text)["messages"]
        return "\n".join(
            f"{message['role']}: {message['content']}" for message in messages if message["role"] != "system"
        )
    except (ValueError, KeyError, TypeError):
        return text


def _shown(text: str) -> str:
    clean = redact(text).text
    return clean if len(clean) <= SHOWN_CHARACTERS else clean[: SHOWN_CHARACTERS - 3] + "..."
