"""What the pages tell people to type is real: targets exist, commands parse, and on the demo's home they run."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from burnish import wiring
from burnish.cli import build_parser
from burnish.core.recipe_file import load_recipe

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/start.md", "docs/gateway.md")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.S | re.M)


def commands(page: str) -> list[list[str]]:
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_and_every_burnish_command_of_a_page_exists(page: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    found = commands(page)
    assert found
    for program, *arguments in found:
        if program == "make":
            assert set(arguments) <= targets, arguments
        else:
            assert program == ".venv/bin/burnish", program
            assert build_parser().parse_args(arguments).verb == arguments[0]


@pytest.mark.parametrize("recipe", sorted(path.name for path in (ROOT / "recipes").glob("*.yaml")))
def test_every_shipped_recipe_is_a_recipe_and_its_files_are_there(recipe: str) -> None:
    loaded = load_recipe(ROOT / "recipes" / recipe)
    theirs = wiring.without_synthetic(loaded) if loaded.synthesize is not None else loaded
    assert theirs is not None
    for path in (*(source.path for source in theirs.sources().values()), *loaded.evaluate.tasks.values()):
        assert (ROOT / path).is_file(), path


def test_generated_pages_are_fresh() -> None:
    command = [sys.executable, "docs/generate.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_links_of_the_pages_lead_somewhere() -> None:
    for page in [*PAGES, "CONTRIBUTING.md"]:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", (ROOT / page).read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[int]:
    """The README's `burnish serve`, on the demo's home and a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "burnish", "serve", "--port", str(port), "--home", os.environ["BURNISH_DEMO_HOME"]]
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(command, cwd=ROOT, stderr=log)
        try:
            deadline = time.monotonic() + 120
            while True:
                assert process.poll() is None, log.seek(0) or log.read()
                assert time.monotonic() < deadline, "the server did not come up in two minutes"
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=2).close()
                    break
                except OSError:
                    time.sleep(0.2)
            yield port
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0


@pytest.mark.demo
def test_the_readme_client_gets_an_answer_from_the_demo(server: int, tmp_path: Path) -> None:
    (code,) = blocks("README.md", "python")
    script = tmp_path / "client.py"
    key = Path(os.environ["BURNISH_DEMO_HOME"]) / "gateway"
    script.write_text(code.replace(":8731", f":{server}").replace(".burnish/gateway", str(key)))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert '"origin":"NYC"' in done.stdout.replace(" ", "")
    assert '"destination":"LHR"' in done.stdout.replace(" ", "")


@pytest.mark.demo
def test_the_readme_chat_answers_and_leaves(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "burnish", "chat", "flight-search", "--home", os.environ["BURNISH_DEMO_HOME"]]
    text = "Flights from Paris to Tokyo tomorrow, under 900 euros\n/quit\n"
    done = subprocess.run(command, cwd=ROOT, input=text, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert '"CDG"' in done.stdout
    assert '"HND"' in done.stdout
