"""The review page in a real Chromium: keys, edits, hostile texts, its policy, and that nothing comes from elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from burnish.data.review.desk import Desk
from burnish.data.review.reviews import Reviews
from burnish.data.synthesize.pool import Entry
from burnish.doors.reviewing import act, state
from burnish.review.app import Desk as PageDesk
from burnish.review.app import create_app
from devtools import Browser

TOKEN = "a-token-of-the-test-0123456789abcdef"
HOSTILE = '<img src=x onerror="window.bad=1"><script>window.bad=2</script> \u202egnp.exe'


def entry(number: int, text: str) -> Entry:
    turns = [{"role": "user", "content": f"question {number}"}, {"role": "assistant", "content": text}]
    about = {"kind": "questions", "quote": {"text": "two hours"}}
    return Entry(f"{number:032x}", "questions", "kept", "", {"messages": turns, "synthetic": about},
                 {"passage": f"Cars stay two hours. {HOSTILE}", "why": HOSTILE, "grade": 4})  # fmt: skip


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    desk = Desk(tmp_path, [entry(0, HOSTILE), *(entry(n, f"answer {n}") for n in range(1, 5))], "ann", "none")
    app = create_app(PageDesk(lambda: state(desk), lambda action: act(desk, action)), TOKEN)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}/"
    server.should_exit = True
    thread.join(20)


def test_a_review_by_keys_alone_and_hostile_texts_are_only_shown(
    browser: Browser, address: str, tmp_path: Path
) -> None:
    page = browser.open(f"{address}#{TOKEN}")
    page.wait("document.querySelectorAll('.turn').length === 2")
    assert page.run("location.href") == address, "the token does not stay in the address"
    assert page.run("window.bad === undefined && !document.querySelector('#row img, #row script')")
    assert "<script>" in page.text("#turns")
    assert page.text("mark") == "two hours"
    page.press("a")
    page.wait("document.getElementById('message').textContent === 'Accepted.'")
    page.press("e")
    page.wait("document.activeElement.tagName === 'TEXTAREA'")
    page.press("a")  # a letter of the text, and no verdict
    page.call("Input.insertText", text=", and more")
    page.press("Enter", 2)
    page.wait("document.getElementById('message').textContent === 'Edited.'")
    page.type("#note", "says nothing")
    page.press("Escape")
    page.press("r")
    page.wait("document.getElementById('message').textContent === 'Rejected.'")
    page.press("s")
    page.wait("document.getElementById('message').textContent === 'Left for later.'")
    page.press("u")
    page.wait("document.getElementById('message').textContent === 'Taken back.'")
    said = [(review.id[-1], review.verdict, review.note) for review in Reviews(tmp_path).read()]
    assert said == [("0", "accept", ""), ("1", "edit", ""), ("2", "reject", "says nothing"), ("2", "withdrawn", "")]
    assert "answer 1" in (tmp_path / "rows.jsonl").read_text()
    assert ", and more" in (tmp_path / "rows.jsonl").read_text()
    assert page.problems == []
    assert {url.removeprefix(address).partition("#")[0] for url in page.requests} == {"", "api/state", "api/act"}
    page.run("(() => { try { const made = document.createElement('script'); made.text = 'window.bad = 3';"
             "document.body.append(made) } catch (error) {} return true })()")  # fmt: skip
    assert page.run("window.bad === undefined"), "the policy lets no other script run"


def test_without_the_token_the_page_asks_for_it_and_fits_a_narrow_screen(browser: Browser, address: str) -> None:
    page = browser.open(address)
    page.wait("busy === false && !document.getElementById('ask').hidden")
    assert "question" not in page.text()
    page.type("#code", "wrong")
    page.press("Enter")
    page.wait("busy === false && document.getElementById('message').textContent.includes('missing or wrong')")
    page.run("document.getElementById('code').value = ''")
    page.type("#code", TOKEN)
    page.press("Enter")
    page.wait("document.querySelectorAll('.turn').length === 2")
    page.call("Emulation.setDeviceMetricsOverride", width=360, height=700, deviceScaleFactor=1, mobile=False)
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
