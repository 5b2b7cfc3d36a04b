"""Training speed and memory of the bundled base on this machine.

    python benchmarks/train_speed.py --quantisation nf4 --row-tokens 1024 --threads 2

Chat rows of about 100 tokens (65 of them answers), ten at a time behind the same system prompt of 130 tokens: LoRA of rank
16 on all linear layers. Prints, for each packed row, tokens computed per second of wall clock and of processor time (on a
busy machine only the second means anything), and the memory. `tokens computed` counts a shared prompt once; `tokens of
rows` counts it in every row, as trainers that do not share it would have to compute it.
"""

from __future__ import annotations

import argparse
import random
import time

import psutil
import torch

from burnish.core.artifacts import MethodPlan
from burnish.core.packing import pack, packed_tokens
from burnish.core.rows import TokenRow
from burnish.model.attention import packing
from burnish.model.bases import resolve_base
from burnish.model.fused.replace import fused
from burnish.model.load import load_base
from burnish.model.lora import attach_lora, lora_parameters
from burnish.train import sft
from burnish.train.pack import lengths_of, pack_row

METHOD = {
    "kind": "lora",
    "rank": 16,
    "alpha": 32.0,
    "dropout": 0.0,
    "targets": ("all-linear",),
    "double_quantisation": True,
}


def chat_rows(count: int) -> list[TokenRow]:
    draw = random.Random(0)
    rows: list[TokenRow] = []
    while len(rows) < count:
        system = [draw.randrange(3, 49_000) for _ in range(130)]
        for _ in range(10):
            prompt = [draw.randrange(3, 49_000) for _ in range(draw.randrange(25, 45))]
            answer = [draw.randrange(3, 49_000) for _ in range(draw.randrange(57, 73))]
            mask = [0] * (130 + len(prompt)) + [1] * len(answer)
            ids = tuple(system + prompt + answer)
            rows.append(TokenRow(str(len(rows)), ids, tuple(mask), 130, 130 + len(prompt)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quantisation", choices=["none", "nf4"], default="none")
    parser.add_argument("--row-tokens", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, default=60)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    rows = chat_rows(chosen.rows)
    lengths = lengths_of(rows)
    packed = sorted(pack(lengths, chosen.row_tokens, 0), key=lambda row: -packed_tokens(lengths, row))
    model = load_base(resolve_base("smollm2-135m-instruct").folder, quantisation=chosen.quantisation)
    attach_lora(model, MethodPlan.model_validate({**METHOD, "quantisation": chosen.quantisation}), seed=0)
    for parameter in lora_parameters(model).values():
        parameter.grad = torch.zeros_like(parameter)
    process = psutil.Process()
    model.train()
    computed = given = wall = busy = 0.0
    with packing(model), fused(model):
        for number, members in enumerate(packed):
            row = pack_row([rows[index] for index in members], torch.device("cpu"))
            began, began_busy = time.perf_counter(), time.process_time()
            loss = sft.loss(model, row) / row.trained_tokens
            held = process.memory_info().rss
            loss.backward()
            seconds, seconds_busy = time.perf_counter() - began, time.process_time() - began_busy
            print(f"{row.tokens:5d} tokens  {row.tokens / seconds:6.1f}/s wall  {row.tokens / seconds_busy:6.1f}/s processor  "
                  f"{held / 2**30:.2f} GiB", flush=True)  # fmt: skip
            if number:  # the first row warms the caches
                computed, given = computed + row.tokens, given + sum(len(rows[index].ids) for index in members)
                wall, busy = wall + seconds, busy + seconds_busy
    print(f"{chosen.quantisation}, rows of {chosen.row_tokens}, {chosen.threads} threads: "
          f"{computed / wall:.1f} tokens computed/s, {given / wall:.1f} tokens of rows/s (wall); "
          f"{computed / busy:.1f} and {given / busy:.1f} (processor)")  # fmt: skip


if __name__ == "__main__":
    main()
