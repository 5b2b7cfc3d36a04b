"""Which version answers: weights, stickiness, override, shadows, roll-back, and the model that a request is about."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from gateway_running import BadUpstream, Running
from hypothesis import given
from hypothesis import strategies as st

from burnish.core.refusal import Refusal
from burnish.gateway.audit import entries
from burnish.gateway.route import Choice, Router
from burnish.gateway.settings import Route, Settings


def route(**more: object) -> Route:
    return Route.model_validate({
        "champion": "champion", "targets": [{"model": "champion", "weight": 9}, {"model": "challenger", "weight": 1}], **more,
    })  # fmt: skip


def test_weights_are_kept_and_who_asks_sticks_to_a_version() -> None:
    router = Router({"a": route()})
    first = {f"user-{n}": router.choose("a", f"user-{n}", None).model for n in range(10_000)}
    assert 850 < Counter(first.values())["challenger"] < 1150  # binomial: 1,000 give or take 30 (one sigma)
    assert all(router.choose("a", who, None).model == model for who, model in first.items())
    router.set("a", route(targets=[{"model": "champion", "weight": 8}, {"model": "challenger", "weight": 2}]))
    moved = [who for who, model in first.items() if router.choose("a", who, None).model != model]
    assert all(first[who] == "champion" for who in moved), "more weight takes nobody away from a version"


@given(weights=st.lists(st.floats(0, 100), min_size=1, max_size=5).filter(lambda w: sum(w) > 0), who=st.text())
def test_some_version_with_weight_is_always_chosen(weights: list[float], who: str) -> None:
    targets = [{"model": f"m{n}", "weight": weight} for n, weight in enumerate(weights)]
    router = Router({"a": Route.model_validate({"champion": "champion", "targets": targets})})
    chosen = router.choose("a", who, None).model
    assert chosen == "champion" or weights[int(chosen[1:])] > 0


def test_an_override_goes_to_versions_of_the_route_alone() -> None:
    router = Router({"a": route()})
    assert router.choose("a", "x", "challenger").model == "challenger"
    with pytest.raises(Refusal, match="does not lead there"):
        router.choose("a", "x", "other")
    with pytest.raises(Refusal, match="no route"):
        router.choose("b", "x", "other")
    assert router.choose("b", "x", None) == Choice("b", "b")


def test_aliases_become_versions_where_they_can_be_told() -> None:
    router = Router({"a": route()}, {"champion": "champion:7", "b": "b:3"}.get)
    assert router.choose("a", "x", "champion").model == "champion:7"
    assert router.choose("b", "x", None).model == "b:3"


def test_a_version_that_fails_more_than_the_champion_is_taken_out_once() -> None:
    router, told = Router({"a": route()}), []
    router.on_rollback(lambda *what: told.append(what))
    for _ in range(50):
        router.note(Choice("a", "champion"), good=True, first_s=0.1)
    for n in range(19):
        router.note(Choice("a", "challenger"), good=n > 5, first_s=0.1)
    assert told == [], "fewer than twenty answers judge nobody"
    router.note(Choice("a", "challenger"), good=True, first_s=0.1)
    router.note(Choice("a", "challenger"), good=False, first_s=0.1)
    assert len(told) == 1
    assert "30% of its last 20 answers failed; the champion's: 0%" in told[0][2]
    assert {router.choose("a", f"u{n}", None).model for n in range(200)} == {"champion"}
    assert router.choose("a", "x", "challenger").model == "challenger", "who asks for it by name still gets it"
    router.set("a", route())
    assert "challenger" in {router.choose("a", f"u{n}", None).model for n in range(200)}


def test_a_champion_that_fails_as_much_keeps_its_challenger() -> None:
    router = Router({"a": route()})
    for n in range(100):
        for model in ("champion", "challenger"):
            router.note(Choice("a", model), good=n % 5 != 0, first_s=0.1)
    assert router.out_of_traffic("a") == {}


def test_a_version_that_is_twice_as_slow_is_taken_out() -> None:
    router = Router({"a": route()})
    for _ in range(30):
        router.note(Choice("a", "champion"), good=True, first_s=0.1)
        router.note(Choice("a", "challenger"), good=True, first_s=0.19)
    assert router.out_of_traffic("a") == {}
    for _ in range(200):
        router.note(Choice("a", "challenger"), good=True, first_s=0.21)
    assert "0.21 s (median), the champion's 0.10 s" in router.out_of_traffic("a")["challenger"]


def test_whole_answers_are_not_held_against_first_tokens() -> None:
    router = Router({"a": route()})
    for _ in range(30):
        router.note(Choice("a", "champion"), good=True, first_s=0.1)
        router.note(Choice("a", "challenger"), good=True, first_s=2.0, whole=True)
    assert router.out_of_traffic("a") == {}
    for _ in range(30):
        router.note(Choice("a", "champion"), good=True, first_s=0.9, whole=True)
        router.note(Choice("a", "challenger"), good=True, first_s=2.0, whole=True)
    assert "its whole answer takes 2.00 s" in router.out_of_traffic("a")["challenger"]


def test_a_champion_is_never_taken_out() -> None:
    router = Router({"a": route()})
    for _ in range(100):
        router.note(Choice("a", "champion"), good=False, first_s=None)
    assert router.out_of_traffic("a") == {}


# -------------------------------------------------------------------------------------------------------- over HTTP


@pytest.fixture(scope="module")
def upstream() -> Iterator[BadUpstream]:
    upstream = BadUpstream()
    yield upstream
    upstream.close()


@pytest.fixture
def running(upstream: BadUpstream, tmp_path: Path) -> Iterator[Running]:
    settings = Settings.model_validate({
        "routes": {
            "search": {"champion": "champion", "targets": [{"model": "champion"}, {"model": "challenger"}]},
            "risky": {"champion": "champion", "targets": [{"model": "challenger-fails"}]},
            "shadowed": {"champion": "champion", "shadow": "challenger"},
        },
    })  # fmt: skip
    running = Running(upstream.url, tmp_path, settings)
    yield running
    running.close()


def test_the_answer_says_which_version_it_is_from_and_sessions_stick(running: Running) -> None:
    key = running.key()
    seen = {
        session: {
            running.ask(key, "search", headers={"x-burnish-session": session}).headers["x-burnish-model"]
            for _ in range(3)
        }
        for session in map(str, range(12))
    }
    assert all(len(models) == 1 for models in seen.values())
    assert set().union(*seen.values()) == {"champion", "challenger"}
    forced = running.ask(key, "search", headers={"x-burnish-version": "challenger"})
    assert forced.json()["model"] == forced.headers["x-burnish-model"] == "challenger"
    assert running.ask(key, "search", headers={"x-burnish-version": "base"}).status_code == 422
    own = {"authorization": f"Bearer {key}"}
    assert {"search", "risky"} <= {card["id"] for card in running.client.get("/v1/models", headers=own).json()["data"]}


def test_a_shadow_gets_a_copy_that_nobody_pays_for(running: Running, upstream: BadUpstream) -> None:
    key = running.key()
    before = len(upstream.seen)
    assert running.ask(key, "shadowed", stream=True).headers["x-burnish-model"] == "champion"
    until = time.monotonic() + 5
    while len(upstream.seen) < before + 2 and time.monotonic() < until:
        time.sleep(0.01)
    assert sorted(value["model"] for value in upstream.seen[before:]) == ["challenger", "champion"]
    assert running.used(key) == 16
    text = running.client.get("/metrics", headers={"authorization": f"Bearer {running.admin}"}).text
    assert 'burnish_shadow_total{model="challenger",result="good"} 1.0' in text


def test_a_shadow_is_the_version_that_its_name_means_and_never_the_one_that_answers() -> None:
    meant = {"champion": "x:1", "x@next": "x:2", "x@old": "x:1"}.get
    shadows = [
        Router({"a": route(targets=[], shadow=name)}, meant).choose("a", "who", None).shadow
        for name in ("x@next", "x@old")
    ]
    assert shadows == ["x:2", None]


def test_a_version_that_is_not_there_leaves_traffic(
    running: Running, upstream: BadUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "models", [*upstream.models, "unknown"])  # it was there when the route was set
    own = {"authorization": f"Bearer {running.admin}"}
    half = {"champion": "ok", "targets": [{"model": "unknown", "weight": 1}]}
    assert running.client.post("/admin/routes/half", json=half, headers=own).status_code == 200
    key = running.key()
    assert [running.ask(key, "half").status_code for _ in range(21)] == [404] * 20 + [200]


def test_a_failing_version_leaves_traffic_by_itself_for_every_replica_and_the_audit(
    running: Running, upstream: BadUpstream
) -> None:
    key = running.key()
    statuses = [running.ask(key, "risky").status_code for _ in range(25)]
    assert statuses[:20] == [503] * 20
    assert statuses[-1] == 200
    until = time.monotonic() + 5
    rows = []
    while not rows and time.monotonic() < until:
        rows = [row for row in entries(running.database, running.gateway.parts.secret) if row.action == "route set"]
    assert rows[0].actor == "gateway"
    assert "challenger-fails" in rows[0].detail["out"]
    assert rows[0].detail["route"]["champion"] == "champion"
    other = Running(upstream.url, running.folder, running.settings)
    try:
        assert other.ask(key, "risky").status_code == 200, "another process on the same database knows it"
    finally:
        other.close()
    own = {"authorization": f"Bearer {running.admin}"}
    told = running.client.get("/admin/routes", headers=own).json()["routes"]["risky"]
    assert "failed" in told["out_of_traffic"]["challenger-fails"]


def test_setting_a_route_again_brings_a_version_back_in_every_replica(
    running: Running, upstream: BadUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("burnish.gateway.app.ROUTES_REFRESH_S", 0.0)
    key, own = running.key(), {"authorization": f"Bearer {running.admin}"}
    other = Running(upstream.url, running.folder, running.settings)
    try:
        for _ in range(20):
            assert running.ask(key, "risky").status_code == 503
        until = time.monotonic() + 5
        while other.ask(key, "risky").status_code != 200:
            assert time.monotonic() < until, "the other replica never heard of it"
        monkeypatch.setattr(upstream, "models", [*upstream.models, "challenger-fails"])
        again = {"champion": "champion", "targets": [{"model": "challenger-fails"}]}
        assert running.client.post("/admin/routes/risky", json=again, headers=own).status_code == 200
        assert running.ask(key, "risky").status_code == 503
        assert other.ask(key, "risky").status_code == 503, "it is tried again there too"
    finally:
        other.close()


def test_routes_are_set_and_removed_by_admins(running: Running) -> None:
    own = {"authorization": f"Bearer {running.admin}"}
    made = running.client.post("/admin/routes/fresh", json={"champion": "ok"}, headers=own)
    assert made.status_code == 200
    assert running.ask(running.key(), "fresh").headers["x-burnish-model"] == "ok"
    assert running.client.delete("/admin/routes/fresh", headers=own).status_code == 200
    assert running.client.delete("/admin/routes/fresh", headers=own).status_code == 404
    assert running.client.post("/admin/routes/x", json={"champion": ""}, headers=own).status_code == 422
    for name in ("auto", "fr\u0435sh", "x" * 129, "a b"):
        refused = running.client.post(f"/admin/routes/{name}", json={"champion": "ok"}, headers=own)
        assert (refused.status_code, refused.json()["error"]["param"]) == (422, "alias")


def test_a_route_leads_to_what_is_there(running: Running) -> None:
    own = {"authorization": f"Bearer {running.admin}"}
    for wrong in ({"champion": "chamption"}, {"champion": "ok", "targets": [{"model": "a/../b"}]},
                  {"champion": "ok", "shadow": "gone"}):  # fmt: skip
        refused = running.client.post("/admin/routes/lost", json=wrong, headers=own)
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "model_not_found")
        assert "Known: base, challenger, champion, ok" in refused.json()["error"]["message"]
    assert "lost" not in running.client.get("/admin/routes", headers=own).json()["routes"]
    version = {"champion": "ok", "targets": [{"model": "ok:3"}]}  # answered, though it is not listed
    assert running.client.post("/admin/routes/lost", json=version, headers=own).status_code == 200


@pytest.mark.parametrize(("target", "blamed"), [("busy", False), ("broken-adapter", True)])
def test_a_version_is_not_blamed_for_an_engine_that_is_full(
    upstream: BadUpstream, tmp_path: Path, target: str, *, blamed: bool
) -> None:
    route = {"champion": "champion", "targets": [{"model": target}]}
    running = Running(upstream.url, tmp_path, Settings.model_validate({"routes": {"a": route}}))
    try:
        key = running.key()
        answers = [running.ask(key, "a") for _ in range(21)]
        assert {each.status_code for each in answers[:20]} == {503}
        assert "secret" not in answers[0].text
        assert answers[20].status_code == (200 if blamed else 503)
    finally:
        running.close()


def test_a_version_is_not_blamed_for_an_engine_that_is_gone(tmp_path: Path) -> None:
    route = {"champion": "champion", "targets": [{"model": "challenger"}]}
    settings = Settings.model_validate({"routes": {"a": route}, "retries": 0})
    running = Running("http://127.0.0.1:9", tmp_path, settings)  # discard: nobody listens there
    try:
        key = running.key()
        codes = {running.ask(key, "a").json()["error"]["code"] for _ in range(25)}
        assert codes == {"upstream_unreachable"}
        assert running.gateway.parts.router.out_of_traffic("a") == {}
    finally:
        running.close()


# --------------------------------------------------------------------------------------------------- model: auto


PROMPTS = {
    "ok": [
        "Find me a flight from Paris to Rome",
        "Cheapest flights to Tokyo next week",
        "Book a plane ticket to Berlin",
    ],
    "champion": ["My parcel has not arrived", "I want a refund for my order", "The product I bought is broken"],
}


@pytest.mark.usefixtures("sentence_model")
def test_auto_picks_by_what_is_asked_and_tells_its_choice(upstream: BadUpstream, tmp_path: Path) -> None:
    from burnish.model.embed import sentence_embedder
    from burnish.wiring.serving import ranked

    embed = sentence_embedder()
    known = {name: embed(texts) for name, texts in PROMPTS.items()}

    def pick(text: str) -> list[tuple[str, float]]:
        return ranked(known, embed([text])[0])

    running = Running(upstream.url, tmp_path, extra={"pick": pick})
    try:
        key = running.key()
        asked = {
            "Find flights from Paris to London on Friday": "ok", "My parcel has still not arrived, where is it?": "champion",
            "What is the derivative of x squared?": "base",
        }  # fmt: skip
        for text, model in asked.items():
            response = running.ask(key, "auto", messages=[{"role": "user", "content": text}])
            assert response.json()["model"] == response.headers["x-burnish-model"] == model, response.headers[
                "x-burnish-intent"
            ]
            assert response.headers["x-burnish-intent"].startswith(f"{model}; nearest=")
        own = {"authorization": f"Bearer {key}"}
        for prompt, model in (
            (["Cheapest flights to Tokyo", "next week"], "ok"), ("Book a plane ticket to Berlin", "ok"),
            ([1, 2, 3], "base"), ("  ", "base"),
        ):  # fmt: skip
            body = {"model": "auto", "prompt": prompt}
            assert running.client.post("/v1/completions", json=body, headers=own).json()["model"] == model
        body = {"model": "auto", "input": "Book a plane ticket to Berlin"}
        vectors = running.client.post("/v1/embeddings", json=body, headers=own)
        assert vectors.headers["x-burnish-intent"] == "base; nearest=base; score=-1.000; threshold=0.5", (
            "vectors are alike only where one model makes all of them"
        )
        limited = running.key(models=["champion", "base"])
        flight = [{"role": "user", "content": "Find me a flight from Paris to Rome"}]
        assert running.ask(limited, "auto", messages=flight).json()["model"] == "base", (
            "it never picks what a key may not ask"
        )
        assert "auto" in {card["id"] for card in running.client.get("/v1/models", headers=own).json()["data"]}
    finally:
        running.close()
