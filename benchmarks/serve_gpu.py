"""Many adapters on one GPU: the shape of Llama 3.1 8B in bf16 with random weights, 64 adapters of rank 16, 256 streams.

`python benchmarks/serve_gpu.py [--out FILE]` decodes 256 sequences with the engine's decoder, all with one adapter, each with
one of 64, and without one; arms take turns, medians of rounds (one round for all runs but the first of `--runs`). Needs CUDA
and about 60 GiB. `--small` runs the same code on a tiny model on the CPU. Tokens per second count decoding steps in which all
streams run. Also checks that every stream of the mixed batch gets the tokens it gets in a batch of its adapter alone, on a tiny
model in float32, and lists the kernels of one step.
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
from burnish.model.decoder import Decoder
from burnish.model.load import quantise_nf4
from burnish.model.lora_bank import PackedAdapter
from burnish.model.lora_parts_gpu import Way
from burnish.model.sampling import Sampling
from burnish.model.sequences import Emitted

WAYS: dict[str, Way] = {"tiled": "tiled", "masked": "masked"}
ROPE: Any = {"rope_type": "default", "rope_theta": 500000.0}
LARGE = LlamaConfig(
    vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
    num_key_value_heads=8, max_position_embeddings=8192, rope_parameters=ROPE, tie_word_embeddings=False,
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
    banked: BankedModel,
    keys: list[int | None],
    prompt_tokens: int,
    new_tokens: int,
    *,
    static: bool = True,
    profile: list[dict[str, Any]] | None = None,
) -> tuple[float, list[list[int]]]:
    """Return tokens a second of the steps in which all streams decode, and the answers. `profile` gets the kernels of a step."""
    device = banked.bank.device
    draw = torch.Generator().manual_seed(0)
    vocabulary = banked.model.config.vocab_size
    prompts = torch.randint(0, vocabulary, (len(keys), prompt_tokens), generator=draw).tolist()
    decoder = Decoder(banked.model, rows=len(keys), piece_tokens=8192, banked=banked, static=static)
    numbers = {
        decoder.add(prompt, Sampling(max_new_tokens=new_tokens), adapter=key): place
        for place, (prompt, key) in enumerate(zip(prompts, keys, strict=True))
    }
    answers: list[list[int]] = [[] for _ in keys]
    steps: list[float] = []
    while decoder.running or decoder.waiting:
        reading = decoder.waiting or len(answers[-1]) == 0
        if profile is not None and len(steps) == 8:
            emitted = profiled(decoder, profile)
            reading = True
        else:
            began = time.perf_counter()
            emitted = decoder.step()
            if device.type == "cuda":
                torch.cuda.synchronize()
        if not reading and len(emitted) == len(keys):
            steps.append(time.perf_counter() - began)
        for item in emitted:
            assert item.token is not None
            answers[numbers[item.sequence]].append(item.token)
    return len(keys) / statistics.median(steps), answers


def profiled(decoder: Decoder, found: list[dict[str, Any]]) -> list[Emitted]:
    """Run a step under torch's profiler and note its kernels, longest first."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as seen:
        emitted = decoder.step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    kernels = [each for each in seen.key_averages() if not str(each.device_type).endswith("CPU")]
    kernels.sort(key=lambda each: -each.self_device_time_total)
    found += [
        {"ms": round(each.self_device_time_total / 1000, 3), "times": each.count, "kernel": each.key[:90]}
        for each in kernels[:20]
    ]
    total = sum(each.self_device_time_total for each in kernels) / 1000
    found.append({"ms": round(total, 3), "times": sum(each.count for each in kernels), "kernel": "all"})
    return emitted


def agreement(device: str, way: Way) -> float:
    """Return the share of streams that get the same tokens in a mixed batch as in one of their adapter alone: float32, tiny."""
    banked = BankedModel(make_model(SMALL, device, torch.float32), way=way)
    load_adapters(banked, 8, 16)
    keys: list[int | None] = [None if place % 5 == 0 else place % 8 for place in range(32)]
    _, mixed = decode(banked, keys, 20, 12)
    equal = 0
    for key in set(keys):
        _, alone = decode(banked, [key] * len(keys), 20, 12)
        equal += sum(mixed[place] == alone[place] for place, other in enumerate(keys) if other == key)
    return equal / len(keys)


def measure(banked: BankedModel, options: argparse.Namespace, way: Way, *, static: bool, rounds: int) -> dict[str, Any]:
    """Return tokens a second of each arm, their ratios to one adapter, and the kernels of a step."""
    banked.way = way
    streams, many = options.streams, options.adapters
    arms: dict[str, list[int | None]] = {
        "no adapter": [None] * streams,
        "one adapter": [0] * streams,
        "mixed, even": [place % many for place in range(streams)],
        "mixed, uneven": [(place * place) % many if place % 3 else 0 for place in range(streams)],
    }
    tokens = (options.prompt_tokens, options.new_tokens)
    found: dict[str, list[float]] = {name: [] for name in arms}
    kernels: dict[str, list[dict[str, Any]]] = {"one adapter": [], "mixed, even": []}
    with cached_attention_on(banked.model):
        for name, keys in arms.items():  # the first run of a shape chooses kernels and fills the allocator
            decode(banked, keys, *tokens, static=static, profile=kernels.get(name))
        for number in range(rounds):
            for name in list(arms) if number % 2 == 0 else list(reversed(arms)):
                found[name].append(decode(banked, arms[name], *tokens, static=static)[0])
            print(way, static, {name: round(values[-1]) for name, values in found.items()}, file=sys.stderr, flush=True)
    return {
        "way": way,
        "graphs": static,
        "tokens_per_s": {name: round(statistics.median(values)) for name, values in found.items()},
        "ms_a_step": {name: round(1000 * streams / statistics.median(values), 2) for name, values in found.items()},
        "ratios_to_one_adapter": {
            name: round(statistics.median(a / b for a, b in zip(values, found["one adapter"], strict=True)), 3)
            for name, values in found.items()
        },
        "kernels": kernels,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--nf4", action="store_true", help="quantise the base's linear layers")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--adapters", type=int, default=64)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", default="tiled+,tiled,masked+,masked", help="ways; + is with graphs")
    options = parser.parse_args()
    device, dtype = ("cpu", torch.float32) if options.small else ("cuda", torch.bfloat16)
    model = make_model(SMALL if options.small else LARGE, device, dtype)
    if options.nf4:
        quantise_nf4(model, double_quantisation=True, device=device, dtype=dtype)
    banked = BankedModel(model)
    load_adapters(banked, options.adapters, options.rank)
    result: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "shape": "tiny" if options.small else "Llama 3.1 8B, NF4" if options.nf4 else "Llama 3.1 8B, bf16",
        "streams": options.streams,
        "adapters": options.adapters,
        "rank": options.rank,
        "prompt_tokens": options.prompt_tokens,
        "new_tokens": options.new_tokens,
        "adapters_gib": round(banked.bank.bytes / 2**30, 2),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "same_tokens_mixed_and_alone": {},
        "runs": [],
    }
    for number, run in enumerate(options.runs.split(",")):
        way, static = WAYS[run.removesuffix("+")], run.endswith("+")
        if static:
            result["same_tokens_mixed_and_alone"][way] = round(agreement(device, way), 3)
        rounds = options.rounds if number == 0 else 1
        result["runs"].append(measure(banked, options, way, static=static, rounds=rounds))
        result["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1) if device == "cuda" else None
        if options.out is not None:
            options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
