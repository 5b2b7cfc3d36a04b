"""Asking over real HTTP: retries, cache, budget, bounds, and a key that goes nowhere but into its header."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asks import ask
from hypothesis import given, settings
from hypothesis import strategies as st
from teacher import Teacher, teaching

from burnish.core.completion import NO_BUDGET, Reply
from burnish.core.errors import ResourceError, StoreError, UsageError
from burnish.core.recipe_augment import Model
from burnish.endpoint.budget import Budget, Prices
from burnish.endpoint.client import Client, retry_after
from burnish.endpoint.complete import Asking

Make = Callable[..., Asking]


def test_replies_come_in_order_and_several_are_asked_at_once_but_not_more(teacher: Teacher, asking: Make) -> None:
    teacher.say, teacher.slow_s = lambda body: f"to {body['messages'][0]['content']}", 0.1
    asks = asking(at_once=3)
    replies = list(asks.complete([ask(f"{n}") for n in range(20)]))
    assert [reply.text for reply in replies] == [f"to {n}" for n in range(20)]
    assert teacher.most_at_once == 3
    assert teacher.paths == ["/v1/chat/completions"] * 20


def test_the_same_is_never_asked_twice_and_what_was_asked_is_not_on_disk(
    teacher: Teacher, asking: Make, tmp_path: Path
) -> None:
    asked = [ask("my secret question"), ask("another"), ask("another", seed=1)]
    first = list(asking().complete(asked))
    again = asking()
    second = list(again.complete(asked))
    assert len(teacher.bodies) == 3
    assert [r.text for r in first] == [r.text for r in second]
    assert [r.cached for r in second] == [True] * 3
    assert again.asked.cached == 3
    assert "secret question" not in "".join(p.read_text() for p in tmp_path.rglob("*") if p.is_file())
    assert {p.stat().st_mode & 0o077 for p in (tmp_path / "cache").rglob("*.json")} == {0}


def test_a_damaged_file_of_the_cache_is_asked_anew(teacher: Teacher, asking: Make, tmp_path: Path) -> None:
    list(asking().complete([ask("x")]))
    for path in (tmp_path / "cache").rglob("*.json"):
        path.write_text('{"text": ')
    assert next(iter(asking().complete([ask("x")]))).text
    assert len(teacher.bodies) == 2


@pytest.mark.parametrize("fault", ["429", "500", "503", "cut stream", "broken json", "no choices", "bad gzip"])
def test_what_is_temporary_is_tried_again(fault: str, teacher: Teacher, asking: Make) -> None:
    teacher.faults = [fault, fault]
    (reply,) = asking().complete([ask("x")])
    assert reply.trouble is None
    assert reply.text.startswith("An answer")
    assert len(teacher.bodies) == 3


def test_tries_are_bounded_and_a_lasting_fault_is_told(teacher: Teacher, asking: Make) -> None:
    teacher.always = "500"
    asks = asking(tries=3, at_once=1)
    with pytest.raises(ResourceError, match=r"no answer to 3 requests in a row after 3 tries each.*HTTP 500"):
        list(asks.complete([ask(f"{n}") for n in range(50)]))
    assert len(teacher.bodies) == 9


def test_a_retry_after_is_waited_for_by_all_and_one_that_is_too_long_is_not(teacher: Teacher, asking: Make) -> None:
    teacher.faults, teacher.retry_after = ["429"], "1"
    list(asking(at_once=2).complete([ask(f"{n}") for n in range(4)]))
    assert teacher.times[1] - teacher.times[0] >= 0.95
    teacher.faults, teacher.retry_after = ["503"], "3600"
    began = time.monotonic()
    (reply,) = asking().complete([ask("too long")])
    assert "503" in (reply.trouble or "")
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(("header", "low", "high"), [
    (None, 0, 0), ("7", 7, 7), ("0.5", 0.5, 0.5), ("-3", 0, 0), ("soon", 0, 0), ("nan", 0, 0), ("inf", 0, 0),
    ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0), ("Fri, 31 Dec 2100 23:59:59 GMT", 1e8, 1e10),
])  # fmt: skip
def test_a_retry_after_is_seconds_or_a_date(header: str | None, low: float, high: float) -> None:
    assert low <= retry_after(header) <= high


def test_an_answer_that_never_ends_is_given_up(teacher: Teacher, asking: Make) -> None:
    teacher.always = "drip"
    began = time.monotonic()
    with pytest.raises(ResourceError, match=r"no whole answer within 0\.3 s"):
        list(asking(timeout_s=0.3, tries=1, at_once=1).complete([ask(f"{n}") for n in range(9)]))
    assert time.monotonic() - began < 20


def test_an_over_long_answer_is_cut_off_and_counts_as_spent(teacher: Teacher, asking: Make) -> None:
    teacher.faults = ["over-long"]
    asks = asking()
    (reply,) = asks.complete([ask("x")])
    assert "longer than" in (reply.trouble or "")
    assert len(teacher.bodies) == 1


def test_an_endless_loop_is_told_as_cut_off(teacher: Teacher, asking: Make) -> None:
    teacher.faults = ["endless loop"]
    (reply,) = asking().complete([ask("x")])
    assert not reply.whole
    assert reply.new_tokens == 50


def test_a_prompt_that_is_refused_costs_itself_alone_unless_all_are(teacher: Teacher, asking: Make) -> None:
    teacher.faults = ["400"]
    replies = list(asking(at_once=1).complete([ask(f"{n}") for n in range(3)]))
    assert [reply.trouble is None for reply in replies] == [False, True, True]
    teacher.always = "400"
    with pytest.raises(ResourceError, match="no answer to 4 requests in a row; the last: HTTP 400"):
        list(asking(at_once=1).complete([ask(f"other {n}") for n in range(9)]))


@pytest.mark.parametrize(("status", "kind", "says"), [
    ("401", UsageError, "Is the key in BURNISH_TEST_KEY right"), ("403", UsageError, "does not let us in"),
    ("404", ResourceError, "Is the address right"), ("307", ResourceError, "points elsewhere"),
])  # fmt: skip
def test_what_is_wrong_with_all_requests_stops_at_once_without_telling_the_key(
    status: str, kind: type[Exception], says: str, teacher: Teacher, asking: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:  # fmt: skip
    monkeypatch.setenv("BURNISH_TEST_KEY", "sk-very-secret-9876543210")
    teacher.always = status
    with pytest.raises(kind, match=says) as caught:
        list(asking(key_variable="BURNISH_TEST_KEY").complete([ask("x")]))
    assert "very-secret" not in str(caught.value)
    assert len(teacher.bodies) == 1
    assert teacher.headers[0]["Authorization"] == "Bearer sk-very-secret-9876543210"
    assert "very-secret" not in "".join(p.read_text() for p in tmp_path.rglob("*") if p.is_file())
    assert "very-secret" not in json.dumps(teacher.bodies) + "".join(teacher.paths)


def test_a_key_that_is_not_set_is_told_by_the_name_of_its_variable(
    asking: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BURNISH_NO_KEY", raising=False)
    with pytest.raises(UsageError, match="BURNISH_NO_KEY is not set"):
        asking(key_variable="BURNISH_NO_KEY")
    monkeypatch.setenv("BURNISH_NO_KEY", "a\nb")
    with pytest.raises(UsageError, match="signs that no key has"):
        asking(key_variable="BURNISH_NO_KEY")


def test_nobody_listening_is_told(asking: Make, teacher: Teacher) -> None:
    with teaching() as gone:
        url = gone.url
    with pytest.raises(ResourceError, match="cannot connect"):
        list(asking(endpoint=url, tries=2, at_once=1).complete([ask(f"{n}") for n in range(5)]))


def test_requests_carry_what_the_recipe_adds_and_leave_out_what_it_nulls(teacher: Teacher, asking: Make) -> None:
    list(asking(request={"seed": None, "top_p": 0.9}, limit_key="max_completion_tokens").complete([ask("x")]))
    assert teacher.bodies == [
        {"model": "scripted", "messages": [{"role": "user", "content": "x"}], "max_completion_tokens": 50,
         "temperature": 0.5, "top_p": 0.9}
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- budget


def test_the_budget_holds_with_many_at_once_and_what_it_allows_is_used(teacher: Teacher, asking: Make) -> None:
    teacher.slow_s = 0.005
    teacher.usage = lambda body, text: {"prompt_tokens": 40, "completion_tokens": 50}
    asks = asking(tokens=2000, at_once=8)
    replies = list(asks.complete([ask(f"{n}") for n in range(60)]))
    answered = [reply for reply in replies if reply.trouble is None]
    assert {reply.trouble for reply in replies} == {None, NO_BUDGET}
    assert teacher.billed == 90 * len(answered) <= 2000
    assert len(answered) >= 20, "what was set aside and not used comes back"


def test_dollars_are_held_to_the_last_millionth(teacher: Teacher, asking: Make) -> None:
    teacher.usage = lambda body, text: {"prompt_tokens": 100, "completion_tokens": 50}
    asks = asking(tokens=None, dollars=0.001, price={"prompt": 1.0, "answer": 4.0}, at_once=1)
    replies = list(asks.complete([ask(f"{n}") for n in range(10)]))
    answered = sum(reply.trouble is None for reply in replies)
    assert answered == 3  # 0.0003 dollars each, and 281 millionths are set aside for the next: 81 and 4 x 50
    assert 0.0003 * answered <= 0.001


def test_what_a_killed_run_had_set_aside_counts_as_spent(tmp_path: Path) -> None:
    journal = tmp_path / "spent.jsonl"
    first = Budget(journal, tokens=1000, dollars=None)
    made = first.reserve(100, 200, Prices())
    assert made is not None
    first.settle(made, 90, 10)
    assert first.reserve(300, 300, Prices()) is not None
    first.close()  # as if killed: the second sum was never settled
    again = Budget(journal, tokens=1000, dollars=None)
    assert (again.spent.tokens, again.spent.unknown) == (700, 600)
    assert again.reserve(301, 0, Prices()) is None
    assert again.reserve(300, 0, Prices()) is not None


def test_a_journal_that_a_crash_cut_off_is_read_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    journal = tmp_path / "spent.jsonl"
    budget = Budget(journal, tokens=1000, dollars=None)
    made = budget.reserve(10, 10, Prices())
    assert made is not None
    budget.settle(made, 5, 5)
    budget.close()
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"reserve": "cut')
    again = Budget(journal, tokens=1000, dollars=None)
    assert again.spent.tokens == 10
    assert again.reserve(1, 1, Prices()) is not None
    again.close()
    assert Budget(journal, tokens=1000, dollars=None).spent.tokens == 12
    journal.write_bytes(b"oops\n" + whole)
    with pytest.raises(StoreError, match=r"spent.jsonl:1 is damaged"):
        Budget(journal, tokens=1000, dollars=None)


def test_an_endpoint_that_bills_more_than_allowed_is_asked_nothing_more(teacher: Teacher, asking: Make) -> None:
    teacher.usage = lambda body, text: {"prompt_tokens": 5000, "completion_tokens": 5000}
    with pytest.raises(ResourceError, match="budget is exceeded"):
        list(asking(tokens=9000, at_once=4).complete([ask(f"{n}") for n in range(40)]))
    assert len(teacher.bodies) == 1, "until one answer has shown how the endpoint counts, one request is under way"


def test_what_an_endpoint_adds_to_prompts_is_learned(teacher: Teacher, asking: Make) -> None:
    teacher.usage = lambda body, text: {"prompt_tokens": 1081, "completion_tokens": 50}
    replies = list(asking(tokens=5000, at_once=4).complete([ask(f"{n}") for n in range(9)]))
    assert sum(reply.trouble is None for reply in replies) == 4
    assert teacher.billed <= 5000


def test_tokens_that_nobody_tells_count_as_set_aside(teacher: Teacher, asking: Make) -> None:
    teacher.usage = lambda body, text: None
    replies = list(asking(tokens=400, at_once=1).complete([ask(f"{n}") for n in range(9)]))
    assert (
        sum(reply.trouble is None for reply in replies) == 3
    )  # 131 each: 1 byte, 16 for the turn, 64, and 50 for the answer


@given(
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500), st.integers(0, 500), st.integers(0, 500)), max_size=40)
)
@settings(max_examples=30, deadline=None)
def test_whatever_is_reserved_and_settled_within_it_the_limit_holds(
    tmp_path_factory: Any, steps: list[tuple[int, ...]]
) -> None:
    journal = tmp_path_factory.mktemp("budget") / "spent.jsonl"
    prices = Prices(0.123, 4.567)
    budget = Budget(journal, tokens=3000, dollars=0.005)
    for prompt, new, used_prompt, used_new in steps:
        held = budget.reserve(prompt, new, prices)
        if held is not None:
            budget.settle(held, min(prompt, used_prompt), min(new, used_new))
        assert budget.spent.tokens <= 3000
        assert budget.spent.dollars <= 0.005
        assert not budget.exceeded
    spent = budget.spent
    budget.close()
    again = Budget(journal, tokens=3000, dollars=0.005)
    assert again.spent == spent
    again.close()


# -------------------------------------------------------------------------------------------------------------- Ctrl-C

SCRIPT = """
import sys, pathlib
from burnish.core.completion import Ask, Turn
from burnish.core.recipe_augment import Model
from burnish.endpoint.budget import Budget
from burnish.endpoint.cache import Cache
from burnish.endpoint.client import Client
from burnish.endpoint.complete import Asking
import signal; signal.signal(signal.SIGINT, signal.default_int_handler)
at = pathlib.Path(sys.argv[2])
model = Model.model_validate({"endpoint": sys.argv[1], "model": "scripted", "at_once": 2})
asks = Asking(Client(model), Cache(at / "cache"), Budget(at / "spent.jsonl", tokens=10**9, dollars=None))
print("ready", flush=True)
for reply in asks.complete([Ask((Turn("user", str(n)),), 50, 0.5, 0) for n in range(500)]):
    pass
