"""What reaches vLLM: checked copies of released files, and requests as token ids; and what comes back."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest

from burnish.core.errors import BaseModelError, ServeError
from burnish.core.ids import file_sha256
from burnish.model.load import load_base
from burnish.model.lora import CONFIG, WEIGHTS, adaptable_layers
from burnish.model.sampling import Sampling
from burnish.serve.adapters import AdapterSource
from burnish.serve.stream import End
from burnish.serve.vllm.shelf import Shelf
from burnish.serve.vllm.wire import body_of, read_event


def source_of(folder: Path) -> AdapterSource:
    return AdapterSource(folder, (file_sha256(folder / WEIGHTS), file_sha256(folder / CONFIG)))


@pytest.fixture
def shelf(varied_base: Path, tmp_path: Path) -> Shelf:
    (tmp_path / "shelf").mkdir()
    return Shelf(tmp_path / "shelf", adaptable_layers(load_base(varied_base)), rank_limit=8)


def test_vllm_gets_a_private_copy_under_a_name_of_its_digest(shelf: Shelf, adapter_folders: dict[str, Path]) -> None:
    source = source_of(adapter_folders["a"])
    assert source.digests is not None
    shelf.add("a", source, lazy=True)
    shelved = shelf.claim("a")
    assert shelved.label.startswith(f"sha256-{source.digests[0][:32]}")
    assert sorted(path.name for path in shelved.folder.iterdir()) == sorted((WEIGHTS, CONFIG))
    assert stat.S_IMODE(shelved.folder.stat().st_mode) == 0o700
    assert file_sha256(shelved.folder / WEIGHTS) == source.digests[0]
    shelf.drop(shelved)
    assert shelf.remove("a") is shelved
    shelf.forget(shelved)
    assert not shelved.folder.exists()
    shelf.add("a", source, lazy=True)
    assert shelf.claim("a").label != shelved.label, "a name that is given again must not meet what vLLM kept of the old"


def test_what_is_no_released_adapter_is_refused(shelf: Shelf, adapter_folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ServeError, match="no digests"):
        shelf.add("bare", AdapterSource(adapter_folders["a"]), lazy=False)
    linked = tmp_path / "linked"
    shutil.copytree(adapter_folders["a"], linked)
    (linked / WEIGHTS).unlink()
    (linked / WEIGHTS).symlink_to(adapter_folders["a"] / WEIGHTS)
    with pytest.raises(BaseModelError, match="not a plain file"):
        shelf.add("linked", source_of(linked), lazy=False)
    other = AdapterSource(adapter_folders["b"], source_of(adapter_folders["a"]).digests)
    with pytest.raises(BaseModelError, match="not the file that was released"):
        shelf.add("other", other, lazy=False)
    wide = Shelf(tmp_path / "shelf", {"model.layers.0.mlp.up_proj": (3, 4)}, rank_limit=8)
    with pytest.raises(BaseModelError):
        wide.add("wide", source_of(adapter_folders["a"]), lazy=False)
    assert shelf.names == wide.names == ()
    assert not any(path.suffix != ".new" for path in (tmp_path / "shelf").iterdir())


def test_a_request_goes_as_token_ids_and_ends_by_its_own_stops_alone() -> None:
    asked = Sampling(max_new_tokens=5, stop_ids=frozenset({9, 2}), logit_bias={7: 1.5}, seed=2**63 + 1, logprobs=2)
    body = body_of("sha256-x", [4, 5], asked, None)
    assert body["prompt"] == [4, 5]
    assert (body["stop_token_ids"], body["ignore_eos"], body["top_k"]) == ([2, 9], True, -1)
    assert (body["logit_bias"], body["seed"], body["logprobs"]) == ({"7": 1.5}, 1, 2)
    json.dumps(body)


def event(**choice: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n"


def test_events_are_read_as_tokens() -> None:
    asked = Sampling(max_new_tokens=5, stop_ids=frozenset({2}), logprobs=1)
    told = {
        "token_logprobs": [-0.5, -0.1],
        "top_logprobs": [{"token_id:8": -0.5, "token_id:3": -0.2}, {"token_id:2": -0.1}],
    }
    piece = read_event(event(token_ids=[8, 2], logprobs=told, finish_reason="stop"), asked)
    assert piece is not None
    assert (piece.tokens, piece.end) == ([8], End.STOP)
    assert piece.likelihoods[0].best == ((3, -0.2),)
    assert len(piece.likelihoods) == 1
    assert read_event(b"data: [DONE]\n", asked) is None
    assert read_event(b": ping\n", asked) is None
    with pytest.raises(ServeError, match="no room"):
        read_event(b'data: {"error": {"message": "no room"}}\n', asked)
    with pytest.raises(ServeError, match="abort"):
        read_event(event(token_ids=[], finish_reason="abort"), asked)
