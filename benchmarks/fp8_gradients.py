"""How far float8 products turn the adapters' gradients on the 8B shape: the least cosine with bfloat16's, over all layers.

    python benchmarks/fp8_gradients.py

Random weights; B of each adapter drawn at random, so that A has a gradient too; one packed row of 2 x 2048 tokens.
"""

from __future__ import annotations

import json

import torch

from burnish.core.rows import TokenRow
from burnish.model.fused.paths import on_paths, usual_paths
from burnish.model.lora import attach_lora, lora_parameters
from burnish.train import sft
from burnish.train.pack import pack_row
from train import Setting, build, make_rows, plan_of  # the same folder


def main() -> None:
    rows = [
        TokenRow(str(i), tuple(row["ids"]), tuple(row["mask"]), 0, 1) for i, row in enumerate(make_rows("full", 1)[:2])
    ]
    model = build("llama-3.1-8b")
    attach_lora(model, plan_of(Setting("burnish"), rows, 0).method, seed=0)
    model.to("cuda")
    parameters = lora_parameters(model)
    for name, parameter in parameters.items():
        if name.endswith("lora_B"):
            torch.nn.init.normal_(parameter, std=0.01)
    found = {}
    for form in ("bfloat16", "again", "fp8"):
        with on_paths(model, usual_paths(model), fp8=form == "fp8"):
            loss = sft.loss(model, pack_row(rows, torch.device("cuda")))
            loss.backward()
        found[form] = loss.item(), {name: parameter.grad.clone() for name, parameter in parameters.items()}
        for parameter in parameters.values():
            parameter.grad = None
    for form in ("again", "fp8"):
        cosines = {
            name: torch.nn.functional.cosine_similarity(
                gradient.flatten(), found["bfloat16"][1][name].flatten(), dim=0
            ).item()
            for name, gradient in found[form][1].items()
        }
        worst = min(cosines, key=lambda name: cosines[name])
        mean = sum(cosines.values()) / len(cosines)
        print(json.dumps({"form": form, "loss": found[form][0], "bfloat16": found["bfloat16"][0], "least": cosines[worst],
                          "of": worst, "mean": mean, "device": torch.cuda.get_device_name()}))  # fmt: skip


if __name__ == "__main__":
    main()
