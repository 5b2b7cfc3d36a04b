"""Verbs about API keys: keys create, list, show, limit, rotate, revoke, audit."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation

from burnish.cli.verbs import AddVerb, Run, add_common, print_json

UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
LIMITS = (
    ("--rpm", "requests_per_minute", "requests in any 60 seconds"),
    ("--tpm", "tokens_per_minute", "tokens in any 60 seconds, prompt and answer"),
    ("--concurrency", "concurrency", "requests at once"),
    ("--tokens-per-day", "tokens_per_day", "tokens a day (UTC)"),
    ("--tokens-per-month", "tokens_per_month", "tokens a month (UTC)"),
)


def add_verbs(verb: AddVerb) -> None:
    """Add the verbs of this file."""
    keys = verb("keys", "make, list, limit, rotate and revoke the API keys of the gateway", _list)
    verbs = keys.add_subparsers(dest="keys_verb", metavar="verb", required=True)

    def sub(name: str, summary: str, run: Run) -> argparse.ArgumentParser:
        parser = verbs.add_parser(name, help=summary, description=summary[:1].upper() + summary[1:] + ".")
        add_common(parser, "within")
        parser.add_argument(
            "--database", metavar="URL", help="postgresql://... (default: a SQLite file in the home; $BURNISH_DATABASE)"
        )
        parser.set_defaults(run=run)
        return parser

    create = sub("create", "make a key and print it; it cannot be printed again", _create)
    create.add_argument("name", help="what the key is for, such as billing-bot")
    create.add_argument(
        "--scope", default="user",
        help="user (asks models; default), chat (the chat page), metrics (reads /metrics), admin (everything)",
    )  # fmt: skip
    create.add_argument("--expires", type=lifetime, metavar="TIME", help="such as 12h, 30d (default: never)")
    _add_limits(create)
    sub("list", "list the keys", _list)
    show = sub("show", "print a key's limits and what it has used by day and month", _show)
    limit = sub("limit", "change limits and models of a key; what is not named stays", _limit)
    _add_limits(limit, change=True)
    rotate = sub("rotate", "make a new key in place of one; both count on the same limits", _rotate)
    rotate.add_argument(
        "--grace", type=duration, default=86400, metavar="TIME", help="how long the old one stays valid (default: 1d)"
    )
    revoke = sub("revoke", "refuse a key from now on", _revoke)
    for parser in (show, limit, rotate, revoke):
        parser.add_argument("id", help="the key's id: the 12 characters after bk_")
    audit = sub("audit", "check the audit's seals and print what was done to keys, routes and the server", _audit)
    audit.add_argument("--limit", type=int, default=50, help="most rows to print (default: 50)")


def _add_limits(parser: argparse.ArgumentParser, *, change: bool = False) -> None:
    """Add the flags of limits. change: what is not given leaves nothing in the options, and `none` takes a limit away."""
    default = argparse.SUPPRESS if change else None
    more = "; none: no limit" if change else ""
    for flag, name, help_text in LIMITS:
        kind = or_none(positive) if change else positive
        parser.add_argument(flag, dest=name, type=kind, default=default, metavar="N", help=help_text + more)
    for period in ("day", "month"):
        parser.add_argument(
            f"--usd-per-{period}", dest=f"nano_usd_per_{period}", type=or_none(nano_usd) if change else nano_usd,
            default=default, metavar="USD", help=f"dollars a {period} (UTC), by the prices of `burnish serve --config`{more}",
        )  # fmt: skip
    parser.add_argument(
        "--models", type=lambda text: text.split(","), default=default, metavar="A,B*",
        help="models it may ask for; * is all" if change else "models it may ask for (default: all)",
    )  # fmt: skip


def or_none(kind: Callable[[str], int]) -> Callable[[str], int | None]:
    """Return a reader of a flag that also takes `none`."""
    return lambda text: None if text == "none" else kind(text)


def duration(text: str) -> int:
    """A time such as 90s, 15m, 12h, 30d or 2w, in seconds."""
    found = re.fullmatch(r"([0-9]{1,6})([smhdw])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write 90s, 15m, 12h, 30d or 2w")
    return int(found.group(1)) * UNITS_S[found.group(2)]


def lifetime(text: str) -> int:
    """A time that is not over at once, in seconds."""
    seconds = duration(text)
    if seconds < 1:
        raise argparse.ArgumentTypeError(
            f"a key that expires after {text} could never be used; write 90s, 15m, 12h, 30d or 2w"
        )
    return seconds


def positive(text: str) -> int:
    """A whole number of 1 or more."""
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no limit; it is a whole number of 1 or more")
    return int(text)


def nano_usd(text: str) -> int:
    """Dollars, in billionths."""
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal(-1)
    if not amount.is_finite() or not 0 < amount <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text!r} is no amount of dollars up to a million; write 5 or 0.25")
    return int(amount * 1_000_000_000) or 1


def _create(options: argparse.Namespace) -> int:
    from burnish.doors.keys import create_key
    from burnish.terminal import line

    made = create_key(options)
    print_json(made) if options.json else line(
        f"{made['key']}\nThis is the only time the key is shown. Its id is {made['id']}."
    )
    return 0


def _list(options: argparse.Namespace) -> int:
    from burnish.doors.keys import list_keys
    from burnish.views.keys import print_keys

    keys = list_keys(options)
    print_json(keys) if options.json else print_keys(keys)
    return 0


def _show(options: argparse.Namespace) -> int:
    from burnish.doors.keys import show_key
    from burnish.views.keys import print_key

    key = show_key(options)
    print_json(key) if options.json else print_key(key)
    return 0


def _limit(options: argparse.Namespace) -> int:
    from burnish.doors.keys import limit_key
    from burnish.views.keys import print_key

    key = limit_key(options)
    print_json(key) if options.json else print_key(key)
    return 0


def _rotate(options: argparse.Namespace) -> int:
    from burnish.doors.keys import rotate_key
    from burnish.terminal import line

    made = rotate_key(options)
    print_json(made) if options.json else line(
        f"{made['key']}\nThis is the only time the key is shown. Its id is {made['id']}; "
        f"{options.id} stays valid until {made['old_valid_until']}."
    )
    return 0


def _revoke(options: argparse.Namespace) -> int:
    from burnish.doors.keys import revoke_key
    from burnish.terminal import line

    key = revoke_key(options)
    print_json(key) if options.json else line(f"{key['id']} ({key['name']}) is refused since {key['revoked']}")
    return 0


def _audit(options: argparse.Namespace) -> int:
    from burnish.doors.keys import read_audit
    from burnish.views.keys import print_audit

    rows = read_audit(options)
    print_json(rows) if options.json else print_audit(rows)
    return 0
