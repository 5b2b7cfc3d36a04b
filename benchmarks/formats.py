"""Reading and writing one row of each format, beside the JSON parser that every row goes through anyway.

`python benchmarks/formats.py` prints one JSON document: microseconds of one CPU a row, the best of seven rounds of 2,000 rows
(the arms take turns within a round). Rows have a request of 200 characters and an answer of 300.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any

from burnish.data.formats.detect import detect
from burnish.data.formats.rows import read_any, write

ROUNDS = 7
ROWS = 2_000
ASKED, ANSWERED = "How far is it? " * 13, "It is far. " * 27
USER = {"role": "user", "content": ASKED}
ASSISTANT = {"role": "assistant", "content": ANSWERED}
CALL = {"id": "c", "type": "function", "function": {"name": "find", "arguments": '{"city": "Ulm"}'}}
EXAMPLES: dict[str, dict[str, Any]] = {
    "messages": {"messages": [USER, ASSISTANT]},
    "messages, 8 turns": {"messages": [USER, ASSISTANT] * 4},
    "messages with a tool call": {
        "messages": [
            USER,
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c", "content": "12 km"},
            ASSISTANT,
        ],
        "tools": [{"type": "function", "function": {"name": "find", "parameters": {}}}],
    },
    "sharegpt": {"id": "1", "conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": ANSWERED}]},
    "alpaca": {"instruction": ASKED, "input": "", "output": ANSWERED},
    "prompt-completion": {"prompt": ASKED, "completion": ANSWERED},
    "prompt-completion, 4 more keys": {"prompt": ASKED, "completion": ANSWERED}
    | {"system": "s", "date": "2025-01-01", "split": "train", "id": 1},
    "question-answer": {"question": ASKED, "answer": ANSWERED},
    "guanaco": {"text": f"### Human: {ASKED}\n### Assistant: {ANSWERED}"},
    "llama-2": {"text": f"<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n{ASKED} [/INST] {ANSWERED} </s>"},
    "chatml": {"text": f"<|im_start|>user\n{ASKED}<|im_end|>\n<|im_start|>assistant\n{ANSWERED}<|im_end|>\n"},
    "preference": {"prompt": ASKED, "chosen": ANSWERED, "rejected": "No."},
    "preference, whole conversations": {
        "chosen": [USER, ASSISTANT],
        "rejected": [USER, {"role": "assistant", "content": "No."}],
    },
    "kto": {"prompt": ASKED, "completion": ANSWERED, "label": True},
    "text": {"text": ASKED + ANSWERED},
}


def microseconds(call: Callable[[], Any], rows: int = ROWS) -> float:
    start = time.process_time()
    for _ in range(rows):
        call()
    return (time.process_time() - start) / rows * 1e6


def measure(value: dict[str, Any]) -> dict[str, float]:
    record, text = read_any(value), json.dumps(value)
    assert write(record) == value
    arms: dict[str, Callable[[], Any]] = {
        "json.loads": lambda: json.loads(text),
        "read": lambda: read_any(value),
        "write": lambda: write(record),
        "mapped": lambda: record.mapped(str),
    }
    rounds = [{name: microseconds(call) for name, call in arms.items()} for _ in range(ROUNDS)]
    return {name: round(min(one[name] for one in rounds), 2) for name in arms}


def main() -> None:
    sample = list(EXAMPLES.values()) * 50
    results = {
        "cpus": os.cpu_count(),
        "microseconds_a_row": {name: measure(value) for name, value in EXAMPLES.items()},
        "detect_microseconds_a_row": round(microseconds(lambda: detect(sample), 5) / len(sample), 2),
    }
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
