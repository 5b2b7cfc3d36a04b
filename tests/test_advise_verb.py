"""`burnish advise` as people call it: flags, questions, the recipe at the end, and wrong input."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from burnish.cli import main
from burnish.cli.advising import ask
from burnish.core.errors import UsageError
from burnish.plan.advise.advice import advise
from burnish.plan.advise.situation import Situation, read_situation

FORM = ["advise", "--needs", "format", "--prompt", "falls-short", "--rows", "3000"]


def test_flags_lead_to_advice_and_a_recipe_that_plans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BURNISH_HOME", raising=False)
    assert main([*FORM, "--write", "invoices", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["verdict"], found["written"]) == ("fine-tune", str(tmp_path / "invoices.yaml"))
    rows = [{"instruction": f"invoice {n}", "response": '{"total": 1}'} for n in range(60)]
    (tmp_path / "invoices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["plan", "invoices.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["method"]["kind"] == "lora"
    assert main([*FORM, "--write", "invoices"]) == 2
    assert "exists" in capsys.readouterr().err


def test_do_not_fine_tune_writes_nothing_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["advise", "--needs", "format", "--prompt", "works", "--rows", "3000"]) == 0
    assert capsys.readouterr().out.startswith("DO NOT FINE-TUNE")
    assert main(["advise", "--needs", "format", "--prompt", "works", "--write", "mine"]) == 2
    assert "no recipe to write" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_every_question_is_a_flag_and_the_function_gives_what_the_verb_gives(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["advise", "--help"])
    shown = capsys.readouterr().out
    for name in Situation.model_fields:
        assert "--" + name.replace("_", "-") in shown
    assert main([*FORM, "--gpu-usd-low", "1.5", "--data-may-leave", "no", "--json"]) == 0
    from_verb = json.loads(capsys.readouterr().out)
    values = {"needs": ["format"], "prompt": "falls-short", "rows": 3000, "gpu_usd_low": 1.5, "data_may_leave": False}
    assert from_verb == advise(read_situation(values))


def test_questions_take_defaults_ask_again_and_follow_the_needs() -> None:
    answers = "stile\nstyle, preferences\nfalls-short\nmany\n3000\n2000\n" + "\n" * 30
    out = io.StringIO()
    found = ask(io.StringIO(answers), out, {})
    assert found == {"needs": "style, preferences", "prompt": "falls-short", "rows": "3000", "pairs": "2000"}
    shown = out.getvalue()
    assert 'Did you mean "style"?' in shown
    assert shown.count("Examples of a request") >= 2, "a wrong number is asked again"
    assert "Tokens of documents" not in shown, "nobody asked for facts"
    assert [stage["option"] for stage in advise(read_situation(found))["stages"]] == ["lora", "dpo"]


def test_answers_that_end_early_name_the_flag() -> None:
    with pytest.raises(UsageError, match="--prompt"):
        ask(io.StringIO("style\n"), io.StringIO(), {})


def test_a_dialogue_through_a_pipe() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "burnish", "advise", "--ask"], input="labels\nfalls-short\n900\n" + "\n" * 30,
        text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "FINE-TUNE: instruction tuning with LoRA" in done.stdout
    assert "fewer than 1,000 examples" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (
            ["advise", "--json"],
            "nothing is said of the situation, and there is no terminal to ask in. Say at least --needs",
        ),
        (["advise"], "nothing is said of the situation"),
        (["advise", "--rows", "300"], "say at least one of facts"),
        ([*FORM, "--requests-per-day", "-5"], "requests_per_day = '-5'   must be greater than or equal to 0"),
        ([*FORM, "--rows", "1e9"], "must be a whole number in digits"),
        ([*FORM, "--data-may-leave", "maybe"], "must be yes or no"),
        ([*FORM, "--epochs", "many"], "must be a number, such as 1.5"),
        (
            [*FORM, "--prompt-tokens", "100", "--prompt-tokens-saved", "500"],
            "must not be above prompt_tokens, which is 100",
        ),
        ([*FORM, "--gpu-usd-low", "3", "--gpu-usd-high", "1"], "must not be above gpu_usd_high"),
        ([*FORM, "--data", "x.jsonl"], "give --write NAME as well"),
        ([*FORM, "--base", "nope-7b"], "Nearest:"),
        (["advise", "--needs", "stile"], 'Did you mean "style"?'),
        (["advise", "--needs", "style", "--rows", "lots"], "rows"),
        (["advise", "--needs", "style", "--gpu", "a1000"], 'Did you mean "a100"?'),
        ([*FORM, "--write", "../up"], "no name"),
        ([*FORM, "--write", "base"], "Choose another name"),
    ],
)
def test_wrong_input_exits_2_and_says_what_is_allowed(
    arguments: list[str], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == (4 if "--base" in arguments else 2)
    assert part in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_needs_may_be_said_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", "--needs", "format", "--needs", "facts,style", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["situation"]["needs"] == ["format", "facts", "style"]


def test_a_dialogue_leaves_standard_output_to_the_document() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "burnish", "advise", "--ask", "--json"], input="labels\nfalls-short\n900\n" + "\n" * 30,
        text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert json.loads(done.stdout)["verdict"] == "fine-tune"
    assert "How far a good prompt" in done.stderr


def test_a_pipe_that_nobody_reads_on_ends_it_as_it_ends_other_programs() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "burnish", *FORM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == ""
        assert running.wait() == 141


def test_advice_needs_no_torch() -> None:
    code = (
        "import sys; from burnish.cli import main; main(['advise', '--needs', 'style', '--json']); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
