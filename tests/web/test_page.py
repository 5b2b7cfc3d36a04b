"""The chat page in a real Chromium, as a person uses it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from gateway_running import BadUpstream, Running

from burnish.web.page import FILES, assets
from devtools import Browser, Page

PICTURES = Path(os.environ["BURNISH_PICTURES"]) if "BURNISH_PICTURES" in os.environ else None
"""Where screenshots are left to be looked at."""


def picture(page: Page, name: str, tmp_path: Path, **size: int | bool) -> None:
    path = page.screenshot((PICTURES or tmp_path) / f"{name}.png", **size)  # type: ignore[arg-type]
    assert path.stat().st_size > 5000


def choose(page: Page, select: str, name: str) -> None:
    found = f"document.querySelector({json.dumps(select)})"
    page.run(f"{found}.value = {json.dumps(name)}")
    page.run(f"{found}.dispatchEvent(new Event('change'))")


def feedback(running: Running) -> list[dict[str, object]]:
    own = {"authorization": f"Bearer {running.admin}"}
    return running.client.get("/admin/feedback", headers=own).json()["feedback"]


def test_the_page_loads_nothing_from_elsewhere_and_nothing_inline(browser: Browser, running: Running) -> None:
    page = browser.open(f"{running.url}/")
    page.wait("document.getElementById('log-in').open")
    assert page.problems == []
    assert {url.split("/")[2] for url in page.requests if url.startswith("http")} == {f"127.0.0.1:{running.port}"}
    page.close()
    response = running.client.get("/")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "require-trusted-types-for 'script'" in policy
    text = "".join(body.decode() for path, (body, _, _) in assets().items() if not path.endswith(".svg"))
    for sink in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "localStorage",
        "sessionStorage",
        "cookie =",
    ):
        assert sink not in text
    html = assets()["/"][0].decode()
    assert "style=" not in html
    assert "onclick" not in html
    assert len(assets()) == len(FILES)


def test_a_wrong_key_is_told_and_the_right_one_is_kept_nowhere(browser: Browser, running: Running) -> None:
    page = browser.open(f"{running.url}/")
    page.wait("document.getElementById('log-in').open")
    page.type("#key", "bk_wrong")
    page.press("Enter")
    page.wait("document.getElementById('log-in-error').textContent.includes('not valid')")
    page.run("document.getElementById('key').value = ''")
    key = running.key("chat")
    page.type("#key", key)
    page.press("Enter")
    page.wait("!document.getElementById('message').disabled")
    stored = (
        "JSON.stringify([location.href, document.cookie, {...localStorage}, {...sessionStorage},"
        "document.documentElement.outerHTML])"
    )
    assert key not in page.run(stored)
    assert page.run("document.getElementById('key').value") == ""
    page.go(f"{running.url}/")
    page.wait("document.getElementById('log-in').open")
    page.close()


def test_an_answer_streams_with_its_numbers_and_the_conversation_goes_on(
    page: Page, upstream: BadUpstream, tmp_path: Path
) -> None:
    choose(page, "#model", "ok")
    page.say("Where to?")
    page.wait("document.querySelector('.assistant .tools')")
    assert page.text(".assistant .body") == "Hello world 🛫"
    assert "5 tokens" in page.text(".assistant .numbers")
    assert "first after" in page.text(".assistant .numbers")
    page.idle()
    page.say("And then?")
    page.wait("document.querySelectorAll('.assistant .tools').length === 2")
    assert [m["content"] for m in upstream.seen[-1]["messages"]] == ["Where to?", "Hello world 🛫", "And then?"]
    assert page.problems == []
    assert "Answer complete" in page.run("document.getElementById('status').textContent")
    picture(page, "chat", tmp_path)


def test_stop_cancels_upstream_and_keeps_what_came(page: Page, upstream: BadUpstream) -> None:
    choose(page, "#model", "endless")
    before = upstream.hung_up["endless"]
    page.say("Go on")
    page.wait("document.querySelector('.assistant .body').innerText.length > 10")
    page.click("#stop")
    page.idle()
    page.wait("document.querySelector('.assistant .numbers').textContent.includes('stopped')")
    until = time.monotonic() + 5
    while upstream.hung_up["endless"] == before and time.monotonic() < until:
        time.sleep(0.02)
    assert upstream.hung_up["endless"] == before + 1
    page.say("Again")
    page.wait("document.querySelectorAll('.assistant .body')[1]?.innerText.length > 5")
    page.press("Escape")
    page.idle()


def test_settings_are_sent_and_the_system_prompt_comes_first(page: Page, upstream: BadUpstream, tmp_path: Path) -> None:
    choose(page, "#model", "ok")
    page.click("#settings-open")
    page.type("#system", "Be brief.")
    for name, value in (("temperature", "0.7"), ("top-p", "0.9"), ("max-tokens", "33"), ("seed", "7")):
        page.type(f"#{name}", value)
    picture(page, "settings", tmp_path)
    page.say("Hi")
    page.wait("document.querySelector('.assistant .tools')")
    sent = upstream.seen[-1]
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (sent["temperature"], sent["top_p"], sent["max_tokens"], sent["seed"]) == (0.7, 0.9, 33, 7)


def test_editing_and_asking_again_forget_what_came_after(page: Page, upstream: BadUpstream) -> None:
    choose(page, "#model", "ok")
    for text in ("one", "two"):
        page.say(text)
        page.idle()
    page.wait("document.querySelectorAll('.assistant .tools').length === 2")
    page.click_text("Again")
    page.idle()
    page.wait("document.querySelectorAll('.assistant .tools').length === 2")
    assert [m["content"] for m in upstream.seen[-1]["messages"]] == ["one", "Hello world 🛫", "two"]
    page.click(".user .tools button")
    page.run("document.querySelector('.user textarea').value = 'changed'")
    page.click_text("Send again")
    page.wait("document.querySelectorAll('.assistant .tools').length === 1")
    assert [m["content"] for m in upstream.seen[-1]["messages"]] == ["changed"]


@pytest.mark.parametrize("consent", [False, True])
def test_thumbs_and_corrections_are_stored_with_version_hash_and_consent(
    page: Page, running: Running, consent: bool
) -> None:
    choose(page, "#model", "ok")
    if consent:
        page.click("#settings-open")
        page.click("#consent")
        page.click("#settings-open")
    page.say("Rate this")
    page.wait("document.querySelector('.assistant .tools')")
    page.idle()
    page.click_text("Good")
    page.wait("document.getElementById('status').textContent.includes('noted')")
    stored = feedback(running)[-1]
    assert (stored["kind"], stored["model"], stored["up"], stored["consent"]) == ("thumb", "ok", True, consent)
    assert len(str(stored["prompt_hash"])) == 64
    assert ("answer" in stored) == consent
    page.click_text("Correct")
    page.run("document.querySelector('.correct textarea').value = 'Better'")
    page.click_text("Save the correction")
    if consent:
        page.wait("!document.querySelector('.correct')")
        stored = feedback(running)[-1]
        assert (stored["kind"], stored["correction"], stored["answer"]) == ("correction", "Better", "Hello world 🛫")
        assert stored["messages"] == [{"role": "user", "content": "Rate this"}]
    else:
        page.wait("!document.querySelector('.correct .failed').hidden")


def test_a_blind_comparison_tells_who_was_who_after_the_vote(page: Page, running: Running, tmp_path: Path) -> None:
    choose(page, "#model", "ok")
    page.click("#compare")
    page.say("Which is better?")
    page.wait("document.querySelectorAll('.vote button').length === 3")
    shown = page.text(".pair")
    assert "Answer A" in shown
    assert "base" not in shown
    assert "ok" not in shown.split()
    before = len(feedback(running))
    picture(page, "blind", tmp_path)
    page.press("1", modifiers=1)
    page.wait("document.querySelector('.vote').innerText.includes('Your vote: A')")
    page.wait("document.getElementById('status').textContent.includes('Your vote is kept')")
    assert sorted(page.run("[...document.querySelectorAll('.pair h2')].map(h => h.textContent)")) == ["base", "ok"]
    stored = feedback(running)
    assert len(stored) == before + 1
    first = page.run("document.querySelector('.pair h2').textContent")
    assert (stored[-1]["kind"], stored[-1]["model"], stored[-1]["winner"]) == ("vote", first, "model")
    picture(page, "voted", tmp_path)
    page.screenshot(tmp_path / "x.png")


def test_what_a_model_writes_is_text_whatever_it_is(page: Page, upstream: BadUpstream) -> None:
    attacks = [
        "<script>window.hacked = 1</script>", "<img src=x onerror='window.hacked = 1'>", "[a](javascript:window.hacked=1)",
        "[b](data:text/html,<script>window.hacked=1</script>)", "![c](https://evil.example/x.png?secret)",
        "<a href='javascript:window.hacked=1'>d</a>", "[e](https://user:pass@evil.example/)", "`<b>`",
        "<svg onload=window.hacked=1>", "[f](https://good.example/\" onclick=\"window.hacked=1)",
        "\n```html\n<script>window.hacked = 1</script>\n```\n", "[g]( java\nscript:alert(1))", "<style>*{display:none}</style>",
        "| a | <img src=x onerror=window.hacked=1> |\n|---|---|\n| x | y |\n",
    ]  # fmt: skip
    upstream.words["xss"] = [f"{attack}\n\n" for attack in attacks]
    choose(page, "#model", "xss")
    page.say("<script>window.hacked = 1</script>")
    page.wait("document.querySelector('.assistant .tools')")
    page.run("document.querySelectorAll('.assistant a').forEach(a => { a.removeAttribute('target'); })")
    assert page.run("window.hacked === undefined")
    assert page.run("document.querySelectorAll('#log img, #log script, #log style, #log svg, #log iframe').length") == 0
    addresses = page.run("[...document.querySelectorAll('#log a')].map(a => a.href)")
    assert all(address.startswith(("https://", "http://")) for address in addresses)
    assert not any("user:pass" in address for address in addresses)
    assert all("evil.example" not in url for url in page.requests)
    assert page.run("[...document.querySelectorAll('#log a')].every(a => a.rel.includes('noopener'))")
    assert "<script>window.hacked = 1</script>" in page.text(".user .body")
    assert page.problems == []


def test_model_names_are_text_too(browser: Browser, upstream: BadUpstream, running: Running) -> None:
    before = upstream.models
    upstream.models = ["base", "<img src=x onerror=window.hacked=1>"]
    try:
        page = browser.open(f"{running.url}/")
        page.type("#key", running.key("chat"))
        page.press("Enter")
        page.wait("!document.getElementById('message').disabled")
        assert page.run("window.hacked === undefined && document.querySelectorAll('img').length === 1")
        assert "<img src=x" in page.run("document.getElementById('model').innerHTML.replaceAll('&lt;', '<')")
        page.close()
    finally:
        upstream.models = before


def test_markdown_is_shown_and_code_is_copied(page: Page, upstream: BadUpstream, tmp_path: Path) -> None:
    upstream.words["xss"] = [
        "# Title\n\nA *word* and **two** and `code`, [link](https://good.example/a_b).\n\n",
        "- one\n- two\n  - inner\n\n1. first\n2. second\n\n> quoted\n\n```python\nprint('hi')\n```\n\n",
        "| a | b |\n|---|---|\n| 1 | 2 |\n\n---\n2 * 3 * 4 = 24, snake_case_name",
    ]
    choose(page, "#model", "xss")
    page.say("Show me markdown")
    page.wait("document.querySelector('.assistant .tools')")
    found = page.run("[...document.querySelectorAll('.assistant .body *')].map(e => e.tagName).join(' ')")
    for tag in ("H3", "EM", "STRONG", "CODE", "A", "UL", "LI", "OL", "BLOCKQUOTE", "PRE", "TABLE", "TH", "TD", "HR"):
        assert tag in found.split(), tag
    assert page.text(".assistant .body").endswith("2 * 3 * 4 = 24, snake_case_name")
    page.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    page.click(".assistant pre button")
    page.wait("document.querySelector('.assistant pre button').textContent === 'Copied'")
    assert page.run("navigator.clipboard.readText()") == "print('hi')"
    picture(page, "markdown", tmp_path)


def test_an_error_is_told_where_the_answer_would_be(page: Page, running: Running) -> None:
    choose(page, "#model", "fails")
    page.say("Fail")
    page.wait("document.querySelector('.assistant .failed')")
    assert "the engine failed" in page.text(".assistant .failed")
    page.idle()
    choose(page, "#model", "ok")
    page.say("Go on")
    page.wait("document.querySelector('.assistant .numbers')")


def test_the_conversation_is_exported(page: Page, tmp_path: Path) -> None:
    choose(page, "#model", "ok")
    page.say("Keep this")
    page.wait("document.querySelector('.assistant .tools')")
    page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.click("#export")
    until = time.monotonic() + 10
    while not (files := list(tmp_path.glob("*.json"))) and time.monotonic() < until:
        time.sleep(0.05)
    record = json.loads(files[0].read_text())
    assert [(turn["said"], turn["answer"], turn["model"]) for turn in record["turns"]] == [
        ("Keep this", "Hello world 🛫", "ok")
    ]


def test_everything_has_a_name_and_the_keyboard_reaches_it(page: Page) -> None:
    page.click("#settings-open")
    nameless = page.run(
        "[...document.querySelectorAll('button, input, select, textarea, a[href]')]"
        ".filter(e => e.offsetParent !== null || e.closest('dialog'))"
        ".filter(e => !(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length)).map(e => e.outerHTML)"
    )
    assert nameless == []
    tree = page.call("Accessibility.getFullAXTree")["nodes"]
    roles = {node["role"]["value"] for node in tree if not node.get("ignored")}
    assert {"main", "log", "status", "button", "combobox", "textbox", "banner"} <= roles
    choose(page, "#model", "ok")
    page.say("Hi")
    page.wait("document.querySelector('.assistant .tools')")
    page.idle()
    tree = page.call("Accessibility.getFullAXTree")["nodes"]
    headings = [
        node["name"]["value"] for node in tree if node["role"]["value"] == "heading" and not node.get("ignored")
    ]
    assert headings == ["Chat", "You", "ok"], "a conversation stands below the heading of its page"
    reached = set()
    page.run("document.body.focus()")
    for _ in range(25):
        page.press("Tab")
        reached.add(page.run("document.activeElement?.id ?? ''"))
    ids = "model compare settings-open export fresh system temperature consent message send"
    assert set(ids.split()) <= reached


def test_it_fits_a_phone_and_the_dark(page: Page, tmp_path: Path) -> None:
    choose(page, "#model", "ok")
    page.say("Find me flights from New York to London next Tuesday under $800")
    page.wait("document.querySelector('.assistant .tools')")
    picture(page, "phone", tmp_path, width=390, height=844)
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    assert page.run("document.getElementById('send').getBoundingClientRect().right <= innerWidth")
    picture(page, "dark", tmp_path, dark=True)
    light, dark = "rgb(251, 250, 247)", "rgb(22, 24, 27)"
    assert page.run("getComputedStyle(document.body).backgroundColor") in (light, dark)
    page.click("#compare")
    page.say("Both on a phone")
    page.wait("document.querySelectorAll('.vote button').length === 3")
    picture(page, "phone-blind", tmp_path, width=390, height=844, dark=True)
    assert page.run("getComputedStyle(document.body).backgroundColor") == dark
    assert page.run("document.documentElement.scrollWidth <= innerWidth")


def test_the_log_in_cannot_be_closed_without_a_key(browser: Browser, running: Running) -> None:
    page = browser.open(f"{running.url}/")
    page.wait("document.getElementById('log-in').open")
    for _ in range(3):
        page.press("Escape")
        page.wait("document.getElementById('log-in').open && document.activeElement.id === 'key'")
    page.type("#key", "bk_wrong")
    page.press("Enter")
    page.wait("document.getElementById('log-in-error').textContent === 'That key is not valid.'")
    assert page.run("document.getElementById('log-in').open")
    page.close()


def test_with_one_model_there_is_nothing_to_compare(browser: Browser, upstream: BadUpstream, running: Running) -> None:
    before = upstream.models
    upstream.models = ["ok"]
    try:
        page = browser.open(f"{running.url}/")
        page.type("#key", running.key("chat"))
        page.press("Enter")
        page.wait("!document.getElementById('message').disabled")
        for count in (1, 2):
            assert page.run("document.getElementById('compare').disabled")
            page.say("Hi")
            page.wait(f"document.querySelectorAll('.assistant .tools').length === {count}")
            page.idle()
        upstream.models = ["ok", "base"]
        log_in_again(page, running)
        page.click("#compare")
        upstream.models = ["ok"]
        log_in_again(page, running)
        page.say("Hi")
        page.wait("document.querySelectorAll('.assistant .tools').length === 1")
        assert page.run("document.querySelectorAll('.pair').length") == 0, "a comparison that nobody could turn off"
        page.close()
    finally:
        upstream.models = before


def log_in_again(page: Page, running: Running) -> None:
    page.click("#log-out")
    page.type("#key", running.key("chat"))
    page.press("Enter")
    page.wait("!document.getElementById('message').disabled")


def test_an_answer_that_breaks_off_is_told_and_not_taken_for_a_whole_one(page: Page, upstream: BadUpstream) -> None:
    choose(page, "#model", "ok")
    page.run("void (window.asked = fetch, window.fetch = async (...given) => { const answer = await asked(...given);"
             "const text = (await answer.text()).replace('data: [DONE]', '');"
             "return new Response(text, {headers: answer.headers, status: answer.status}); })")  # fmt: skip
    page.say("Say hello")
    page.wait("document.querySelector('.assistant .failed')?.textContent.includes('broke off')")
    page.idle()
    page.run("void (window.fetch = asked)")
    page.say("Once more")
    page.wait("document.querySelectorAll('.assistant .numbers').length === 1")
    assert [m["content"] for m in upstream.seen[-1]["messages"]] == ["Once more"], (
        "what broke off is no part of the talk"
    )
