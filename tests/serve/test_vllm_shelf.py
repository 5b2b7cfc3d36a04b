"""What reaches vLLM: checked copies of released files, and requests as token ids; and what comes back."""

from __future__ import annotations

import asyncio
import json
import shutil
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from burnish.core.errors import BaseModelError, ServeError
from burnish.core.ids import file_sha256
from burnish.model.load import load_base
from burnish.model.lora import CONFIG, WEIGHTS, adaptable_layers
from burnish.model.sampling import Likelihood, Sampling
from burnish.serve.adapters import AdapterSource
from burnish.serve.stream import End
from burnish.serve.vllm.shelf import Shelf
from burnish.serve.vllm.wire import Events, body_of, lines_of


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
    events = Events(asked, 2)
    piece = events.read(event(token_ids=[8, 2], logprobs=told, finish_reason="stop"))
    assert piece is not None
    assert (piece.tokens, piece.end) == ([8], End.STOP)
    assert piece.likelihoods == [Likelihood(-0.5, ((3, -0.2),))]
    assert piece.stop == (2, Likelihood(-0.1, ((2, -0.1),)))
    assert events.read(b"data: [DONE]\n") is None
    assert events.read(b": ping\n") is None
    with pytest.raises(ServeError, match="no room"):
        events.read(b'data: {"error": {"message": "no room"}}\n')
    with pytest.raises(ServeError, match="abort"):
        events.read(event(token_ids=[], finish_reason="abort"))


@pytest.mark.parametrize(("new_tokens", "logprobs"), [(0, None), (2, 0), (2, None)])
def test_what_is_told_of_a_prompt_comes_before_its_answer(new_tokens: int, logprobs: int | None) -> None:
    """vLLM's first event tells the prompt and the first token in one list; with max_tokens 0 it makes a token all the same."""
    asked = Sampling(max_new_tokens=new_tokens, logprobs=logprobs, prompt_logprobs=1)
    body = body_of("base", [4, 5, 6], asked, None)
    assert (body["echo"], body["logprobs"], body["max_tokens"]) == (True, 1, new_tokens)
    answer = [-0.1] if new_tokens else []
    told = {
        "token_logprobs": [None, -3.5, -0.2, *answer],
        "top_logprobs": [
            None,
            {"token_id:5": -3.5, "token_id:9": -0.3},
            {"token_id:6": -0.2},
            *({"token_id:7": -0.1} for _ in answer),
        ],
    }  # fmt: skip
    events = Events(asked, 3)
    first = events.read(event(token_ids=[7], logprobs=told, finish_reason=None if new_tokens else "length"))
    assert first is not None
    assert first.prompt == [Likelihood(-3.5, ((9, -0.3),)), Likelihood(-0.2, ((6, -0.2),))]
    assert first.likelihoods == ([] if logprobs is None else [Likelihood(-0.1, ())])
    assert (first.tokens, first.end) == (([7], None) if new_tokens else ([], End.LENGTH))
    if new_tokens:
        later = {"token_logprobs": [-0.4], "top_logprobs": [{"token_id:8": -0.4}]}
        second = events.read(event(token_ids=[8], logprobs=later, finish_reason="length"))
        assert second is not None
        assert (second.tokens, second.prompt, second.end) == ([8], [], End.LENGTH)


def test_without_log_probabilities_a_prompt_is_read_alone() -> None:
    asked = Sampling(max_new_tokens=0)
    assert "logprobs" not in body_of("base", [4], asked, None)
    assert body_of("base", [4], asked, None)["echo"] is True
    assert "echo" not in body_of("base", [4], Sampling(max_new_tokens=1, logprobs=1), None)
    piece = Events(asked, 1).read(event(token_ids=[7], finish_reason="stop"))
    assert piece is not None
    assert (piece.tokens, piece.end) == ([], End.LENGTH)


def test_lines_are_whole_however_they_come() -> None:
    async def read(pieces: list[bytes]) -> list[bytes]:
        async def come() -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

        return [line async for line in lines_of(come())]

    long = b"x" * (5 << 20)
    assert asyncio.run(read([long[:7], long[7:] + b"\n\nda", b"ta\n", b"", b"e\nnd"])) == [
        long,
        b"",
        b"data",
        b"e",
        b"nd",
    ]
