"""What an order costs in packing: packed rows of 20,000 rows with and without windows and stages. One thread.

`python benchmarks/order.py` prints JSON: packed rows, share of them that is filled, tokens against those of free packing.
"""

from __future__ import annotations

import json
import time

import numpy as np

from burnish.core.packing import Length, pack, pack_order, packed_tokens
from burnish.data.mixing import Curriculum, mix_stages

ROWS, ROW_TOKENS, PREFIX = 20_000, 4096, 60


def main() -> None:
    tails = np.clip(np.random.default_rng(0).lognormal(4.6, 0.8, ROWS).astype(int), 8, 2000)
    lengths: list[Length] = [("system", PREFIX, int(tail)) for tail in tails]
    free = pack(lengths, ROW_TOKENS, 0)
    base = sum(packed_tokens(lengths, row) for row in free)
    found = [
        {"order": "any", "packed_rows": len(free), "filled": round(base / len(free) / ROW_TOKENS, 4), "tokens": 1.0}
    ]
    for name, stages in (("mixed", 1), ("4 stages by length", 4), ("20 stages by length", 20)):
        began = time.process_time()
        curriculum = Curriculum(scores=tails, stages=stages)
        blocks = [block.tolist() for epoch in mix_stages({"a": ROWS}, seed=0, curriculum=curriculum) for block in epoch]
        packed = pack_order(lengths, blocks, ROW_TOKENS, 0)
        took = time.process_time() - began
        tokens = sum(packed_tokens(lengths, row) for row in packed)
        found.append(
            {
                "order": name,
                "packed_rows": len(packed),
                "filled": round(tokens / len(packed) / ROW_TOKENS, 4),
                "tokens": round(tokens / base, 4),
                "processor_seconds": round(took, 3),
            }
        )
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
