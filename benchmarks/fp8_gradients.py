"""How far float8 products turn the adapters' gradients on the 8B shape: cosines with bfloat16's, by layer and by matrix.

    python benchmarks/fp8_gradients.py                  # the 8B shape on a card that multiplies float8
    python benchmarks/fp8_gradients.py --width 256      # 32 layers of this width by the values of the products, on a CPU

Random weights of standard deviation 0.02, as they are drawn and with the two projections that end a branch divided by
sqrt(2 x layers), as models are initialised for training (Radford et al. 2019, "Language Models are Unsupervised Multitask
Learners", section 2.3); without that a network of 32 layers amplifies every rounding, bfloat16's own too. B of each
adapter is drawn at random, so that A has a gradient too; one packed row of 2 x 2048 tokens. A narrow network's weights are
larger by the root of 4096 / width, so that a product amplifies as much; it is computed in float32, the rounding is the same.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from burnish.core.rows import TokenRow
from burnish.model.fused import replace
from burnish.model.fused.frozen import Fp8
from burnish.model.fused.paths import on_paths, usual_paths
from burnish.model.lora import attach_lora, lora_parameters
from burnish.train import sft
from burnish.train.pack import pack_row
from train import Setting, build, make_rows, plan_of  # the same folder

FORMS: dict[str, Fp8 | None] = {"again": None, "fp8": "fp8", "fp8_all": "fp8_all"}
"""The last lets go of the weights, so nothing can follow it."""


def gradients(model: Any, rows: list[TokenRow], *, fp8: Fp8 | None) -> tuple[float, dict[str, Tensor]]:
    """Return the loss of the packed rows, and each adapter matrix's gradient by name."""
    parameters = lora_parameters(model)
    with on_paths(model, usual_paths(model), fp8=fp8):
        loss = sft.loss(model, pack_row(rows, model.device))
        loss.backward()
    found = {name: parameter.grad.float().clone() for name, parameter in parameters.items()}
    for parameter in parameters.values():
        parameter.grad = None
    return loss.item(), found


def cosine(one: list[Tensor], other: list[Tensor]) -> float:
    """Return the cosine of two lists of tensors, each taken as one vector."""
    return torch.nn.functional.cosine_similarity(
        torch.cat([part.flatten() for part in one]), torch.cat([part.flatten() for part in other]), dim=0
    ).item()


def narrow(width: int) -> Any:
    """Return 32 layers of this width on the CPU, random float32 weights, frozen."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=width, intermediate_size=width * 7 // 2, num_hidden_layers=32, num_attention_heads=width // 32,
        num_key_value_heads=width // 128, vocab_size=49_152, initializer_range=0.02 * (4096 / width) ** 0.5,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").float().eval().requires_grad_(False)


def measure(rows: list[TokenRow], width: int | None, *, as_trained: bool) -> Iterator[dict[str, Any]]:
    """Yield what float8 does to the gradients of a model of one initialisation, and what running again does."""
    model = build("llama-3.1-8b") if width is None else narrow(width)
    if as_trained:
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.data.div_((2 * model.config.num_hidden_layers) ** 0.5)
    attach_lora(model, plan_of(Setting("burnish"), rows, 0).method, seed=0)
    if width is None:
        model.to("cuda")
    torch.manual_seed(1)
    for name, parameter in lora_parameters(model).items():
        if name.endswith("lora_B"):
            torch.nn.init.normal_(parameter, std=0.01)
    loss, exact = gradients(model, rows, fp8=None)
    for form in FORMS:
        found_loss, found = gradients(model, rows, fp8=FORMS[form])
        layers: dict[str, list[str]] = {}
        for name in exact:
            layers.setdefault(name.split(".layers.")[-1].split(".")[0], []).append(name)
        by_layer = [cosine([found[n] for n in names], [exact[n] for n in names]) for names in layers.values()]
        by_matrix = {name: cosine([found[name]], [exact[name]]) for name in exact}
        worst = min(by_matrix, key=lambda name: by_matrix[name])
        yield {
            "weights": "branches end in 1/sqrt(2 layers)" if as_trained else "standard deviation 0.02", "form": form,
            "width": width or 4096, "loss": found_loss, "loss_exact": loss, "least_layer": min(by_layer),
            "mean_layer": statistics.fmean(by_layer),
            "least_matrix": by_matrix[worst], "of": worst, "mean_matrix": statistics.fmean(by_matrix.values()),
        }  # fmt: skip
    del model


def main() -> None:
    """Measure both initialisations and write down what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, help="of a narrow network on the CPU")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "fp8_gradients.json")
    asked = parser.parse_args()
    if asked.width is not None:
        replace.has_fp8 = lambda device: True
    rows = [
        TokenRow(str(i), tuple(row["ids"]), tuple(row["mask"]), 0, 1) for i, row in enumerate(make_rows("full", 1)[:2])
    ]
    found = []
    for as_trained in (True, False):
        for line in measure(rows, asked.width, as_trained=as_trained):
            print(json.dumps(line), flush=True)
            found.append(line)
        gc.collect()
        if asked.width is None:
            torch.cuda.empty_cache()
    record = {
        "date": date.today().isoformat(), "device": "cpu" if asked.width else torch.cuda.get_device_name(),
        "torch": torch.__version__, "rows": found,
    }  # fmt: skip
    asked.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
