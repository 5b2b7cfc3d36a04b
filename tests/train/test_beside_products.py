"""Biases and lengths of rows as they train in the loop: events, checkpoints, files that PEFT reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from burnish.core.artifacts import MethodPlan, Plan
from burnish.core.errors import Interrupted
from burnish.core.events import Event, Note, StepDone
from burnish.core.rows import TokenRow
from burnish.model.lora import attach_lora, lora_parameters
from burnish.train import sft
from burnish.train.loop import train

Rows = Callable[..., list[TokenRow]]
IDS = torch.tensor([[5, 17, 90, 3, 44, 8, 101, 2]])


@pytest.mark.parametrize("changes", [{"bias": "lora_only"}, {"dora": True}], ids=["bias", "dora"])
def test_a_run_learns_them_goes_on_with_the_same_bits_and_peft_loads_what_it_wrote(
    make_frozen: Callable[..., PreTrainedModel], make_rows: Rows, make_plan: Callable[..., Plan],
    make_method: Callable[..., MethodPlan], tmp_path: Path, changes: dict[str, object],
) -> None:  # fmt: skip
    rows, method = make_rows(16), make_method(**changes)
    plan = make_plan(rows, method=method, epochs=6.0, learning_rate=1e-2, checkpoint_every=1000)

    def run(folder: str, stop: Callable[[], bool] = lambda: False) -> tuple[PreTrainedModel, list[Event]]:
        model, seen = make_frozen("qwen2"), list[Event]()
        attach_lora(model, method, seed=0)
        before = {name: value.detach().clone() for name, value in lora_parameters(model).items()}
        train(plan, sft.objective(plan.train, rows), model, folder=tmp_path / folder, emit=seen.append, stop=stop)
        moved = {name for name, value in lora_parameters(model).items() if not torch.equal(value, before[name])}
        assert moved == set(before)
        return model, seen

    model, seen = run("whole")
    losses = [event.loss for event in seen if isinstance(event, StepDone)]
    assert losses[-1] < 0.9 * losses[0]
    plain = [event.text for event in seen if isinstance(event, Note) and event.text.startswith("plain path")]
    assert [text.endswith("its adapters train the lengths of rows (DoRA)") for text in plain] == (
        [True] if method.dora else []
    )
    asked = iter([False] * 3 + [True])
    with pytest.raises(Interrupted):
        run("cut", stop=lambda: next(asked))
    run("cut")
    whole, cut = ((tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert whole == cut
    config = json.loads((tmp_path / "whole" / "adapter" / "adapter_config.json").read_text())
    assert (config["bias"], config["use_dora"]) == (method.bias or "none", method.dora is not None)
    theirs = PeftModel.from_pretrained(make_frozen("qwen2"), str(tmp_path / "whole" / "adapter"))
    torch.testing.assert_close(theirs(input_ids=IDS).logits, model(input_ids=IDS).logits, rtol=1e-4, atol=1e-5)
