"""lm-eval's own client, as people score models with it, against the server: what it measures is what transformers would."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.models.openai_completions import LocalCompletionsAPI
from peft import PeftModel
from test_api import DAY, Running
from transformers import AutoModelForCausalLM, AutoTokenizer

from burnish.model.load import load_base
from burnish.serve.answer import ServedModel
from burnish.serve.api import Service
from burnish.serve.engine import Engine
from burnish.text.tokenizer import Tokenizer

ROWS = [
    {"question": "Wo liegt Köln?", "choices": [" am Rhein", " an der Donau 🛫", " x"], "gold": 0},
    {"question": "Find me flights to Ulm. " * 30, "choices": [" tomorrow", " on Tuesday", "?"], "gold": 1},
    {"question": "x", "choices": ["y", "z", " Tuesday"], "gold": 2},
]


@pytest.fixture(scope="module")
def tasks() -> dict[str, Any]:
    """A choice of answers by their likelihood, and the perplexity of texts that are longer than lm-eval sends at once."""
    data = datasets.DatasetDict({"test": datasets.Dataset.from_list(ROWS)})
    common = {"custom_dataset": lambda **_: data, "test_split": "test"}
    choose = {
        "task": "choose", "output_type": "multiple_choice", "doc_to_text": "{{question}}", "doc_to_choice": "choices",
        "doc_to_target": "gold", "metric_list": [{"metric": "acc"}], **common,
    }  # fmt: skip
    roll = {
        "task": "roll", "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{question}}",
        "metric_list": [{"metric": "bits_per_byte"}], **common,
    }  # fmt: skip
    return {each["task"]: ConfigurableTask(config=each) for each in (choose, roll)}


def measured(model: LM, tasks: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return what the model answered to each request, and the scores."""
    found = evaluate(model, {"tasks": tasks, "groups": {}, "group_map": {}}, bootstrap_iters=0, verbosity="ERROR")
    assert found is not None
    samples = [sample for name in tasks for sample in sorted(found["samples"][name], key=lambda each: each["doc_id"])]
    return [answer for sample in samples for answer in sample["filtered_resps"]], found["results"]


@pytest.fixture(scope="module")
def running(varied_base: Path, adapter_folders: dict[str, Path], tokenizer: Tokenizer) -> Iterator[Running]:
    engine = Engine(load_base(varied_base), adapters=adapter_folders, rows=4, queue=32)
    models = {"tuned": ServedModel("a", None), "base": ServedModel(None, None)}
    running = Running(Service(engine, tokenizer, models, today=lambda: DAY))
    yield running
    running.close()


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("base", {"tokenized_requests": False, "batch_size": 2}),  # prompts as texts, several in one request
        ("tuned", {"num_concurrent": 4}),  # prompts as token ids
    ],
)
def test_it_measures_what_transformers_does(
    running: Running, varied_base: Path, adapter_folders: dict[str, Path], tasks: dict[str, Any], name: str,
    how: dict[str, Any],
) -> None:  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(varied_base)
    if name == "tuned":
        model = PeftModel.from_pretrained(model, adapter_folders["a"])
    # Windows of long texts: lm-eval's client takes two tokens less than it is told, its `hf` model what it is told.
    tokenizer = AutoTokenizer.from_pretrained(varied_base)
    own = HFLM(pretrained=model.eval(), tokenizer=tokenizer, max_length=300, device="cpu", batch_size=1)
    want, scores = measured(own, tasks)
    asked = LocalCompletionsAPI(
        f"{running.url}/completions", "huggingface", model=name, tokenizer=str(varied_base), max_length=302, **how
    )
    got, reached = measured(asked, tasks)
    assert len(got) == len(want) == 3 * 3 + 3
    for ours, theirs in zip(got, want, strict=True):
        if isinstance(theirs, tuple):
            assert ours[0] == pytest.approx(theirs[0], abs=1e-3)
            assert ours[1] == theirs[1]
        else:
            assert ours == pytest.approx(theirs, rel=1e-5)
    assert reached["choose"]["acc,none"] == scores["choose"]["acc,none"]
    assert reached["roll"]["bits_per_byte,none"] == pytest.approx(scores["roll"]["bits_per_byte,none"], rel=1e-5)
