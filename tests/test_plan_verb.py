"""`burnish plan`: its JSON keys are those of docs/plan.md, its limits and its errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from burnish.cli import main
from burnish.cli.verbs import with_values_below_zero
from burnish.plan.bases import find_config

DOCS = Path(__file__).parents[1] / "docs" / "plan.md"


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    rows = ('{"prompt": "What is the capital of France?", "completion": "Paris"}\n') * 4000
    (tmp_path / "rows.jsonl").write_text(rows, encoding="utf-8")
    text = "name: big\nbase: llama-3.1-8b-instruct\ndata: rows.jsonl\nmethod: lora\n"
    (tmp_path / "big.yaml").write_text(text, encoding="utf-8")
    deep = dict(find_config("llama-3.1-8b-instruct")) | {"num_hidden_layers": 999_999_999}
    for name, config in (("broken", "{"), ("deep", json.dumps(deep))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config, encoding="utf-8")
    return "big.yaml"


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out)


def at(value: Any, path: str) -> Any:
    for key in path.split("."):
        value = value[key]
    return value


def test_the_documented_keys_are_there_each_with_its_because(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", recipe, "--json", "--gpu", "h100"]) == 0
    plan = said(capsys)
    keys = [line.split("`")[1] for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert len(keys) >= 12
    for key in keys:
        assert at(plan, key) is not None, key
    assert plan["parameters"] == {"total": 8_030_261_248, "trainable": 41_943_040}
    assert set(plan["time"]["seconds"]) == set(plan["cost"]["usd"]) == {"low", "mid", "high"}
    assert sum(plan["memory"]["components"].values()) == plan["memory"]["peak_bytes"]
    for key in ("parameters.total", "parameters.trainable", "memory.weights_bytes", "memory.peak_bytes", "tokens.total",
                "time.total", "cost.usd", "fits", "largest_context", "largest_model"):  # fmt: skip
        assert len(plan["because"][key]) > 10, key


def numbers(value: Any, path: str = "") -> Iterator[str]:
    """Yield the key of each number."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key != "because":
                yield from numbers(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for inner in value:
            yield from numbers(inner, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path


@pytest.mark.parametrize(
    "arguments",
    [
        ["--gpu", "h100"],
        ["--set", "base=smollm2-135m-instruct", "--set", "method=qlora"],
        ["--gpu", "l4", "--fit", "16GB"],
        ["--gpu", "h100", "--set", "method=full", "--set", "train.optimizer=adamw_8bit"],
        ["--gpu", "rtx4090", "--set", "train.streamed_layers=8", "--set", "train.activation_offload=always"],
    ],
)
def test_every_number_has_a_because(recipe: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", recipe, "--json", *arguments]) == 0
    plan = said(capsys)
    found = [key for key in numbers(plan) if key not in ("schema_version", "solution.tried") and "solution." not in key]
    assert len(found) > 60
    for key in found:
        parts = key.split(".")
        above = [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
        assert any(plan["because"].get(each) for each in above), key
    assert not [key for key in plan["because"] if key.startswith("memory.") and at(plan, key) is None]


def test_limits_choose_settings(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", recipe, "--json", "--fit", "12GB", "--deadline", "5h", "--budget", "20usd"]) == 0
    plan = said(capsys)
    assert plan["solution"]["changes"]["method.kind"] == "qlora"
    assert plan["solution"]["because"]["method.kind"]
    assert plan["memory"]["peak_bytes"] <= 12e9
    assert main(["plan", recipe, "--fit", "12GB"]) == 0
    text = capsys.readouterr().out
    assert "change in the recipe: method.kind: qlora" in text
    assert "longest context that fits" in text
    assert "largest known model that fits" in text


def test_impossible_limits_say_which_and_by_how_much(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", recipe, "--json", "--gpu", "t4", "--fit", "2GB", "--deadline", "1s"]) == 5
    message = said(capsys)["error"]["message"]
    assert "Memory binds" in message
    assert "GiB over the 1.9 GiB allowed" in message
    assert "The deadline binds" in message


def test_gpus_give_a_table(recipe: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["plan", recipe, "--gpus", "t4,l40s,a100,h100"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("T4", "L40S", "A100", "H100 SXM", "fits", "USD"))
    table, told = text.split("\nT4: ")
    assert len(table.splitlines()) == 2 + 4, "a GPU is one line in a terminal of usual width"
    assert "USD an hour at" in told
    assert main(["plan", recipe, "--gpus", "t4,h100", "--json"]) == 0
    rows = said(capsys)["gpus"]
    assert [row["gpu"] for row in rows] == ["T4", "H100 SXM"]
    assert all(row["fits"] and row["plan"]["cost"]["usd"] for row in rows)
    assert text.count("fit at most: rows of ") == 4
    small, large = (row["plan"] for row in rows)
    assert small["largest_context"] < large["largest_context"]
    assert small["largest_model"] != large["largest_model"]
    assert main(["plan", recipe, "--gpu", "h100", "--json"]) == 0
    alone = said(capsys)
    assert {key: large[key] for key in ("largest_context", "largest_model")} == {
        key: alone[key] for key in ("largest_context", "largest_model")
    }


def test_methods_are_shown_beside_each_other(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", recipe, "--methods", "--gpu", "l40s", "--json"]) == 0
    found = said(capsys)
    assert found["gpu"] == "L40S"
    methods = {row["method"]: row for row in found["methods"]}
    assert {"full", "LoRA", "QLoRA", "DPO, LoRA"} <= set(methods)
    assert methods["full"]["gpus"] > methods["QLoRA"]["gpus"] == 1
    assert main(["plan", recipe, "--methods"]) == 0
    assert "methods in a plain loop" in capsys.readouterr().out


def test_own_prices_are_used(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prices = {"gpus": [{"gpu": "h100", "provider": "cellar", "usd_per_hour": 100, "date": "2026-11-01"}]}
    (tmp_path / "prices.json").write_text(json.dumps(prices), encoding="utf-8")
    assert main(["plan", recipe, "--gpu", "h100", "--prices", "prices.json", "--json"]) == 0
    plan = said(capsys)
    assert plan["cost"]["usd_per_hour"]["mid"] == 100
    assert "cellar" in plan["because"]["cost.usd"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--fit", "24"], 2, "it has no unit. Write 24GB"),
        (["--fit", "-3GB"], 2, "'-3GB' is no amount of memory: it is below zero. Write 24GB"),
        (["--fit", "-3"], 2, "it is below zero"),
        (["--fit", "0GB"], 2, "it must be more than zero"),
        (["--deadline", "soon"], 2, "is no time"),
        (["--deadline", "-2h"], 2, "'-2h' is no time: it is below zero"),
        (["--budget", "20eur"], 2, "Write 20usd"),
        (["--budget", "-$20"], 2, "it is below zero"),
        (["--budget", "0"], 2, "it must be more than zero"),
        (["--gpu", "h1000"], 2, 'Did you mean "h100"'),
        (["--gpus", "t4,abacus,h1000"], 2, 'no GPU "abacus" is known. no GPU "h1000" is known. Did you mean "h100"?'),
        (["--gpus", "t4;h100"], 2, "Names stand with commas between them: t4,h100"),
        (["--gpus", ""], 2, "names no GPU"),
        (["--gpu", ""], 2, 'no GPU "" is known'),
        (["--gpu", "h100", "--set", "train.device=cpu"], 2, "train.device is cpu, so it would stand idle"),
        (["--gpus", "h100", "--set", "train.device=cpu"], 2, "--gpus rents a GPU"),
        (["--methods", "--fit", "24GB", "--deadline", "2h"], 2, "leave out --fit and --deadline"),
        (["--methods", "--probe"], 2, "leave out --methods"),
        (["--calibration", "--gpu", "t4"], 2, "--calibration shows the runs of the home and plans nothing"),
        (["--prices", "none.json"], 2, "cannot be read as JSON"),
        (["--set", "base=someone/Llama-3.1-8B-Instruct-AWQ"], 4, "Nearest: llama-3.1-8b-instruct"),
        (["--set", "data=none.jsonl"], 3, "none.jsonl does not exist"),
        (["--gpus", ","], 2, "names no GPU"),
        (["--gpus", "t4", "--gpu", "h100"], 2, "leave out --gpu"),
        (["--gpus", "t4", "--methods"], 2, "leave out --methods"),
        (["--set", "base=./nowhere"], 4, 'there is no folder "./nowhere"'),
        (["--set", "base=./broken"], 4, "cannot read broken/config.json"),
        (["--set", "base=./deep"], 4, "num_hidden_layers is 999,999,999"),
        (["--set", "base=my model/x"], 4, "is not known here"),
    ],
)
def test_bad_input_has_its_own_error(
    recipe: str, arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", recipe, *arguments, "--json"]) == code
    told = capsys.readouterr()
    assert message in told.err
    error = json.loads(told.out)["error"]
    assert message in error["message"]
    assert error["exit_code"] == code


def test_more_memory_than_any_gpu_has_is_said_to_be_that(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", recipe, "--fit", "500GB", "--json"]) == 0
    plan = said(capsys)
    assert plan["memory"]["available_bytes"] == 171_661 * 2**20
    assert "465.7 GiB are allowed, and B200 has 167.6 GiB" in plan["solution"]["because"]["memory.available_bytes"]
    assert main(["plan", recipe, "--fit", "24GB", "--json"]) == 0
    assert "memory.available_bytes" not in said(capsys)["solution"]["because"]


def test_values_below_zero_reach_their_flag_and_flags_stay_flags() -> None:
    given = ["plan", "r.yaml", "--fit", "-3GB", "--json", "-v", "--set", "a=1", "--budget", "-.5usd", "-q", "-3"]
    assert with_values_below_zero(given) == [
        "plan", "r.yaml", "--fit=-3GB", "--json", "-v", "--set", "a=1", "--budget=-.5usd", "-q", "-3",
    ]  # fmt: skip
