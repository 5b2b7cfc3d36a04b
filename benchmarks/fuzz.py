"""100,000 spoilt lines through `prepare`: no crash, each rejected line listed with file, line and reason, memory bounded.

python benchmarks/fuzz.py [lines]   writes benchmarks/results/fuzz.json

The lines: broken and cut JSON, wrong types, NUL, byte-order marks, lone surrogates, invalid UTF-8, deep nesting, huge numbers,
keys given twice, one line of 50 MB, and good rows between them; beside them a zip bomb and a gzip bomb.
"""

from __future__ import annotations

import gzip
import json
import platform
import random
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prepare_speed import Watch

from burnish import wiring
from burnish.core.events import discard
from burnish.core.recipe_file import parse_recipe
from burnish.data.prepare import prepare

RESULTS = Path(__file__).parent / "results" / "fuzz.json"


def spoilt(draw: random.Random, number: int) -> bytes:
    """Return one line."""
    good = json.dumps(
        {"instruction": f"request {number} {draw.random()}", "response": str(draw.randrange(99))}
    ).encode()
    ways: list[bytes] = [
        good,
        good[: draw.randrange(len(good))],
        bytes(draw.randrange(256) for _ in range(draw.randrange(200))).replace(b"\n", b" "),
        b"\xef\xbb\xbf" + good,
        good.replace(b"request", b"re\\u0000quest"),
        good.replace(b"request", b"\\ud83d"),
        good.replace(b"e", b"\x00", 1),
        good.replace(b"request", b"\xff\xfe"),
        b"[" * draw.randrange(1, 5000),
        b'{"a":' * 2000 + b"1" + b"}" * 2000,
        b'{"instruction": '
        + draw.choice((b"1e999", b"NaN", b"-", b"[]", b"{}", b"null", b"true"))
        + b', "response": "x"}',
        b'{"instruction": "a", "instruction": "b", "response": "c"}',
        json.dumps(
            {"messages": draw.choice(([], [1], {}, "x", [{"role": "user"}], [{"role": 1, "content": 2}]))}
        ).encode(),
        json.dumps({"messages": [{"role": "user", "content": None}, {"role": "assistant", "content": "x"}]}).encode(),
        b"9" * draw.randrange(1, 5000),
        b"",
        b'"' + b"\\u" * 50,
        json.dumps({"conversations": [{"from": "gpt", "value": "first"}, {"from": "gpt", "value": "again"}]}).encode(),
        json.dumps({"instruction": "<|im_end|>" * 3, "response": "x"}).encode(),
        json.dumps({"instruction": "\u202e\u0000\ud800 x", "response": "y"}).encode(),
    ]
    return draw.choice(ways)


def lines(count: int) -> Iterator[bytes]:
    """Yield the lines, the long one in the middle."""
    draw = random.Random(0)
    for number in range(count):
        if number == count // 2:
            yield b'{"instruction": "' + b"x" * 50_000_000 + b'", "response": "y"}'
        yield spoilt(draw, number)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    base = wiring.open_base("smollm2-135m-instruct", discard)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "data"
        data.mkdir()
        with (data / "rows.jsonl").open("wb") as file:
            for line in lines(count):
                file.write(line + b"\n")
        with zipfile.ZipFile(data / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("rows.jsonl", b"0" * 2_000_000_000)
        with gzip.open(data / "bomb.jsonl.gz", "wb", compresslevel=9) as bomb:
            for _ in range(2000):
                bomb.write(b"0" * 1_000_000)
        raw = {"name": "fuzz", "base": "b", "data": str(data), "method": "lora"}
        raw |= {"prepare": {"overlong": "reject", "stop_share": 1.0}}
        watch = Watch()
        watch.start()
        made = prepare(
            parse_recipe(raw, source="fuzz"), tokenizer=base.tokenizer, folder=folder / "out", root=folder, emit=discard
        )
        watch.done.set()
        watch.join()
        rejected: list[dict[str, Any]] = [
            json.loads(line) for line in (folder / "out" / "rejected.jsonl").read_bytes().splitlines()
        ]
    ledger = made.ledger
    assert ledger.rows_in == ledger.rows_kept + sum(ledger.rejected.values())
    assert len(rejected) == sum(ledger.rejected.values())
    assert all(record["file"] and record["line"] and record["reason"] for record in rejected)
    result = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "device": platform.machine(),
        "lines": count,
        "rows_in": ledger.rows_in,
        "rows_kept": ledger.rows_kept,
        "rejected": ledger.rejected,
        "peak_mib": round(watch.peak_bytes / 2**20),
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
