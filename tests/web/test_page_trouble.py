"""The chat page where something goes wrong, and with texts and values that are not the usual ones."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from gateway_running import BadUpstream, Running

from burnish.gateway.keys import split_key
from burnish.gateway.settings import Settings
from devtools import Browser, Page


def choose(page: Page, select: str, name: str) -> None:
    page.run(f"document.querySelector({json.dumps(select)}).value = {json.dumps(name)}")


def set_value(page: Page, field: str, value: str) -> None:
    page.run(f"void (document.querySelector({json.dumps(field)}).value = {json.dumps(value)})")


def answered(page: Page, times: int) -> None:
    page.wait(f"document.querySelectorAll('.assistant .numbers').length === {times}")
    page.idle()


def log_in(page: Page, key: str) -> None:
    page.wait("document.getElementById('log-in').open")
    page.type("#key", key)
    page.press("Enter")
    page.wait("!document.getElementById('log-in').open && !document.getElementById('message').disabled")


def logged_in(browser: Browser, running: Running, key: str) -> Page:
    page = browser.open(f"{running.url}/")
    log_in(page, key)
    return page


def drawn(page: Page, text: str, script: str) -> Any:
    """What a script finds in the elements of a markdown text, which it has as `made`."""
    body = f"const made = document.createElement('div'); made.append(...markdown({json.dumps(text)}, () => 0));"
    return page.run(f"import('/assets/markdown.js').then(({{ markdown }}) => {{ {body} return ({script}); }})")


def test_every_number_of_a_setting_is_sent_and_one_that_cannot_be_is_told(page: Page, upstream: BadUpstream) -> None:
    choose(page, "#model", "ok")
    set_value(page, "#temperature", "0.75")
    set_value(page, "#top-p", "0.955")
    page.say("Hi")
    answered(page, 1)
    assert (upstream.seen[-1]["temperature"], upstream.seen[-1]["top_p"]) == (0.75, 0.955)
    asked = len(upstream.seen)
    set_value(page, "#temperature", "5")
    page.say("Hotter")
    page.wait("!document.getElementById('settings').hidden")
    assert page.text("#status").startswith("Temperature: ")
    assert page.run("document.activeElement.id") == "temperature"
    assert page.run("document.getElementById('message').value") == "Hotter"
    page.click_text("Again")
    assert page.run("document.querySelectorAll('.turn.user').length") == 1
    assert len(upstream.seen) == asked, "nothing was asked with a setting left out"
    set_value(page, "#temperature", "")
    page.run("document.getElementById('composer').requestSubmit()")
    answered(page, 2)


def test_what_failed_can_be_asked_again(page: Page, upstream: BadUpstream) -> None:
    choose(page, "#model", "fails")
    page.say("Say it")
    page.wait("document.querySelector('.assistant .failed')")
    page.idle()
    choose(page, "#model", "ok")
    page.click_text("Again")
    answered(page, 1)
    assert page.run("document.querySelectorAll('.turn').length") == 2
    assert [m["content"] for m in upstream.seen[-1]["messages"]] == ["Say it"]


def test_an_answer_that_was_stopped_before_its_first_word_is_no_turn(page: Page, upstream: BadUpstream) -> None:
    upstream.models.append("slow-first")
    page.run("void document.getElementById('model').append(new Option('slow-first', 'slow-first'))")
    choose(page, "#model", "slow-first")
    asked = len(upstream.seen)
    page.say("Slow")
    while len(upstream.seen) == asked:
        time.sleep(0.02)
    page.press("Escape")
    page.idle()
    choose(page, "#model", "ok")
    page.say("Now")
    page.wait("document.querySelectorAll('.assistant .numbers').length === 2")
    assert [m["content"] for m in upstream.seen[-1]["messages"]] == ["Now"]


def test_while_an_answer_runs_nothing_offers_to_change_what_it_answers(page: Page) -> None:
    choose(page, "#model", "endless")
    page.say("Go on")
    page.wait("document.querySelector('.assistant .body').innerText.length > 3")
    assert page.run("getComputedStyle(document.querySelector('.user .when-idle')).visibility") == "hidden"
    page.press("Escape")
    page.idle()
    assert page.run("getComputedStyle(document.querySelector('.user .when-idle')).visibility") == "visible"


def test_a_comparison_tells_which_model_failed_and_can_be_asked_again(page: Page) -> None:
    choose(page, "#model", "ok")
    choose(page, "#other", "fails")
    page.click("#compare")
    page.say("Compare")
    page.wait("document.querySelector('.pair .failed')")
    page.idle()
    titles = page.run("[...document.querySelectorAll('.pair h2')].map(e => e.textContent).sort()")
    assert titles == ["fails", "ok"]
    assert "the engine failed" in page.text("#status")
    choose(page, "#other", "base")
    page.click_text("Again")
    page.wait("document.querySelectorAll('.vote button').length === 3")
    assert page.run("document.querySelectorAll('.turn').length") == 2


def test_a_vote_by_the_place_of_the_key_whatever_alt_writes(page: Page, running: Running) -> None:
    """On a Mac, Alt+1 writes an inverted exclamation mark; AltGr+2 writes a small two on many keyboards and is no vote."""
    choose(page, "#model", "ok")
    choose(page, "#other", "base")
    page.click("#compare")
    page.say("Compare")
    page.wait("document.querySelectorAll('.vote button').length === 3")

    def press(key: str, code: str, modifiers: int) -> None:
        for kind in ("keyDown", "keyUp"):
            page.call("Input.dispatchKeyEvent", type=kind, key=key, code=code, modifiers=modifiers)

    press("²", "Digit2", 1 + 2)
    assert page.run("document.querySelectorAll('.vote button').length") == 3
    press("¡", "Digit1", 1)
    page.wait("document.querySelector('.vote').textContent.startsWith('Your vote: A, which was')")


@pytest.mark.parametrize("how", ["chat", "compare", "feedback"])
def test_a_key_that_ended_leads_to_the_log_in_and_the_model_stays(browser: Browser, running: Running, how: str) -> None:
    key = running.key("chat")
    page = logged_in(browser, running, key)
    choose(page, "#model", "endless")
    choose(page, "#model", "ok")
    if how == "feedback":
        page.say("Hi")
        answered(page, 1)
    running.keys.revoke(split_key(key) or "")
    if how == "feedback":
        page.click_text("Good")
    elif how == "compare":
        page.click("#compare")
        page.say("Hi")
    else:
        page.say("Hi")
    page.wait("document.getElementById('log-in').open")
    assert page.text("#log-in-error") == "Your key is no longer valid."
    log_in(page, running.key("chat"))
    assert page.run("document.getElementById('model').value") == "ok"
    page.close()


def test_feedback_that_is_refused_is_shown(browser: Browser, running: Running) -> None:
    page = logged_in(browser, running, running.key("chat", requests_per_minute=1))
    choose(page, "#model", "ok")
    page.say("Hi")
    answered(page, 1)
    page.click_text("Good")
    page.wait("document.querySelector('.tools .failed')?.textContent.includes('requests_per_minute')")
    page.click_text("Bad")
    page.wait("document.querySelectorAll('.tools .failed').length === 1")
    page.close()


def test_logging_out_leaves_nothing_to_the_next_person(page: Page, running: Running) -> None:
    choose(page, "#model", "ok")
    page.click("#settings-open")
    page.type("#system", "My secret instructions")
    page.click("#consent")
    page.type("#temperature", "1")
    page.say("Hi")
    answered(page, 1)
    page.type("#message", "a draft")
    page.click("#log-out")
    log_in(page, running.key("chat"))
    kept = "[...document.querySelectorAll('input, textarea')].map(e => e.type === 'checkbox' ? e.checked : e.value)"
    assert not any(page.run(kept))
    assert page.run("document.querySelectorAll('.turn').length") == 0
    assert "world" not in page.run("document.documentElement.textContent"), "nor what a screen reader was told"


@pytest.mark.parametrize("button", ["#fresh", "#log-out"])
def test_a_comparison_that_runs_is_gone_with_its_conversation(page: Page, upstream: BadUpstream, button: str) -> None:
    choose(page, "#model", "endless")
    choose(page, "#other", "ok")
    page.click("#compare")
    page.say("Compare")
    page.wait("document.querySelectorAll('.pair .body').length === 2")
    page.wait("[...document.querySelectorAll('.pair .body')].every(e => e.innerText.length > 3)")
    before = upstream.hung_up["endless"]
    page.click(button)
    page.idle()
    assert page.run("document.querySelectorAll('.turn').length") == 0
    assert page.run("!document.getElementById('empty').hidden")
    until = time.monotonic() + 5
    while upstream.hung_up["endless"] == before and time.monotonic() < until:
        time.sleep(0.02)
    assert upstream.hung_up["endless"] == before + 1
    time.sleep(0.2)
    assert page.run("document.querySelectorAll('.vote').length") == 0


def test_a_copy_is_told_and_its_button_keeps_its_name(page: Page) -> None:
    choose(page, "#model", "ok")
    page.say("Hi")
    answered(page, 1)
    page.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    page.click_text("Copy", "#log")
    page.wait("document.querySelector('.assistant .tools button').textContent === 'Copied'")
    assert page.text("#status") == "Copied"
    page.click(".assistant .tools button")
    page.wait("document.querySelector('.assistant .tools button').textContent === 'Copy'")
    time.sleep(1.6)
    assert page.text(".assistant .tools button") == "Copy"
    page.run("navigator.clipboard.writeText('before')")
    page.run(
        "void (window.board = navigator.clipboard, Object.defineProperty(navigator, 'clipboard', {value: undefined}))"
    )
    page.click(".assistant .tools button")
    page.wait("document.querySelector('.assistant .tools button').textContent === 'Copied'")
    assert page.run("board.readText()") == "Hello world 🛫", "a page of plain http has no clipboard of its own"


def test_a_comparison_is_exported_once_it_is_voted_on_with_the_settings_of_its_time(page: Page, tmp_path: Path) -> None:
    page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))

    def exported() -> dict[str, Any]:
        for path in tmp_path.glob("*.json"):
            path.unlink()
        page.click("#export")
        until = time.monotonic() + 10
        while not (files := list(tmp_path.glob("*.json"))) and time.monotonic() < until:
            time.sleep(0.05)
        return json.loads(files[0].read_text())["turns"][0]

    choose(page, "#model", "ok")
    choose(page, "#other", "base")
    set_value(page, "#temperature", "0.5")
    page.click("#compare")
    page.say("Compare")
    page.wait("document.querySelectorAll('.vote button').length === 3")
    set_value(page, "#temperature", "")
    before = exported()
    assert before["model"] is None
    assert "compared" not in before, "it would tell who is who"
    assert before["sampling"] == {"temperature": 0.5}
    page.click_text("No difference")
    page.wait("document.querySelector('.vote').textContent.startsWith('Your vote')")
    time.sleep(1.1)  # the file's name has seconds
    after = exported()
    assert after["compared"]["vote"] == "tie"
    assert sorted(each["model"] for each in after["compared"]["answers"]) == ["base", "ok"]
    assert (after["answer"], after["model"]) == (before["answer"], after["compared"]["answers"][0]["model"])


def test_what_is_written_from_the_right_begins_there(page: Page, upstream: BadUpstream) -> None:
    upstream.words["xss"] = ["مرحبا بكم\n\n- بند\n- بند\n\nplain\n\n```\ncode\n```\n"]
    choose(page, "#model", "xss")
    page.say("سؤال")
    answered(page, 1)
    way = "[...document.querySelectorAll({})].map(e => getComputedStyle(e).direction)"
    assert page.run(way.format("'.user .body, .assistant ul, .assistant li'")) == ["rtl", "rtl", "rtl", "rtl"]
    assert page.run(way.format("'.assistant p'")) == ["rtl", "ltr"]
    assert page.run(way.format("'.assistant pre'")) == ["ltr"]
    page.type("#message", "مرحبا")
    assert page.run(way.format("'#message'")) == ["rtl"]


def test_no_line_of_a_model_holds_the_page_up(page: Page) -> None:
    lines = ["# a" + " " * 4000 + "x", "# " + "#" * 20_000 + "x", "```" + " " * 20_000 + "`", " " * 20_000 + "x",
             "a|b\n" + " " * 20_000 + "x", "**a " * 2000, "[a](" * 2000]  # fmt: skip
    took = page.run(
        f"import('/assets/markdown.js').then(({{ markdown }}) => {json.dumps(lines)}.map(line => {{"
        "const began = performance.now(); markdown(line, () => 0); return performance.now() - began; }))"
    )
    assert max(took) < 1000, took


def test_blocks_of_code_end_where_they_end(page: Page) -> None:
    titled = '```python title="a b" {1,3}\nx = 1\n```\nafter'
    assert drawn(page, titled, "[made.querySelector('code').dataset.language, made.querySelector('p').innerText]") == [
        "python", "after",
    ]  # fmt: skip
    assert drawn(page, "````\n```python\nx\n```\n````\nafter", "made.querySelector('code').textContent") == (
        "```python\nx\n```"
    )
    assert drawn(page, "```\n```x\n```\nafter", "made.querySelector('code').textContent") == "```x"
    assert drawn(page, "## Title ##\n\n# C#\n\n# ", "[...made.children].map(e => e.textContent)") == ["Title", "C#", ""]
    assert drawn(page, "| a |\n|---|\n| 1 |", "made.querySelectorAll('td').length") == 1


def test_what_is_drawn_already_stays_while_an_answer_grows(page: Page, upstream: BadUpstream) -> None:
    upstream.words["endless"] = ["```\ncode\n```\n\n", "more and ", "more "]
    try:
        choose(page, "#model", "endless")
        page.say("Code")
        page.wait("document.querySelector('.assistant pre button')")
        page.run("document.querySelector('.assistant pre button').focus()")
        length = page.run("document.querySelector('.assistant .body').innerText.length")
        page.wait(f"document.querySelector('.assistant .body').innerText.length > {length + 20}")
        assert page.run("document.activeElement === document.querySelector('.assistant pre button')")
        page.press("Escape")
        page.idle()
    finally:
        del upstream.words["endless"]


def test_a_listed_page_of_another_origin_may_use_openais_own_client(
    browser: Browser, upstream: BadUpstream, tmp_path: Path
) -> None:
    """The client for browsers sends headers of its own with each call, and reads those of the limits."""
    running = Running(upstream.url, tmp_path, Settings(origins=(upstream.url,)))
    page = browser.open(f"{upstream.url}/health/ready")
    try:
        headers = {
            "authorization": f"Bearer {running.key(requests_per_minute=5)}", "content-type": "application/json",
            "x-stainless-lang": "js", "x-stainless-retry-count": "0", "openai-organization": "mine",
        }  # fmt: skip
        body = json.dumps({"model": "ok", "messages": [{"role": "user", "content": "Hi"}]})
        asked = json.dumps({"method": "POST", "headers": headers, "body": body})
        told = page.run(
            f"fetch('{running.url}/v1/chat/completions', {asked})"
            ".then(async a => [a.status, a.headers.get('x-ratelimit-limit-requests'), await a.text()])"
        )
        assert told[:2] == [200, "5"]
        assert "Hello world" in told[2]
    finally:
        page.close()
        running.close()
