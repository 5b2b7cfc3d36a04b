"""`burnish serve` as people start it, and the engine of this process behind the gateway, asked by OpenAI's own client."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from gateway_running import BadUpstream, Running

from burnish.cli import main
from burnish.core.errors import RecipeError, UsageError
from burnish.doors.gateway import ServeWish
from burnish.gateway.listing import lost_routes
from burnish.gateway.redis_server import RedisServer
from burnish.gateway.settings import Route, load_settings


@pytest.fixture
def upstream() -> Iterator[BadUpstream]:
    upstream = BadUpstream()
    yield upstream
    upstream.close()


def start(home: Path, *flags: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    """Start `burnish serve --json` and return it with what it printed."""
    command = [sys.executable, "-m", "burnish", "serve", "--port", "0", "--json", "--home", str(home), *flags]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    text = ""
    while not text.rstrip().endswith("}"):
        line = process.stdout.readline()
        assert line, process.stderr.read() if process.stderr else ""
        text += line
    return process, json.loads(text)


def end(process: subprocess.Popen[str], number: signal.Signals = signal.SIGTERM) -> str:
    process.send_signal(number)
    assert process.wait(30) == 0
    assert process.stderr is not None
    said = process.stderr.read()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    return said


def test_the_first_start_shows_an_admin_key_once_and_writes_a_chat_key(
    upstream: BadUpstream, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process, told = start(tmp_path, "--upstream", upstream.url)
    try:
        path = Path(told["chat_key_file"])
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        chat = path.read_text().strip()
        admin = {"authorization": f"Bearer {told['admin_key']}"}
        assert [key["scope"] for key in httpx.get(f"{told['url']}/admin/keys", headers=admin).json()["keys"]] == [
            "admin",
            "chat",
        ]
        client = openai.OpenAI(base_url=f"{told['url']}/v1", api_key=chat, max_retries=0)
        answer = client.chat.completions.create(model="ok", messages=[{"role": "user", "content": "hi"}])
        assert answer.choices[0].message.content == "Hello world 🛫"
        assert httpx.get(f"{told['url']}/health/ready").status_code == 200
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{told['url']}/v1", api_key="any", max_retries=0).models.list()
    finally:
        said = end(process)
    assert told["admin_key"] not in said
    assert chat not in said
    process, again = start(tmp_path, "--upstream", upstream.url)
    end(process, signal.SIGINT)
    assert again["admin_key"] is None
    assert Path(again["chat_key_file"]).read_text().strip() == chat
    assert main(["keys", "audit", "--json", "--home", str(tmp_path)]) == 0
    actions = [row["action"] for row in json.loads(capsys.readouterr().out)]
    assert actions == ["key created", "key created", "started", "stopped", "started", "stopped"]


def test_a_start_that_fails_makes_no_admin_key_that_nobody_would_see(upstream: BadUpstream, tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    config.write_text("tls_certificate: nowhere.pem\ntls_key: nowhere.pem\n")
    flags = ["--port", "0", "--upstream", upstream.url, "--config", str(config), "--home", str(tmp_path)]
    assert main(["serve", *flags]) == 2
    process, told = start(tmp_path, "--upstream", upstream.url)
    end(process)
    assert told["admin_key"] is not None


def test_what_works_and_is_hardly_meant_is_told_at_the_start(upstream: BadUpstream, tmp_path: Path) -> None:
    assert main(["keys", "create", "bot", "--usd-per-day", "1", "--home", str(tmp_path)]) == 0
    process, _ = start(tmp_path, "--upstream", upstream.url)
    said = end(process)
    assert "count nothing: no model has a price" in said
    assert "unprotected" not in said
    config = tmp_path / "gateway.yaml"
    config.write_text("prices: {default: {answer_usd: 1}}\n")
    process, _ = start(tmp_path, "--upstream", upstream.url, "--config", str(config), "--host", "0.0.0.0")
    said = end(process)
    assert "count nothing" not in said
    assert "keys and texts cross the network unprotected: 0.0.0.0" in said


def test_a_chat_key_that_was_revoked_or_lost_is_made_again(upstream: BadUpstream, tmp_path: Path) -> None:
    process, told = start(tmp_path, "--upstream", upstream.url)
    end(process)
    path = Path(told["chat_key_file"])
    first = path.read_text().strip()
    assert main(["keys", "revoke", first.split("_")[1], "--home", str(tmp_path)]) == 0
    process, _ = start(tmp_path, "--upstream", upstream.url)
    end(process)
    assert path.read_text().strip() != first


def test_a_signal_lets_the_answer_at_work_end(upstream: BadUpstream, tmp_path: Path) -> None:
    settings = tmp_path / "serve.yaml"
    settings.write_text("timeouts: {total_s: 2, drain_s: 20}\n")
    process, told = start(tmp_path / "home", "--upstream", upstream.url, "--config", str(settings))
    key = Path(told["chat_key_file"]).read_text().strip()
    body = {"model": "endless", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    own = {"authorization": f"Bearer {key}"}
    with httpx.stream("POST", f"{told['url']}/v1/chat/completions", json=body, headers=own, timeout=20) as response:
        lines = response.iter_lines()
        next(lines)
        process.send_signal(signal.SIGTERM)
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert process.wait(20) == 0
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def test_a_shadow_that_still_answers_does_not_hold_up_the_end(upstream: BadUpstream, tmp_path: Path) -> None:
    settings = tmp_path / "serve.yaml"
    settings.write_text("routes: {main: {champion: ok, shadow: slow-first}}\n")
    process, told = start(tmp_path / "home", "--upstream", upstream.url, "--config", str(settings))
    own = {"authorization": f"Bearer {told['admin_key']}"}
    body = {"model": "main", "messages": [{"role": "user", "content": "hi"}]}
    assert httpx.post(f"{told['url']}/v1/chat/completions", json=body, headers=own).status_code == 200
    until = time.monotonic() + 10
    while not any(seen["model"] == "slow-first" for seen in upstream.seen) and time.monotonic() < until:
        time.sleep(0.02)
    began = time.monotonic()
    end(process)
    assert time.monotonic() - began < 10, "the shadow answers after 30 seconds"


def test_a_gateway_before_another_tells_the_version_that_answered(
    upstream: BadUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tmp_path / "first.yaml"
    first.write_text("routes: {main: {champion: ok, targets: [{model: challenger}]}}\n")
    inner, told = start(tmp_path / "first", "--upstream", upstream.url, "--config", str(first))
    monkeypatch.setenv("INNER_KEY", told["admin_key"])
    second = tmp_path / "second.yaml"
    second.write_text(f"upstream: {told['url']}/v1/\nupstream_key_variable: INNER_KEY\n")
    outer, told = start(tmp_path / "second", "--config", str(second))
    own = {"authorization": f"Bearer {told['admin_key']}"}
    for stream in (False, True):
        body = {"model": "main", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
        answer = httpx.post(f"{told['url']}/v1/chat/completions", json=body, headers=own)
        assert answer.status_code == 200
        assert answer.headers.get_list("x-burnish-model") == ["challenger"]
    for name, status in (("ok:3", 200), ("ok:4", 404), ("a%2F..%2Fok:3", 404)):
        assert httpx.get(f"{told['url']}/v1/models/{name}", headers=own).status_code == status
    end(outer)
    end(inner)


def test_what_was_kept_goes_when_its_days_are_over_even_if_nothing_is_kept_any_more(
    upstream: BadUpstream, tmp_path: Path
) -> None:
    folder = tmp_path / "gateway" / "content"
    folder.mkdir(parents=True)
    (folder / "2026-01-01.jsonl").write_text("{}\n")
    process, _ = start(tmp_path, "--upstream", upstream.url)
    end(process)
    assert list(folder.iterdir()) == []


def test_a_taken_port_is_told_before_anything_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert main(["serve", "--port", str(port), "--upstream", "http://127.0.0.1:1", "--home", str(tmp_path)]) == 5
    assert f"port {port}" in capsys.readouterr().err
    assert not (tmp_path / "gateway").exists()


def test_tls_files_serve_https(upstream: BadUpstream, tmp_path: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
               "-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem"), "-subj", "/CN=localhost",
               "-addext", "subjectAltName=IP:127.0.0.1"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    settings = tmp_path / "serve.yaml"
    settings.write_text(f"tls_certificate: {tmp_path / 'cert.pem'}\ntls_key: {tmp_path / 'key.pem'}\n")
    process, told = start(tmp_path / "home", "--upstream", upstream.url, "--config", str(settings))
    try:
        assert told["url"].startswith("https://")
        import ssl

        trusted = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        assert httpx.get(f"{told['url']}/health/live", verify=trusted).status_code == 200
        with pytest.raises(httpx.HTTPError):
            httpx.get(told["url"].replace("https", "http") + "/health/live")
    finally:
        end(process)


def test_chat_talks_through_a_running_gateway_with_the_chat_key(
    upstream: BadUpstream, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    process, told = start(tmp_path, "--upstream", upstream.url)
    try:
        chat = ["chat", "ok", "--url", told["url"], "--once", "hi"]
        assert main([*chat, "--json", "--home", str(tmp_path)]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert (answer["answer"], answer["prompt_tokens"], answer["new_tokens"]) == ("Hello world 🛫", 11, 5)
        assert main([*chat, "--home", str(tmp_path / "other")]) == 2
        assert "no key to ask with" in capsys.readouterr().err
        monkeypatch.setenv("BURNISH_KEY", "bk_wrong")
        assert main([*chat, "--home", str(tmp_path)]) == 9
        assert "valid key" in capsys.readouterr().err
        monkeypatch.delenv("BURNISH_KEY")
        assert main(["chat", "breaks", "--url", told["url"], "--once", "hi", "--home", str(tmp_path)]) == 9
        assert main(["chat", "ok", "--url", "ftp://x", "--once", "hi", "--home", str(tmp_path)]) == 2
    finally:
        end(process)
    assert main([*chat, "--home", str(tmp_path)]) == 9
    assert "Start it: burnish serve" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("caps: {body_bytes: 0}", "caps.body_bytes"), ("hostss: []", "unknown key"), ("a: 1\na: 2", "given twice"),
        ("- x", "valid dictionary"), ("{", "not YAML"), ("upstream: ftp://x", "upstream"), ("origins: ['*']", "origins"),
        ("tls_key: x", "given together"), ("routes: {a: {champion: b, targets: [{model: c, weight: 0}]}}", "weights"),
        ("routes: {auto: {champion: b}}", "no route can have its name"),
        ("prices: {a: {prompt_usd: -1}}", "prompt_usd"), ("timeouts: {total_s: .inf}", "total_s"),
    ],
)  # fmt: skip
def test_wrong_settings_name_the_key(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=says):
        load_settings(path)


def test_settings_never_repeat_a_password(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text("upstream: 'ftp://user:hunter2@x'")
    with pytest.raises(RecipeError) as caught:
        load_settings(path)
    assert "hunter2" not in str(caught.value)


def test_tracing_without_its_packages_says_what_to_install(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("opentelemetry.exporter") is not None:
        pytest.skip("the exporter is installed here")
    path = tmp_path / "serve.yaml"
    path.write_text("tracing: true\n")
    flags = ["--upstream", "http://127.0.0.1:1", "--config", str(path), "--home", str(tmp_path), "--port", "0"]
    assert main(["serve", *flags]) == 5
    assert "burnish[tracing]" in capsys.readouterr().err


def test_flags_go_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text("upstream: http://a\nretries: 0\n")
    settings = ServeWish(config=path, upstream="http://b").settings()
    assert (settings.upstream, settings.retries) == ("http://b", 0)
    with pytest.raises(UsageError, match="cannot read"):
        ServeWish(config=tmp_path / "none.yaml").settings()


# ------------------------------------------------------------------------------------- the engine of this process


@pytest.mark.parametrize("graphs", [True, False])
def test_graphs_of_decoding_steps_are_a_flag(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graphs: bool
) -> None:
    from burnish.core.events import discard
    from burnish.doors import serving
    from burnish.serve import engine
    from burnish.store.home import Home

    asked: list[bool] = []

    class Watched(engine.Engine):
        def __init__(self, model: Any, *, graphs: bool) -> None:
            asked.append(graphs)
            super().__init__(model, graphs=graphs)

    monkeypatch.setenv(serving.HUGE_PAGES, "")  # put back after the test
    monkeypatch.delenv(serving.HUGE_PAGES)
    monkeypatch.setattr(engine, "Engine", Watched)
    monkeypatch.setattr(serving, "DEFAULT_BASE", str(tiny_base))
    serving.open_engine_app(Home(tmp_path), discard, graphs=graphs).close()
    assert asked == [graphs]
    assert os.environ[serving.HUGE_PAGES] == "1", "an engine without huge pages"


def test_graphs_are_nothing_to_another_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--no-graphs", "--upstream", "http://127.0.0.1:1", "--home", str(tmp_path)]) == 2
    assert "--no-graphs is about the own engine" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "value", "says"),
    [("--upstream", "ftp://x", "no address of an engine"), ("--vllm", "/nowhere/python", "bin/python")],
)
def test_wrong_addresses_say_what_to_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str, value: str, says: str
) -> None:
    assert main(["serve", "--port", "0", "--home", str(tmp_path), flag, value]) == 2
    assert says in capsys.readouterr().err


def test_a_wrong_address_of_redis_says_what_to_write_and_repeats_no_password() -> None:
    with pytest.raises(UsageError, match="redis://HOST") as told:
        RedisServer("http://me:secret@x")
    assert "secret" not in str(told.value)


@pytest.fixture(scope="module")
def engine_running(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A gateway in front of a real engine with a tiny model, in one process."""
    from burnish.model.load import load_base
    from burnish.serve.answer import ServedModel
    from burnish.serve.api import Service, create_app
    from burnish.serve.engine import Engine
    from burnish.text.tokenizer import load_tokenizer
    from burnish.wiring import prompt_counter

    tokenizer = load_tokenizer(tiny_base)
    models = {"base": ServedModel(None, None), "dated": ServedModel(None, "Today is {weekday} {date}.")}
    engine = Engine(load_base(tiny_base), rows=2, queue=4)
    service = Service(engine=engine, tokenizer=tokenizer, models=models)
    extra = {"count": prompt_counter(tokenizer, models), "context_tokens": engine.context_tokens}
    running = Running(
        "http://127.0.0.1:1", tmp_path_factory.mktemp("engine"), extra=extra, upstream=create_app(service)
    )
    yield running
    running.close()
    engine.close(drain=False)


