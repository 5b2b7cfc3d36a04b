"""Greedy decoding: burnish's batched decoder against transformers' generate, and against the products it cannot avoid.

`python benchmarks/decode.py MODEL_FOLDER` prints one JSON document. Prompts are random tokens: groups of ten share
their first 200 tokens (a system prompt) and add 30 to 70 of their own; each gets 64 new tokens. The arms take turns
(ours, transformers, ours, ...) so that other work on the machine meets both; medians are reported. `bound_share` is the
time of the products alone (measured in the same rounds, weights read from memory as in decoding) over the time of a
decoding step.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import linear
from transformers import PreTrainedModel

from burnish.model.decoder import Decoder
from burnish.model.load import load_base
from burnish.model.sampling import Sampling
from burnish.model.shared_starts import shared_starts

SHARED_TOKENS = 200
GROUP = 10


def make_prompts(count: int, vocabulary: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)

    def draw(length: int) -> list[int]:
        return torch.randint(10, vocabulary, (length,), generator=generator).tolist()

    starts = [draw(SHARED_TOKENS) for _ in range((count + GROUP - 1) // GROUP)]
    return [starts[i // GROUP] + draw(int(torch.randint(30, 71, (1,), generator=generator))) for i in range(count)]


def ours(model: PreTrainedModel, prompts: list[list[int]], new_tokens: int) -> tuple[float, float]:
    """Return the seconds of everything and of one step in which every sequence decodes."""
    began = time.perf_counter()
    decoder = Decoder(model, rows=len(prompts), piece_tokens=1024)
    order, shares = shared_starts(prompts)
    for place in order:
        decoder.add(prompts[place], Sampling(max_new_tokens=new_tokens), share=shares[place])
    steps: list[float] = []
    while decoder.running or decoder.waiting:
        reading = decoder.waiting
        step_began = time.perf_counter()
        emitted = decoder.step()
        if not reading and len(emitted) == len(prompts):
            steps.append(time.perf_counter() - step_began)
    return time.perf_counter() - began, statistics.median(steps)


def theirs(model: PreTrainedModel, prompts: list[list[int]], new_tokens: int) -> float:
    """Left-padded static batch, as transformers documents it."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
    began = time.perf_counter()
    model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False,
        use_cache=True, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return time.perf_counter() - began


@torch.no_grad()
def products(model: PreTrainedModel, batch: int) -> float:
    """Return the seconds of all linear layers on `batch` tokens, one after the other."""
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    inputs = {layer.in_features: torch.randn(batch, layer.in_features, device=model.device) for layer in layers}
    began = time.perf_counter()
    for layer in layers:
        linear(inputs[layer.in_features], layer.weight)
    return time.perf_counter() - began


def measure(model: PreTrainedModel, batch: int, new_tokens: int, rounds: int) -> dict[str, Any]:
    prompts = make_prompts(batch, model.config.vocab_size)
    all_ours, steps, all_theirs, bounds = [], [], [], []
    for _ in range(rounds):
        bounds.append(statistics.median(products(model, batch) for _ in range(5)))
        whole, step = ours(model, prompts, new_tokens)
        all_ours.append(whole)
        steps.append(step)
        bounds.append(statistics.median(products(model, batch) for _ in range(5)))
        all_theirs.append(theirs(model, prompts, new_tokens))
    mine, other, step, bound = map(statistics.median, (all_ours, all_theirs, steps, bounds))
    return {
        "batch": batch,
        "prompt_tokens": sum(map(len, prompts)),
        "new_tokens": batch * new_tokens,
        "ours_s": round(mine, 3),
        "transformers_s": round(other, 3),
        "ratio": round(other / mine, 2),
        "ours_new_tokens_per_s": round(batch * new_tokens / mine, 1),
        "ours_decoding_tokens_per_s": round(batch / step, 1),
        "bound_share": round(bound / step, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a base model")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 128])
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_base(options.model, device=options.device)
    rows = []
    for batch in options.batches:
        measure(model, min(batch, 2), 2, 1)
        rows.append(measure(model, batch, options.new_tokens, options.rounds))
    load = os.getloadavg()[0]
    head = {
        "model": options.model.name,
        "threads": options.threads,
        "device": options.device,
        "load_average": round(load, 1),
    }
    print(json.dumps({**head, "torch": torch.__version__, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
