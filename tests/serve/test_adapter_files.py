"""Thousands of adapters may be known, few are in memory, none is trusted, and what is taken out is gone."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from burnish.core.errors import BaseModelError, BurnishError, ServeError
from burnish.core.ids import file_sha256
from burnish.model.lora import CONFIG, WEIGHTS
from burnish.model.memory import trim_heap
from burnish.model.sampling import Sampling
from burnish.serve.adapters import AdapterSource
from burnish.serve.engine import Engine
from burnish.serve.stream import End

PROMPT = [*range(20, 50), 7]


def answer(engine: Engine, name: str | None, new_tokens: int = 6) -> list[int]:
    return list(engine.submit(PROMPT, name, Sampling(max_new_tokens=new_tokens)))


def test_a_thousand_known_adapters_take_turns_in_two_slots(
    varied_model: PreTrainedModel, adapter_folders: dict[str, Path]
) -> None:
    with Engine(varied_model, rows=4, slots=2) as engine:
        for number in range(1000):
            engine.add_adapter(f"n{number}", adapter_folders["a" if number % 2 else "b"], lazy=True)
        assert engine.adapter_bytes == 0
        base, one, other = answer(engine, None), answer(engine, "n1"), answer(engine, "n0")
        assert one != base != other != one
        assert [answer(engine, f"n{number}") for number in (5, 998, 7, 4)] == [one, other, one, other]
        assert engine.resident_adapters == ("n7", "n4")
        assert answer(engine, "n7") == one
        assert answer(engine, "n2") == other
        assert engine.resident_adapters == ("n7", "n2"), "the one that was used longest ago makes room"


def test_more_adapters_at_once_than_slots_wait_for_each_other_and_are_all_answered(
    varied_model: PreTrainedModel, adapter_folders: dict[str, Path]
) -> None:
    with Engine(varied_model, rows=8, slots=2, queue=64) as engine:
        for number in range(6):
            engine.add_adapter(f"n{number}", adapter_folders["a" if number % 2 else "b"], lazy=True)
        alone = {number: answer(engine, f"n{number}", 12) for number in range(2)}
        names = [number % 6 for number in range(30)]
        streams = [engine.submit(PROMPT, f"n{number}", Sampling(max_new_tokens=12)) for number in names]
        for number, stream in zip(names, streams, strict=True):
            assert list(stream) == alone[number % 2]


def test_a_removed_adapter_answers_what_was_taken_refuses_the_rest_and_leaves_memory(
    varied_model: PreTrainedModel, adapter_folders: dict[str, Path]
) -> None:
    with Engine(varied_model, adapters=adapter_folders, rows=2) as engine:
        stream = engine.submit(PROMPT, "a", Sampling(max_new_tokens=200))
        next(iter(stream))
        assert engine.adapter_bytes > 0
        assert not engine.remove_adapter("a")
        with pytest.raises(ServeError, match='no adapter "a" here'):
            answer(engine, "a")
        engine.add_adapter("a", adapter_folders["b"])  # the name is free at once, the old one still answers
        renewed = answer(engine, "a")
        assert len(list(stream)) == 199
        assert stream.end is End.LENGTH
        assert renewed == answer(engine, "b")
        assert engine.remove_adapter("a", wait_s=10)
        assert engine.remove_adapter("b", wait_s=10)
        assert engine.adapter_bytes == 0
        with pytest.raises(ServeError, match="no adapter"):
            engine.remove_adapter("a")


def test_a_cancelled_request_lets_go_of_its_adapter(
    varied_model: PreTrainedModel, adapter_folders: dict[str, Path]
) -> None:
    with Engine(varied_model, adapters=adapter_folders, rows=1) as engine:
        running = engine.submit(PROMPT, "a", Sampling(max_new_tokens=400))
        waiting = engine.submit(PROMPT, "b", Sampling(max_new_tokens=400))
        next(iter(running))
        for name in adapter_folders:
            engine.remove_adapter(name)
        waiting.cancel()
        running.cancel()
        engine.add_adapter("c", adapter_folders["a"])
        assert engine.remove_adapter("c", wait_s=10)
        assert engine.adapter_bytes == 0


def test_loading_and_unloading_keeps_resident_memory_flat(
    varied_model: PreTrainedModel, adapter_folders: dict[str, Path]
) -> None:
    """200 times here; benchmarks/serve.py does 1,000 on SmolLM2."""

    def churn(engine: Engine, times: int) -> int:
        for number in range(times):
            engine.add_adapter("x", adapter_folders["a" if number % 2 else "b"])
            answer(engine, "x", 2)
            assert engine.remove_adapter("x", wait_s=10)
        trim_heap()
        return psutil.Process().memory_info().rss

    with Engine(varied_model, rows=2) as engine:
        before = churn(engine, 60)
        assert churn(engine, 200) < 1.02 * before
        assert engine.adapter_bytes == 0


def test_a_name_is_given_once(engine: Engine, adapter_folders: dict[str, Path]) -> None:
    with pytest.raises(ServeError, match='known as "a" already'):
        engine.add_adapter("a", adapter_folders["b"])


# ----------------------------------------------------------------------------------------------------- what is refused


def change_config(**changes: object) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / CONFIG
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return apply


def change_weights(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return apply


def poison(tensors: dict[str, torch.Tensor]) -> None:
    first = next(iter(tensors))
    tensors[first] = torch.full_like(tensors[first], torch.nan)


def pad(tensors: dict[str, torch.Tensor]) -> None:
    tensors["ballast"] = torch.zeros(1 << 20)


def pickled(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    with (folder / "adapter_model.bin").open("wb") as file:
        pickle.dump({name: tensor.tolist() for name, tensor in tensors.items()}, file)


def pickle_in_disguise(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(pickle.dumps({"weights": [1.0]}))


def linked(folder: Path) -> None:
    target = folder.parent / "elsewhere.safetensors"
    (folder / WEIGHTS).rename(target)
    (folder / WEIGHTS).symlink_to(target)


def linked_config(folder: Path) -> None:
    (folder / CONFIG).rename(folder.parent / "elsewhere.json")
    (folder / CONFIG).symlink_to(folder.parent / "elsewhere.json")


def flood_config(folder: Path) -> None:
    (folder / CONFIG).write_text("{" + " " * (2 << 20) + "}")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (pickled, "cannot read"),
        (pickle_in_disguise, "cannot read"),
        (linked, "not a plain file"),
        (linked_config, "not a plain file"),
        (flood_config, "at most 1048576"),
        (change_config(r=100_000), "from 1 to 256"),
        (change_config(r=-1), "from 1 to 256"),
        (change_config(r=True), "shape"),
        (change_config(target_modules=["nowhere"]), "no linear layer"),
        (change_config(target_modules=["lm_head"]), "no linear layer"),
        (change_config(use_dora=True), "lengths of rows"),
        (change_config(r=3), "shape"),
        (change_weights(poison), "not finite"),
        (change_weights(pad), "at most"),
    ],
)
def test_a_dangerous_or_damaged_adapter_is_refused_and_the_others_answer(
    engine: Engine, adapter_folders: dict[str, Path], tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = copytree(adapter_folders["a"], tmp_path / "bad")
    damage(folder)
    with pytest.raises(BaseModelError, match=message):
        engine.add_adapter("bad", folder)
    engine.add_adapter("late", folder, lazy=True)
    with pytest.raises(BaseModelError, match=message):
        answer(engine, "late")
    assert len(answer(engine, "a")) == 6


def test_another_bases_adapter_is_refused(engine: Engine, tmp_path: Path, adapter_folders: dict[str, Path]) -> None:
    folder = copytree(adapter_folders["a"], tmp_path / "other")
    change_weights(
        lambda tensors: tensors.update({name: value[:, :-1].contiguous() for name, value in tensors.items()})
    )(folder)
    with pytest.raises(BaseModelError, match="this base needs"):
        engine.add_adapter("other", folder)


def test_files_that_changed_since_the_release_are_refused(
    engine: Engine, tmp_path: Path, adapter_folders: dict[str, Path]
) -> None:
    folder = copytree(adapter_folders["a"], tmp_path / "released")
    released = AdapterSource(folder, (file_sha256(folder / WEIGHTS), file_sha256(folder / CONFIG)))
    engine.add_adapter("released", released)
    assert answer(engine, "released") == answer(engine, "a")
    engine.remove_adapter("released", wait_s=10)
    change_config(lora_alpha=1.0)(folder)
    with pytest.raises(BaseModelError, match="SHA-256 differs"):
        engine.add_adapter("released", released)


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a\0b", "а", "a/../a", "A", "", "base"])
def test_a_name_of_a_request_never_becomes_a_path(engine: Engine, name: str) -> None:
    """Names are looked up among those that were registered, letter for letter (the fourth is a Cyrillic a)."""
    with pytest.raises(BurnishError, match="no adapter"):
        answer(engine, name)
