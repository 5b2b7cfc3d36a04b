"""Verbs about datasets: data show, rows, diff, forget, export."""

from __future__ import annotations

import argparse
from pathlib import Path

from burnish.cli import synthetic
from burnish.cli.verbs import AddVerb, Run, add_common, print_json

DATASET = "a dataset: the beginning of its id, or latest"


def add_verbs(verb: AddVerb) -> None:
    """Add the verbs of this file."""
    data = verb("data", "look into datasets, compare them, find what they hold of somebody", _show)
    verbs = data.add_subparsers(dest="data_verb", metavar="verb", required=True)

    def sub(name: str, summary: str, run: Run) -> argparse.ArgumentParser:
        parser = verbs.add_parser(name, help=summary, description=summary[:1].upper() + summary[1:] + ".")
        add_common(parser, "within")
        parser.set_defaults(run=run)
        return parser

    synthetic.add_verbs(sub)
    show = sub("show", "print what a dataset is made of, and where its tokens went", _show)
    show.add_argument("dataset", nargs="?", default="latest", help=DATASET)
    show.add_argument("--report", type=Path, metavar="FILE", help="write the HTML page about it here too")
    rows = sub("rows", "print rows of a dataset, or those that were rejected", _rows)
    rows.add_argument("dataset", nargs="?", default="latest", help=DATASET)
    rows.add_argument("--split", help="rows of this split (default: train)")
    rows.add_argument("--reason", help="rejected rows with this reason, or all of them with: any")
    rows.add_argument("--id", help="the row whose id begins so, with what became of it")
    rows.add_argument("--limit", type=int, default=20, help="most rows to print (default: 20)")
    diff = sub("diff", "compare two datasets: rows added, removed, changed, moved, by reason", _diff)
    diff.add_argument("a", help="the older dataset: the beginning of its id")
    diff.add_argument("b", nargs="?", default="latest", help="the newer one (default: latest)")
    forget = sub("forget", "say what holds rows of a person or a document, and leave them out from now on", _forget)
    forget.add_argument(
        "subject", help="a name, address or number; with --document a file, or file:line; with --row an id"
    )
    what = forget.add_mutually_exclusive_group()
    what.add_argument(
        "--document", action="store_true", help="the subject is a file rows came from, or one of its lines"
    )
    what.add_argument("--row", action="store_true", help="the subject is the id of a row, or its beginning")
    forget.add_argument(
        "--apply",
        action="store_true",
        help="leave these rows out of every dataset that is made in this home from now on",
    )
    swap = sub("swap", "write rows about somebody else: gendered words or names swapped, as a task to evaluate", _swap)
    swap.add_argument("file", type=Path, help="the jsonl file to write, for evaluate.tasks of a recipe")
    swap.add_argument("dataset", nargs="?", default="latest", help=DATASET)
    swap.add_argument("--what", choices=("gender", "names"), default="gender", help="what is swapped (default: gender)")
    swap.add_argument("--split", default="test", help="rows of this split (default: test)")
    twins = sub("twins", "compare what a specialist answers with what it answers about somebody else", _twins)
    twins.add_argument("report", nargs="?", default="latest", help="an evaluation: the beginning of its id, or latest")
    twins.add_argument(
        "--what", choices=("gender", "names"), default="gender", help="what was swapped (default: gender)"
    )
    reveal = sub("reveal", "print a text with the tokens of this home's vault turned back into their values", _reveal)
    reveal.add_argument("file", type=Path, help="a file of text, or - for standard input")
    sub("prune", "remove the files that no dataset of this home names any more", _prune)
    export = sub("export", "write a dataset for other tools", _export)
    export.add_argument("dataset", nargs="?", default="latest", help=DATASET)
    export.add_argument("folder", type=Path, help="a folder that is made, or one with an earlier export")
    export.add_argument(
        "--to",
        choices=("datasets", "jsonl", "dvc"),
        default="datasets",
        help="Parquet for Hugging Face datasets (default), JSON Lines, or Parquet with DVC's pointer",
    )