def client_of(running: Running, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key=key, max_retries=0)


@pytest.mark.parametrize("model", ["base", "dated"])
def test_prompts_are_counted_before_they_run_exactly_as_the_engine_counts_them(
    engine_running: Running, model: str
) -> None:
    key = engine_running.key()
    client = client_of(engine_running, key)
    messages: Any = [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Où? 🛫"}]},
    ]  # fmt: skip
    answer = client.chat.completions.create(
        model=model, messages=messages[-1:] if model == "dated" else messages, max_tokens=4
    )
    assert answer.usage is not None
    assert engine_running.used(key) == answer.usage.total_tokens
    counted = engine_running.gateway.parts.count
    assert counted is not None
    body = {"model": model, "messages": messages[-1:] if model == "dated" else messages}
    assert counted(model, body) == [answer.usage.prompt_tokens]
    exact = engine_running.key(tokens_per_minute=answer.usage.prompt_tokens + 4)
    client_of(engine_running, exact).chat.completions.create(model=model, messages=body["messages"], max_tokens=4)
    short = client_of(engine_running, engine_running.key(tokens_per_minute=answer.usage.prompt_tokens + 3))
    with pytest.raises(openai.APIStatusError) as caught:
        short.chat.completions.create(model=model, messages=body["messages"], max_tokens=4)
    assert caught.value.status_code == 413


