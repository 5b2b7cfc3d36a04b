"""A recipe on bases of other families than Llama: from raw rows to a release that answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from burnish.cli import main
from burnish.core.artifacts import Adapter
from burnish.model.banked_linear import BankedModel
from burnish.model.generate import generate
from burnish.model.load import load_base
from burnish.model.lora import load_adapter
from burnish.store.home import Home

ROOT = Path(__file__).parents[1]
SIZES = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "sliding_window": 16, "query_pre_attn_scalar": 16, "max_position_embeddings": 2048,
}  # fmt: skip
GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 2048}
HEADS_BY_SHARE = {key: value for key, value in SIZES.items() if key != "head_dim"}
OF_THEIR_OWN = {
    "gpt2": GPT2,
    "seed_oss": SIZES | {"attention_dropout": 0.1},
    "falcon": HEADS_BY_SHARE | {"new_decoder_architecture": True, "num_kv_heads": 2},
    "gpt_oss": SIZES | {"num_local_experts": 4},
    "stablelm": HEADS_BY_SHARE,
    "nemotron": HEADS_BY_SHARE,
    "deepseek_v3": HEADS_BY_SHARE | {
        "num_key_value_heads": 4, "kv_lora_rank": 16, "q_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16,
        "v_head_dim": 16, "n_routed_experts": 4, "first_k_dense_replace": 1, "moe_intermediate_size": 32,
        "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
    },
}  # fmt: skip
REFUSED = ("falcon", "gpt_oss", "stablelm", "nemotron", "deepseek_v3")
CAPPED = {"final_logit_softcapping": 5.0, "attn_logit_softcapping": 5.0}


def write_base(tiny_base: Path, folder: Path, family: str) -> Path:
    """Write a tiny base of a family with random weights, and the tokenizer of the tiny Llama."""
    shutil.copytree(tiny_base, folder)
    llama = AutoConfig.from_pretrained(tiny_base)
    ends = {key: getattr(llama, key) for key in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")}
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family](**OF_THEIR_OWN.get(family, SIZES), **ends, **(CAPPED if family == "gemma2" else {}))
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.2)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "gpt2", "seed_oss"])
def test_a_recipe_runs_and_its_adapter_answers(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], family: str
) -> None:
    monkeypatch.chdir(tmp_path)
    base = write_base(tiny_base, tmp_path / "base", family)
    shutil.copytree(ROOT / "examples" / "desk", tmp_path / "examples" / "desk")
    (tmp_path / "desk.yaml").write_text(
        f"name: desk\nbase: {base}\ndata: examples/desk/tickets.jsonl\nmethod: lora\ntrain: {{learning_rate: 3e-3}}\n"
    )
    code = main(["run", "desk.yaml", "--set", "evaluate.max_new_tokens=8", "--json", "-q"])
    made = capsys.readouterr()
    assert code == 0, made
    home = Home(tmp_path / ".burnish")
    report = json.loads((home.root / "artifacts" / "report" / f"{json.loads(made.out)['report']}.json").read_text())
    losses = {s["subject"]: s["value"] for s in report["scores"] if s["metric"] == "token_loss" and s["task"] == "test"}
    assert losses["tuned"] < losses["base"]
    (adapter,) = home.all(Adapter)
    alone = load_base(base)
    load_adapter(alone, home.path(adapter.weights_file).parent)
    prompt = [5, 17, 90, 3]
    ids = torch.tensor([prompt])
    expected = alone.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False, eos_token_id=None
    )
    assert generate(alone, [prompt], max_new_tokens=8, stop_ids=frozenset(), batch=1) == [expected[0, 4:].tolist()]
    assert BankedModel(load_base(base)).sizes


@pytest.mark.parametrize("family", REFUSED)
def test_a_base_of_which_a_plan_says_that_it_is_refused_is_refused(
    tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], family: str
) -> None:
    monkeypatch.chdir(tmp_path)
    base = write_base(tiny_base, tmp_path / "base", family)
    shutil.copytree(ROOT / "examples" / "desk", tmp_path / "examples" / "desk")
    (tmp_path / "desk.yaml").write_text(f"name: desk\nbase: {base}\ndata: examples/desk/tickets.jsonl\nmethod: lora\n")
    assert main(["plan", "desk.yaml", "--json"]) == 0
    assert "`burnish run` refuses this base" in json.loads(capsys.readouterr().out)["because"]["parameters.total"]
    assert main(["train", "desk.yaml", "--json", "-q"]) == 4
    assert "burnish cannot train this base" in json.loads(capsys.readouterr().out)["error"]["message"]
