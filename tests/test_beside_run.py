"""DoRA as a person uses it: the recipe, what the run says, the files that PEFT loads, and the refusal of who serves many."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from burnish.cli import main
from burnish.core.artifacts import Adapter
from burnish.core.errors import BaseModelError
from burnish.model.banked_linear import BankedModel
from burnish.model.load import load_base
from burnish.model.lora import load_adapter, read_adapter
from burnish.store.home import Home

ROOT = Path(__file__).parents[1]


def test_dora_is_trained_evaluated_released_and_loaded_with_peft(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "examples" / "desk", tmp_path / "examples" / "desk")
    (tmp_path / "desk.yaml").write_text(
        f"name: desk-dora\nbase: {tiny_base}\ndata: examples/desk/tickets.jsonl\nmethod: {{kind: lora, dora: true}}\n"
    )
    assert main(["run", "desk.yaml", "--set", "evaluate.max_new_tokens=8"]) == 0
    told = capsys.readouterr()
    assert "plain path for" in told.err + told.out
    assert "load:    peft.PeftModel.from_pretrained(base, '" in told.out
    assert "talk:" not in told.out

    home = Home(tmp_path / ".burnish")
    (adapter,) = home.all(Adapter)
    folder = home.path(adapter.weights_file).parent
    ids = torch.tensor([[5, 17, 90, 3]])
    ours = load_base(tiny_base)
    load_adapter(ours, folder)
    theirs = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32), str(folder)
    )
    torch.testing.assert_close(ours(input_ids=ids).logits, theirs(input_ids=ids).logits, rtol=1e-4, atol=1e-5)
    with pytest.raises(BaseModelError, match="Many adapters on one base are low-rank products alone"):
        read_adapter(folder, BankedModel(load_base(tiny_base)).sizes)
