"""What torch compiles in one run is there in the next."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from shutil import which

import pytest

from burnish.model.fused.paths import keep_compiled

RUN = """
import json, sys
import torch
from torch._dynamo.utils import counters
from burnish.model.fused.formulas import COMPILED
from burnish.model.fused.paths import keep_compiled

keep_compiled()
g = torch.randn(5, 7)
COMPILED.gate(g, g, "silu")
print(json.dumps({name: counters["inductor"][f"fxgraph_cache_{name}"] for name in ("hit", "miss")}))
"""


@pytest.mark.skipif(which("g++") is None, reason="torch compiles for a CPU with g++")
def test_a_second_run_compiles_nothing_again(tmp_path: Path) -> None:
    given = {key: value for key, value in os.environ.items() if not key.startswith("TORCHINDUCTOR")}
    seen = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", RUN], env=given | {"BURNISH_CACHE": str(tmp_path), "TMPDIR": str(tmp_path)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        seen.append(json.loads(done.stdout.splitlines()[-1]))
    assert seen == [{"hit": 0, "miss": 1}, {"hit": 1, "miss": 0}]
    assert (tmp_path / "compiled" / "fxgraph").is_dir()
    assert (tmp_path / "compiled").stat().st_mode & 0o777 == 0o700


def test_the_place_that_somebody_chose_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/somewhere")
    keep_compiled()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/somewhere"


def test_a_cache_that_cannot_be_written_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "file"))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    keep_compiled()
    assert str(tmp_path) not in os.environ.get("TORCHINDUCTOR_CACHE_DIR", "")