def _show(options: argparse.Namespace) -> int:
    from burnish.doors.data import findings, open_dataset, personal_recall, write_data_report
    from burnish.store.home import Home
    from burnish.views.data import print_dataset

    home = Home(options.home)
    manifest = open_dataset(home, options.dataset)
    if options.report is not None:
        write_data_report(home, manifest, options.report)
    if options.json:
        print_json({"id": manifest.id, **manifest.model_dump(mode="json"), **findings(home, manifest)})
    else:
        print_dataset(manifest, home, options.report, personal_recall(home, manifest), findings(home, manifest))
    return 0


def _swap(options: argparse.Namespace) -> int:
    from burnish.doors.data import open_dataset, write_swapped
    from burnish.store.home import Home
    from burnish.terminal import line

    home = Home(options.home)
    rows = write_swapped(home, open_dataset(home, options.dataset), options.split, options.what, options.file)
    done = {"written": str(options.file), "rows": rows}
    print_json(done) if options.json else line(f"wrote {rows} rows to {options.file}")
    return 0


def _twins(options: argparse.Namespace) -> int:
    from burnish.doors.data import compare_twins
    from burnish.store.home import Home
    from burnish.views.data import print_twins

    found = compare_twins(Home(options.home), options.report, options.what)
    print_json(found) if options.json else print_twins(found)
    return 0


def _reveal(options: argparse.Namespace) -> int:
    import sys

    from burnish.doors.data import revealed
    from burnish.store.home import Home

    text = sys.stdin.read() if str(options.file) == "-" else options.file.read_text(encoding="utf-8")
    found = revealed(Home(options.home), text)
    if options.json:
        print_json({"text": found})
    else:
        sys.stdout.write(found)
    return 0


def _rows(options: argparse.Namespace) -> int:
    from burnish.doors.data import find_row, kept_rows, open_dataset, rejected_rows
    from burnish.store.home import Home
    from burnish.views.data import print_kept, print_lineage, print_rejected

    home = Home(options.home)
    manifest = open_dataset(home, options.dataset)
    if options.id is not None:
        lineage = find_row(home, manifest, options.id)
        print_json(lineage) if options.json else print_lineage(lineage)
    elif options.reason is not None:
        rejected = rejected_rows(home, manifest, options.reason, options.limit)
        print_json(rejected) if options.json else print_rejected(rejected)
    else:
        kept = kept_rows(home, manifest, options.split or "train", options.limit)
        print_json(kept) if options.json else print_kept(kept)
    return 0


def _diff(options: argparse.Namespace) -> int:
    from burnish.doors.data import compare, open_dataset
    from burnish.store.home import Home
    from burnish.views.data import print_diff

    home = Home(options.home)
    found = compare(home, open_dataset(home, options.a), open_dataset(home, options.b))
    print_json(found) if options.json else print_diff(found)
    return 0


def _forget(options: argparse.Namespace) -> int:
    from burnish.doors.data import forget
    from burnish.store.home import Home
    from burnish.views.data import print_forgotten

    kind = "document" if options.document else "row" if options.row else "text"
    found = forget(Home(options.home), options.subject, kind, apply=options.apply)
    print_json(found) if options.json else print_forgotten(found)
    return 0


def _prune(options: argparse.Namespace) -> int:
    from burnish.core.units import format_bytes
    from burnish.doors.data import prune
    from burnish.store.home import Home
    from burnish.terminal import line

    gone = prune(Home(options.home))
    print_json(gone) if options.json else line(f"{gone['files']} files removed, {format_bytes(gone['bytes'])}")
    return 0


def _export(options: argparse.Namespace) -> int:
    from burnish.doors.data import export, open_dataset
    from burnish.store.home import Home
    from burnish.terminal import line

    home = Home(options.home)
    written = export(home, open_dataset(home, options.dataset), options.folder, options.to)
    print_json({"written": written}) if options.json else line("\n".join(f"wrote {path}" for path in written))
    return 0