def test_routes_are_told_at_the_start_for_each_kind_of_model_that_they_miss(engine_running: Running) -> None:
    router = engine_running.gateway.parts.router
    routes = {
        "good": {"champion": "base", "targets": [{"model": "dated"}], "shadow": "dated"},
        "first": {"champion": "gone"},
        "second": {"champion": "base", "targets": [{"model": "gone"}]},
        "third": {"champion": "base", "shadow": "gone"},
    }
    for alias, value in routes.items():
        router.set(alias, Route.model_validate(value))
    try:
        said = asyncio.run(lost_routes(engine_running.gateway.parts))
    finally:
        for alias in routes:
            router.set(alias, None)
    assert [text.split(",")[0] for text in said] == [
        f"the route {alias!r} leads to 'gone'" for alias in ("first", "second", "third")
    ]
    assert all("Known: base, dated, and versions of them" in text for text in said)


TOOLS: Any = [{"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]  # fmt: skip


def test_what_a_request_may_use_is_never_less_than_what_it_uses(engine_running: Running) -> None:
    """Tools are written into the prompt, and each of several prompts gets an answer: all of it is reserved first."""
    messages: Any = [{"role": "user", "content": "hi"}]
    counted = engine_running.gateway.parts.count
    assert counted is not None
    for choice in ("auto", "required", "none"):
        key = engine_running.key()
        client_of(engine_running, key).chat.completions.create(
            model="dated", messages=messages, max_tokens=2, tools=TOOLS, tool_choice=choice
        )
        asked = {"messages": messages, "tools": TOOLS, "tool_choice": choice, "model": "dated"}
        prompt = counted("dated", asked)
        assert prompt is not None
        assert engine_running.used(key) in (prompt[0] + 1, prompt[0] + 2)
    key = engine_running.key()
    texts = ["one", "two words", "three"]
    done = client_of(engine_running, key).completions.create(model="base", prompt=texts, max_tokens=3)
    assert done.usage is not None
    prompts = counted("base", {"model": "base", "prompt": texts})
    assert prompts is not None
    assert len(prompts) == 3
    assert sum(prompts) == done.usage.prompt_tokens
    limit = done.usage.prompt_tokens + 3 * 3
    client_of(engine_running, engine_running.key(tokens_per_minute=limit)).completions.create(
        model="base", prompt=texts, max_tokens=3
    )
    short = client_of(engine_running, engine_running.key(tokens_per_minute=limit - 1))
    with pytest.raises(openai.APIStatusError, match="may use more"):
        short.completions.create(model="base", prompt=texts, max_tokens=3)
    key = engine_running.key()
    vectors = client_of(engine_running, key).embeddings.create(model="base", input=texts)
    assert counted("base", {"model": "base", "input": texts}) == prompts
    assert sum(prompts) == vectors.usage.prompt_tokens == engine_running.used(key)


def test_who_names_no_length_gets_what_there_is_room_for(engine_running: Running) -> None:
    """The gateway reserves a length for it; asked of the engine, it may not be more than the context holds."""
    key = engine_running.key()
    client = client_of(engine_running, key)
    counted, context = engine_running.gateway.parts.count, engine_running.gateway.parts.context_tokens
    assert counted is not None
    assert context == 512
    long: Any = [{"role": "user", "content": "word " * 100}]
    prompt = counted("base", {"model": "base", "messages": long})
    assert prompt is not None
    assert context - 200 < prompt[0] < context, "less is left than the gateway's default of 1,024"
    done = client.chat.completions.create(model="base", messages=long)
    assert done.usage is not None
    assert done.usage.total_tokens <= context
    texts = ["one " * 60, "two " * 60]
    done = client.completions.create(model="base", prompt=texts)
    assert done.usage is not None
    assert 2 <= done.usage.completion_tokens <= 2 * 16, "a text completion has OpenAI's default of 16"
    with pytest.raises(openai.BadRequestError, match="context holds 512"):
        client.chat.completions.create(model="base", messages=long, max_tokens=400)


def test_openais_client_streams_through_the_gateway(engine_running: Running) -> None:
    key = engine_running.key()
    chunks = list(client_of(engine_running, key).chat.completions.create(
        model="base", messages=[{"role": "user", "content": "x"}], max_tokens=5, stream=True,
    ))  # fmt: skip
    assert chunks[-1].choices[0].finish_reason in ("length", "stop")
    assert all(chunk.choices for chunk in chunks), "the event with the usage is not for who did not ask"
    assert engine_running.used(key) > 0
    assert [model.id for model in client_of(engine_running, key).models.list()] == ["base", "dated"]


def test_openais_client_raises_its_own_errors(engine_running: Running) -> None:
    client = client_of(engine_running, engine_running.key(requests_per_minute=1))
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nothing", messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="base", messages=[{"role": "user", "content": "x"}])
    assert int(caught.value.response.headers["retry-after"]) > 0
    with pytest.raises(openai.UnprocessableEntityError):
        client_of(engine_running, engine_running.key()).chat.completions.create(
            model="base", messages=[], max_tokens=-1
        )


def test_hanging_up_frees_the_engines_row_at_once(engine_running: Running) -> None:
    key = engine_running.key(concurrency=1)
    stream = client_of(engine_running, key).chat.completions.create(
        model="base", messages=[{"role": "user", "content": "x"}], max_tokens=400, stream=True
    )
    next(iter(stream))
    stream.close()
    until = time.monotonic() + 5
    ready: dict[str, Any] = {"at_work": 1}
    while ready["at_work"] and time.monotonic() < until:
        ready = httpx.get(f"{engine_running.url}/health/ready").json()
        time.sleep(0.02)
    assert ready["at_work"] == 0
    assert engine_running.used(key) >= 0
