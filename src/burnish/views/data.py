"""Datasets as terminal tables."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from burnish.core.artifacts import Manifest
from burnish.core.ids import short
from burnish.data.filters.page import looked_in, not_looked_at
from burnish.store.home import Home
from burnish.terminal import line, table

SHOWN = 160
"""Characters of a text that are shown in a table."""


def print_dataset(
    manifest: Manifest,
    home: Home,
    report: Path | None,
    recall: list[dict[str, Any]],
    findings: dict[str, Any] | None = None,
) -> None:
    """Print sources, ledger, splits, tokens, filters, audit, where the leakage proof is and the recall of personal data."""
    line(f"dataset {manifest.id}")
    table(
        "sources",
        ("file", "rows", "formats"),
        [
            (
                source.path if source.source is None else f"{source.source}: {source.path}",
                f"{source.lines:,}",
                ", ".join(f"{name}: {n:,}" for name, n in source.formats.items()),
            )
            for source in manifest.sources
        ],
    )
    ledger = manifest.ledger
    rejected = [(reason, f"{count:,}") for reason, count in sorted(ledger.rejected.items(), key=lambda item: -item[1])]
    table(
        f"ledger: {ledger.rows_in:,} rows in",
        ("what became of them", "rows"),
        [("kept", f"{ledger.rows_kept:,}"), *rejected],
    )
    if ledger.sources is not None:
        table(
            "by source",
            ("source", "rows in", "kept", *manifest.splits, "with loss"),
            [
                (name, f"{s.rows_in:,}", f"{s.rows_kept:,}", *_of_source(manifest, name))
                for name, s in ledger.sources.items()
            ],
        )
    table(
        "splits",
        ("split", "rows", "tokens", "with loss", "longest"),
        [
            (name, f"{s.rows:,}", f"{s.tokens:,}", f"{s.trained_tokens:,}", f"{s.longest_tokens:,}")
            for name, s in manifest.splits.items()
        ],
    )
    _print_proofs(manifest, home, recall)
    _print_findings(findings or {})
    if report is not None:
        line(f"report: {report}")


def print_twins(found: dict[str, Any]) -> None:
    """Print how alike requests and their swaps were answered, by subject."""
    table(
        f"{found['pairs']:,} requests and the same with {found['swap']} swapped",
        ("subject", "answered alike", "exact", "swapped", "difference", "p"),
        [
            (
                name,
                f"{of['alike']['value']:.1%} ({of['alike']['low']:.1%} to {of['alike']['high']:.1%})",
                f"{of['exact']:.3f}",
                f"{of['exact_swapped']:.3f}",
                f"{of['difference']['difference']:+.3f} ({of['difference']['low']:+.3f} to {of['difference']['high']:+.3f})",
                f"{of['difference']['p']:.3g}",
            )
            for name, of in found["subjects"].items()
        ],
    )
    for name, of in found["subjects"].items():
        for example in of["examples"][:2]:
            line(f"{name}: {_cut(example['prompt'])}")
            line(f"  answered {_cut(example['answer'])}")
            line(f"  swapped  {_cut(example['swapped_answer'])}")


def _print_proofs(manifest: Manifest, home: Home, recall: list[dict[str, Any]]) -> None:
    """Print where tokens went, where the leakage proof is and the recall of personal data."""
    if manifest.account is not None:
        total = manifest.account.total
        line(
            f"tokens in {total.tokens_in:,} = with loss {total.trained:,} + without {total.masked:,} + cut off {total.truncated:,} "
            f"+ dropped {sum(total.dropped.values()):,}"
        )
    if manifest.leakage_file is not None:
        line(f"leakage proof: {home.path(manifest.leakage_file)}")
    if recall:
        lowest = min(recall, key=lambda each: each["low"])
        found, planted = (sum(each[name] for each in recall) for name in ("found", "planted"))
        line(
            f"personal data: {found} of {planted} planted values of {len(recall)} kinds found "
            f"(lowest: {lowest['kind']}, lower limit {lowest['low']:.3f})"
        )


def _print_findings(found: dict[str, Any]) -> None:
    """Print what filters and audit found, where the dataset has them."""
    if found.get("filters"):
        _print_filters(found["filters"])
    audit = found.get("audit")
    if audit:
        named = [group for axis in audit["axes"] for group in axis["groups"] if group["asked"]["rows"]]
        tests = sum(len(axis["tests"]) for axis in audit["axes"])
        line(
            f"audit: {len(named)} groups of people named; {tests} comparisons between groups, {len(audit['splits'])} of splits"
        )
        if others := not_looked_at(audit):
            line(f"  groups are looked for in {', '.join(looked_in(audit))}: {others} are not in these counts")
        for said in audit["findings"]:
            line(f"  {said}")
        for swap in audit["counterfactual"]:
            if swap["with_twin"]:
                line(
                    f"  {swap['swap']} swapped: {swap['with_twin']:,} requests are there both ways, "
                    f"{swap['other_answer']['rows']:,} of them with another answer"
                )


def _print_filters(found: dict[str, Any]) -> None:
    """Print how many rows each filter marks and of which sources, languages, and what is off."""
    marked = [each for each in found["filters"] if each["marked"] and each["action"] != "repaired"]
    if marked:
        table(
            f"filters: {found['rows']:,} rows looked at",
            ("filter", "set to", "marked", "share", "removed", "most in"),
            [
                (
                    each["name"].replace("_", " "),
                    each["action"],
                    f"{each['marked']:,}",
                    f"{each['share']:.1%} ({each['low']:.1%} to {each['high']:.1%})",
                    f"{each['removed']:,}",
                    ", ".join(f"{source['source']}: {source['marked']:,}" for source in each["by_source"][:2]),
                )
                for each in sorted(marked, key=lambda each: -each["marked"])
            ],
        )
        line("ten examples of each: --report FILE, or --json")
    else:
        line(f"filters: nothing is marked in {found['rows']:,} rows")
    if found["not_run"]:
        line(f"filters that are off: {', '.join(found['not_run'])}")
    languages = ", ".join(f"{each['name']} {each['share']:.1%}" for each in found["languages"][:6])
    line(f"languages: {languages}")


def _of_source(manifest: Manifest, name: str) -> tuple[str, ...]:
    """Return the rows of a source in each split, and its training tokens with loss."""
    splits = {split: (about.sources or {}).get(name) for split, about in manifest.splits.items()}
    train = splits.get("train")
    return (*(f"{s.rows:,}" if s else "0" for s in splits.values()), f"{train.trained_tokens:,}" if train else "0")


def print_kept(rows: list[dict[str, Any]]) -> None:
    """Print rows of a split."""
    for row in rows:
        line(f"{short(row['row_id'])}  {row['source']}:{row['line']}")
        line(f"  asked     {_said(row, 'user')}")
        line(f"  answered  {_said(row, 'assistant')}")


def print_rejected(rows: list[dict[str, Any]]) -> None:
    """Print rejected rows."""
    for row in rows:
        detail = f": {_cut(row['detail'])}" if row["detail"] else ""
        line(f"{PurePosixPath(row['file']).name}:{row['line']}  {row['reason']}{detail}")
        if row["row"].strip():
            line(f"  {_cut(row['row'])}")


def print_lineage(found: dict[str, Any]) -> None:
    """Print one row and what was made of it."""
    row = found["row"]
    for message in row["messages"]:
        line(f"{message['role']}: {message['content']}")
    line("")
    span = f", bytes {row['start']} to {row['end']}" if row["end"] else ""
    line(f"id:       {row['row_id']}")
    named = f"{row['source_name']}: " if row["source_name"] else ""
    line(f"from:     {named}{', '.join(found['sources']) or row['source']}, line {row['line']}{span}")
    line(f"split:    {found['split']} of dataset {short(found['dataset'])}")
    line(f"adapters: {', '.join(f'{name} {short(key)}' for key, name in found['adapters'].items()) or 'none'}")
    line(f"releases: {', '.join(found['releases'].values()) or 'none'}")


def print_diff(found: dict[str, Any]) -> None:
    """Print what turns one dataset into another, by reason."""
    line(f"{short(found['a'])} to {short(found['b'])}: {found['same']:,} rows are the same")
    rows = [(kind, reason, f"{n:,}") for kind, of in found["reasons"].items() for reason, n in of.items()]
    rows += [("changed", "same place, other content", f"{len(found['changed']):,}")] if found["changed"] else []
    rows += [("moved", "same content, other split", f"{len(found['moved']):,}")] if found["moved"] else []
    table("differences", ("rows", "why", "how many"), rows or [("none", "", "0")])


def print_forgotten(found: dict[str, Any]) -> None:
    """Print what holds rows of a subject, and what to do next."""
    held, rejected = found["versions"], found["rejected"]
    if not held:
        line("no dataset of this home holds such a row")
    for dataset, rows in held.items():
        places = ", ".join(f"{row['span']['file']}:{row['span']['line']}" for row in rows[:5])
        more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
        line(f"dataset {short(dataset)}: {len(rows)} rows ({places}{more})")
    for dataset, spans in rejected.items():
        first = f"{spans[0]['file']}:{spans[0]['line']}"
        line(f"dataset {short(dataset)} lists {len(spans)} such lines among the rejected ones (the first is {first})")
    for adapter, splits in found["adapters"].items():
        how = "was trained on them" if "train" in splits else "was tested on them"
        line(f"adapter {found['adapter_names'][adapter]} {short(adapter)} {how}")
    for release in found["releases"]:
        line(f"release {short(release)} serves such an adapter")
    for dataset in found["unread"]:
        line(f"dataset {short(dataset)} could not be searched: its files are gone")
    if found["applied"] and held:
        line(
            f"left out from now on: {len(found['leave_out'])} rows ({found['newly_left_out']} newly). Run the recipes again,"
        )
        line(
            "then delete the folders of the datasets and adapters above, call `burnish data prune`, and delete the rows in"
        )
        line("your own files.")
    elif rejected and not held:
        line(
            "nothing was trained on them; they go with the folders of these datasets, and with the rows in your own files"
        )
    elif held:
        line("add --apply to leave these rows out of all datasets that are made from now on")


def _said(row: dict[str, Any], role: str) -> str:
    return _cut(" / ".join(message["content"] for message in row["messages"] if message["role"] == role))


def _cut(text: str) -> str:
    text = " ".join(str(text).split())
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
