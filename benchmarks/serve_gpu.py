"""Many adapters on one GPU: the shape of Llama 3.1 8B in bf16 with random weights, 64 adapters of rank 16, 256 streams.

`python benchmarks/serve_gpu.py [--out FILE]` decodes 256 sequences with the engine's decoder, all with one adapter, each with
one of 64, and without one; arms take turns, medians of rounds. Needs CUDA and about 60 GiB. `--small` runs the same code on a
tiny model on the CPU. Tokens per second count decoding steps in which all streams run. Also checks that every stream of the mixed
batch gets the tokens it gets in a batch of its adapter alone, on a tiny model in float32.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from burnish.model.banked_linear import BankedModel
from burnish.model.cached_attention import cached_attention_on
from burnish.model.generate import Decoder
from burnish.model.lora_bank import PackedAdapter
from burnish.model.sampling import Sampling

LARGE = LlamaConfig(
    vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
    num_key_value_heads=8, max_position_embeddings=8192, rope_theta=500000.0, tie_word_embeddings=False,
)  # fmt: skip
SMALL = LlamaConfig(
    vocab_size=1000, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=False,
)  # fmt: skip


def make_model(config: LlamaConfig, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """Return random weights made on the device: nothing is read."""
    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(default)
    model.config.use_cache = False
    return model.eval().requires_grad_(False)


def load_adapters(banked: BankedModel, count: int, rank: int) -> None:
    for number in range(count):
        generator = torch.Generator(banked.bank.device).manual_seed(number)
        row = torch.empty(banked.layout.unit * rank, dtype=banked.bank.dtype, device=banked.bank.device)
        banked.bank.load(number, PackedAdapter(rank, row.normal_(0, 0.01, generator=generator)))


def decode(
    banked: BankedModel, keys: list[int | None], prompt_tokens: int, new_tokens: int
) -> tuple[float, list[list[int]]]:
    """Return tokens a second of the steps in which all streams decode, and the answers."""
    device = banked.bank.device
    draw = torch.Generator().manual_seed(0)
    vocabulary = banked.model.config.vocab_size
    prompts = torch.randint(0, vocabulary, (len(keys), prompt_tokens), generator=draw).tolist()
    decoder = Decoder(banked.model, rows=len(keys), piece_tokens=8192, banked=banked)
    numbers = {
        decoder.add(prompt, Sampling(max_new_tokens=new_tokens), adapter=key): place
        for place, (prompt, key) in enumerate(zip(prompts, keys, strict=True))
    }
    answers: list[list[int]] = [[] for _ in keys]
    steps: list[float] = []
    while decoder.running or decoder.waiting:
        reading = decoder.waiting or len(answers[-1]) == 0
        began = time.perf_counter()
        emitted = decoder.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        if not reading and len(emitted) == len(keys):
            steps.append(seconds)
        for item in emitted:
            assert item.token is not None
            answers[numbers[item.sequence]].append(item.token)
    return len(keys) / statistics.median(steps), answers


def agreement(device: str) -> float:
    """Return the share of streams that get the same tokens in a mixed batch as in one of their adapter alone: float32, tiny."""
    banked = BankedModel(make_model(SMALL, device, torch.float32))
    load_adapters(banked, 8, 16)
    keys: list[int | None] = [None if place % 5 == 0 else place % 8 for place in range(32)]
    _, mixed = decode(banked, keys, 20, 12)
    equal = 0
    for key in set(keys):
        _, alone = decode(banked, [key] * len(keys), 20, 12)
        equal += sum(mixed[place] == alone[place] for place, other in enumerate(keys) if other == key)
    return equal / len(keys)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--adapters", type=int, default=64)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    device, dtype = ("cpu", torch.float32) if options.small else ("cuda", torch.bfloat16)
    banked = BankedModel(make_model(SMALL if options.small else LARGE, device, dtype))
    load_adapters(banked, options.adapters, options.rank)
    streams, many = options.streams, options.adapters
    arms: dict[str, list[int | None]] = {
        "no adapter": [None] * streams,
        "one adapter": [0] * streams,
        "mixed, even": [place % many for place in range(streams)],
        "mixed, uneven": [(place * place) % many if place % 3 else 0 for place in range(streams)],
    }
    tokens = (options.prompt_tokens, options.new_tokens)
    found: dict[str, list[float]] = {name: [] for name in arms}
    same = agreement(device)
    with cached_attention_on(banked.model):
        for keys in arms.values():  # the first run of a shape chooses kernels and fills the allocator
            decode(banked, keys, *tokens)
        for number in range(options.rounds):
            for name in list(arms) if number % 2 == 0 else list(reversed(arms)):
                found[name].append(decode(banked, arms[name], *tokens)[0])
            print({name: round(values[-1]) for name, values in found.items()}, file=sys.stderr, flush=True)
    medians = {name: statistics.median(values) for name, values in found.items()}
    result: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "shape": "Llama 3.1 8B, bf16" if device == "cuda" else "tiny",
        "streams": streams,
        "adapters": many,
        "rank": options.rank,
        "prompt_tokens": options.prompt_tokens,
        "new_tokens": options.new_tokens,
        "tokens_per_s": {name: round(value) for name, value in medians.items()},
        "ratios_to_one_adapter": {
            name: round(statistics.median(a / b for a, b in zip(values, found["one adapter"], strict=True)), 3)
            for name, values in found.items()
        },
        "same_tokens_mixed_and_alone": round(same, 3),
        "adapters_gib": round(banked.bank.bytes / 2**30, 2),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1) if device == "cuda" else None,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    text = json.dumps(result, indent=2)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
