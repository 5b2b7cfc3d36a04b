"""Verbs about rows that a model writes: data synthesize, data review."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.cli.verbs import AddVerb, port, print_json
from burnish.core.errors import UsageError

if TYPE_CHECKING:
    from burnish.data.review.desk import Desk


def add_verbs(sub: AddVerb) -> None:
    """Add the verbs of this file to `data`."""
    make = sub("synthesize", "let a model write rows, checked and within a budget", _synthesize)
    make.add_argument("recipe", type=Path, help="the recipe, with a section `synthesize`")
    review = sub("review", "accept, edit or reject rows that a model wrote, or that prepare rejected", _review)
    review.add_argument(
        "what", help="a recipe with a section `synthesize`; or a dataset, for its rejected rows: see data show"
    )
    review.add_argument("--reviewer", metavar="NAME", help="who reviews (default: the login name)")
    review.add_argument("--page", action="store_true", help="review on a page in the browser, served on 127.0.0.1")
    review.add_argument("--port", type=port, default=0, help="port of the page (default: a free one)")
    review.add_argument(
        "--show",
        choices=("kept", "refused", "all", "disputed"),
        default="kept",
        help="rows that passed all checks (default), that did not, all, or those on which reviewers disagree",
    )
    review.add_argument(
        "--share", type=share, default=1.0, metavar="SHARE", help="look at this share of the rows, such as 0.05"
    )
    review.add_argument("--into", type=Path, metavar="FOLDER", help="for rejected rows: where what is mended goes")
    review.add_argument("--reason", default="any", help="for rejected rows: those with this reason (default: any)")
    review.add_argument("--id", help="with --verdict: the beginning of a row's id")
    review.add_argument("--verdict", choices=("accept", "reject"), help="say this of the row --id and end, for scripts")
    review.add_argument("--note", default="", help="with --verdict: why")


def _synthesize(options: argparse.Namespace) -> int:
    from burnish import pipeline, wiring
    from burnish.core.recipe_file import load_recipe
    from burnish.store.home import Home
    from burnish.terminal import Terminal
    from burnish.views.synthetic import print_synthesized
    from burnish.wiring.synthesizing import synthesize

    recipe = load_recipe(options.recipe, options.set)
    home = Home(options.home)
    own_rows = wiring.without_synthetic(recipe)
    with Terminal(quiet=options.quiet, verbose=options.verbose) as terminal:
        prepared = None if own_rows is None else pipeline.run(own_rows, home, terminal.emit, until="prepare").manifest
        report = synthesize(recipe, prepared, home, terminal.emit)
    print_json(report) if options.json else print_synthesized(report)
    return 0


def _review(options: argparse.Namespace) -> int:
    import sys

    from burnish.doors.reviewing import judge_one, serve_page
    from burnish.terminal import line
    from burnish.views.review import own_editor, print_status, review_in_terminal

    desk = _desk(options)
    if options.verdict is not None:
        if options.id is None:
            raise UsageError("--verdict needs the row: --id ID")
        judge_one(desk, options.id, options.verdict, options.note)
    elif options.page:
        serve_page(desk, options.port, lambda url: line(f"review at {url}\nCtrl-C ends it"))
    elif not options.json:
        review_in_terminal(desk, sys.stdin, sys.stdout, own_editor() if sys.stdin.isatty() else None)
    desk.write()
    status = desk.status()
    print_json(status) if options.json else print_status(status)
    return 0


def _desk(options: argparse.Namespace) -> Desk:
    from burnish.doors.reviewing import desk_of_recipe, desk_of_rejected, reviewer_name
    from burnish.store.home import Home

    name = reviewer_name(options.reviewer)
    if Path(options.what).suffix in (".yaml", ".yml") or Path(options.what).is_file():
        return desk_of_recipe(Path(options.what), options.set, name, options.show, options.share)
    if options.into is None:
        raise UsageError(
            "rejected rows need a folder for what is mended: --into FOLDER. For synthetic rows give the recipe."
        )
    return desk_of_rejected(Home(options.home), options.what, options.reason, options.into, name, options.share)


def share(text: str) -> float:
    """A share of rows, above 0 and at most 1."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0.0 < found <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is no share; it is a number above 0 and at most 1")
    return found
