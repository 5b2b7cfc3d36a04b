"""`burnish data review`: people judge rows that a model wrote, or that `prepare` rejected, in the terminal or on a page."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

from burnish import wiring
from burnish.core.errors import UsageError
from burnish.core.recipe_file import load_recipe
from burnish.data.review.desk import Desk, Show
from burnish.data.review.reviews import Verdict
from burnish.doors.data import open_dataset
from burnish.store.home import Home


def reviewer_name(said: str | None) -> str:
    """Return the reviewer's name: as it is said, else the login name. Raises UsageError where there is none."""
    if said is not None:
        return said
    try:
        return getpass.getuser()
    except (OSError, KeyError) as error:
        raise UsageError("this system has no login name; say who reviews with --reviewer NAME") from error


def desk_of_recipe(recipe_path: Path, overrides: list[str], reviewer: str, show: Show, share: float) -> Desk:
    """Return the desk for what `data synthesize` made. Raises UsageError when nothing has been made yet."""
    from burnish.data.synthesize.pool import read_pool

    said = wiring.synthesize_section(load_recipe(recipe_path, overrides))
    folder = Path(said.into)
    entries = read_pool(folder)
    if not entries:
        raise UsageError(f"{folder} holds no rows to review yet. Make some with: burnish data synthesize {recipe_path}")
    return Desk(folder, entries, reviewer, said.review, show=show, share=share)


def desk_of_rejected(home: Home, dataset: str, reason: str, into: Path, reviewer: str, share: float) -> Desk:
    """Return the desk for rows that `prepare` rejected; what is accepted or edited goes into `into`/rows.jsonl.

    Raises DataError that names the reasons there are when nothing was rejected for this one.
    """
    from burnish.data.review.rejected import fill
    from burnish.data.versions.diff import rejected_rows

    manifest = open_dataset(home, dataset)
    entries = fill(into, rejected_rows(manifest, home.root, None if reason == "any" else reason))
    return Desk(into, entries, reviewer, "one", show="refused", share=share)


def act(desk: Desk, action: Mapping[str, Any]) -> None:
    """Do what a reviewer says on the page. Raises UsageError for what cannot be done."""
    what, row_id, note = action.get("do"), action.get("id"), action.get("note", "")
    texts: Any = action.get("texts")
    if what == "undo":
        desk.undo()
        return
    if not isinstance(row_id, str) or not isinstance(note, str):
        raise UsageError("`id` and `note` must be texts")
    if what == "skip":
        desk.skip(row_id)
    elif what in ("accept", "edit", "reject"):
        if texts is not None and not (
            isinstance(texts, list) and all(isinstance(text, str) for text in cast("list[Any]", texts))
        ):
            raise UsageError("`texts` must be a list of texts")
        desk.judge(row_id, cast(Verdict, what), cast("list[str] | None", texts), note)
    else:
        raise UsageError(f"`do` is {what!r}; it must be accept, edit, reject, skip or undo")


def state(desk: Desk) -> dict[str, Any]:
    """Return what the page shows: how far the review is, and the next row."""
    row = desk.next()
    return {**desk.status(), "row": None if row is None else desk.shown(row), "can_undo": desk.can_undo}


def serve_page(desk: Desk, port: int, tell: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C. Raises ResourceError when the extra `serve` is missing or the port cannot be had."""
    from burnish.core.errors import ResourceError

    try:
        from burnish.review.app import Desk as PageDesk
        from burnish.review.app import run
    except ModuleNotFoundError as error:
        raise ResourceError(
            f'the page needs {error.name}: pip install "burnish[serve]", or review in the terminal.'
        ) from error
    desk.write()
    run(PageDesk(lambda: state(desk), lambda action: act(desk, action)), port, tell)


def judge_one(desk: Desk, row_id: str, verdict: Literal["accept", "reject"], note: str) -> None:
    """Give one verdict, for scripts."""
    desk.judge(row_id, verdict, None, note)
