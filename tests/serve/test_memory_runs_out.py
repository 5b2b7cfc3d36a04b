"""Where memory runs out one request fails, with a status that says so, and everything else is as it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from short_of_memory import NEW, PROMPT
from transformers import AutoModelForCausalLM

PROGRAM = Path(__file__).with_name("short_of_memory.py")


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts mappings on Linux alone")
def test_a_process_that_gets_no_more_memory_fails_the_request_that_needs_some_and_answers_the_others(
    wide_base: Path, wide_adapters: dict[str, Path]
) -> None:
    folders = wide_adapters
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(wide_base), *map(str, folders.values())],
        capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=1048576"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    right = {name: expected(wide_base, folder) for name, folder in {"base": None, **folders}.items()}
    assert len({tuple(answer) for answer in right.values()}) == 5
    assert told["c beside a and b"].startswith('NoMemory: no memory is left for the adapter "c" (padded rank 256')
    assert "2 others are answering" in told["c beside a and b"]
    assert told["more"] == 0, "a stack that could not grow has the size that it had"
    assert told["a and b"] == [right["a"], right["b"]]
    assert told["d in the place of b"] == right["d"]
    assert told["resident"] == ["a", "d"], "an idle adapter made room"
    assert told["b must be read"].startswith("NoMemory: there is no memory for an adapter that is read")
    assert told["alone"] == told["base beside it"] == told["base after it"] == right["base"]
    assert told["a"] == right["a"]
    assert told["with memory"] == [right[name] for name in "abcd"]
    assert told["left"] == 0
    assert told["given back"] > 3.9 * told["size"], "four adapters, and nothing else holds them"


def expected(base: Path, folder: Path | None) -> list[int]:
    """Greedy tokens by transformers and PEFT."""
    model = AutoModelForCausalLM.from_pretrained(base)
    model = model if folder is None else PeftModel.from_pretrained(model, folder)
    ids = torch.tensor([PROMPT])
    whole = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return whole[0, len(PROMPT) :].tolist()
