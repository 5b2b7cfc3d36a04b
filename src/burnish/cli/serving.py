"""Verbs that talk: serve and chat."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from burnish.cli.verbs import AddVerb, port, print_json
from burnish.core.errors import UsageError


def add_verbs(verb: AddVerb) -> None:
    """Add the verbs of this file."""
    serve = verb(
        "serve",
        "serve every release, and the base: keys and limits, OpenAI-compatible API, chat page",
        _serve,
    )
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    serve.add_argument("--port", type=port, default=8731, help="port to listen on (default: 8731)")
    serve.add_argument(
        "--upstream", metavar="URL", help="pass requests on to another engine, such as http://127.0.0.1:8000"
    )
    serve.add_argument(
        "--vllm",
        type=Path,
        metavar="PYTHON",
        help="answer by vLLM: the interpreter of the environment it is installed in",
    )
    serve.add_argument(
        "--no-graphs",
        dest="graphs",
        action="store_false",
        help="on a GPU, launch every kernel of a decoding step instead of replaying CUDA graphs",
    )
    serve.add_argument("--config", type=Path, metavar="FILE", help="settings in YAML (docs/gateway.md)")
    serve.add_argument(
        "--database", metavar="URL", help="postgresql://... (default: a SQLite file in the home; $BURNISH_DATABASE)"
    )
    serve.add_argument("--redis", metavar="URL", help="count limits in redis://... instead of the database")
    chat = verb("chat", "talk to a release in the terminal, and to its base", _chat)
    chat.add_argument("name", help="alias of a release, such as flight-search")
    chat.add_argument("--once", metavar="TEXT", help="answer this one message and leave")
    chat.add_argument(
        "--url", metavar="URL", help="talk through a gateway that runs, such as http://127.0.0.1:8731 ($BURNISH_KEY)"
    )
    chat.add_argument("--date", metavar="YYYY-MM-DD", help="the day of the conversation (default: today)")


def _serve(options: argparse.Namespace) -> int:
    from burnish.doors.gateway import ServeWish, Started, serve, started_json
    from burnish.store.home import Home
    from burnish.terminal import Terminal

    if options.vllm is not None and options.upstream is not None:
        raise UsageError("--vllm starts an engine and --upstream uses one that runs: give one of them")
    if not options.graphs and (options.vllm is not None or options.upstream is not None):
        raise UsageError("--no-graphs is about the own engine, and another one was asked for: leave it out")
    wish = ServeWish(
        options.host, options.port, options.config, options.upstream, options.database, options.redis, options.vllm,
        options.graphs,
    )  # fmt: skip

    def tell(started: Started) -> None:
        if options.json:
            print_json(started_json(started))
        elif started.admin_key is not None:
            sys.stdout.write(f"admin key (shown this once): {started.admin_key}\n")
        sys.stdout.flush()

    with Terminal(quiet=options.quiet, verbose=options.verbose) as terminal:
        serve(Home(options.home), wish, terminal.emit, tell)
    return 0


def _chat(options: argparse.Namespace) -> int:
    from burnish.doors.serving import open_chat, open_remote_chat
    from burnish.store.home import Home
    from burnish.terminal import Terminal

    if options.once is None and options.json:
        raise UsageError("--json answers one message: add --once TEXT")
    home = Home(options.home)
    if options.url is not None:
        chat = open_remote_chat(options.name, options.url, home, options.date)
    else:
        with Terminal(quiet=options.quiet, verbose=options.verbose) as terminal:
            chat = open_chat(options.name, home, options.date, terminal.emit)
    try:
        if options.once is None:
            return chat.talk(sys.stdin, sys.stdout)
        answers = chat.once(options.once)
    finally:
        chat.close()
    print_json(answers) if options.json else sys.stdout.write(f"{answers['answer']}\n")
    return 0