"""


def test_ctrl_c_waits_for_what_is_under_way_and_keeps_it(teacher: Teacher, asking: Make, tmp_path: Path) -> None:
    teacher.slow_s = 0.2
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, teacher.url, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    while len(teacher.bodies) < 5:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) != 0
    asked = len(teacher.bodies)
    assert asked < 50
    assert len(list((tmp_path / "cache").rglob("*.json"))) == asked, "every answer that was paid for is kept"
    budget = Budget(tmp_path / "spent.jsonl", tokens=None, dollars=None)
    assert (budget.spent.unknown, budget.spent.tokens) == (0, teacher.billed)
    budget.close()
    teacher.slow_s = 0
    list(asking().complete([ask(f"{n}") for n in range(20)]))
    assert len(teacher.bodies) == 20


def test_waiting_ends_when_asking_is_stopped(teacher: Teacher) -> None:
    client = Client(Model.model_validate({"endpoint": teacher.url, "model": "m"}), backoff_s=60)
    threading.Timer(0.1, client.stop).start()
    began = time.monotonic()
    assert client.wait(1, 0.0) is False
    assert time.monotonic() - began < 20
    assert client.send({}, 1).reply == Reply(trouble="stopped")
    client.close()


def test_progress_tells_the_time_left(teacher: Teacher, asking: Make) -> None:
    heard: list[tuple[int, int, float | None]] = []
    list(asking(tell=lambda *what: heard.append(what)).complete([ask(f"{n}") for n in range(5)]))
    assert [done for done, _, _ in heard] == [0, 1, 2, 3, 4, 5]
    assert heard[-1][2] == 0.0
    assert heard[0][2] is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_that_nobody_foresaw_ends_the_asking_instead_of_hanging(
    teacher: Teacher, asking: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks = asking()
    monkeypatch.setattr(Client, "send", lambda *_: 1 / 0)
    with pytest.raises(ResourceError, match="not foreseen"):
        list(asks.complete([ask("x")]))
