"""Names find releases: champion, other aliases, versions, the base; new ones while it serves; nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
from transformers import PreTrainedModel

from burnish.core.artifacts import Adapter, FileRef, GateVerdict, MethodPlan, Release
from burnish.core.errors import BaseModelError
from burnish.core.events import discard
from burnish.doors.releases import ReleasedModels, resolve_release
from burnish.model.lora import CONFIG, WEIGHTS
from burnish.model.sampling import Sampling
from burnish.serve.answer import ServedModel
from burnish.serve.engine import Engine
from burnish.store.files import file_ref
from burnish.store.home import Home
from burnish.wiring import Base, open_base

PROMPT = [*range(20, 50), 7]


def release_of(home: Home, base: Base, folder: Path, name: str, version: int, alias: str = "champion") -> Release:
    """Store a release of an adapter's folder, as a run does."""
    place = home.root / "runs" / f"{name}-{version}"
    copytree(folder, place)
    files: dict[str, FileRef] = {key: file_ref(place / key, home.root) for key in (WEIGHTS, CONFIG)}
    adapter = Adapter(
        parents=("1" * 64, "2" * 64), name=name, base=base.files.ref, plan="1" * 64, manifest="2" * 64,
        method=MethodPlan(
            kind="lora", rank=4, alpha=8.0, dropout=0.0, targets=("q_proj",), quantisation="none", double_quantisation=False
        ),
        fingerprint=base.tokenizer.fingerprint(f"You are {name} {version}."),
        weights_file=files[WEIGHTS], config_file=files[CONFIG],
    )  # fmt: skip
    home.save(adapter)
    release = Release(
        parents=(adapter.id, "3" * 64), name=name, alias=alias, adapter=adapter.id, report="3" * 64, plan="1" * 64,
        manifest="2" * 64, base=base.files.ref, gate=GateVerdict(passed=True, thresholds={}, reasons=()), version=version,
    )  # fmt: skip
    home.save(release)
    return release


@pytest.fixture
def base(varied_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Base:
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    return open_base(str(varied_base), discard)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def engine(varied_model: PreTrainedModel) -> Iterator[Engine]:
    with Engine(varied_model, rows=4) as engine:
        yield engine


def answer(engine: Engine, model: ServedModel) -> list[int]:
    return list(engine.submit(PROMPT, model.adapter, Sampling(max_new_tokens=6)))


def test_champion_alias_version_and_base_are_served_from_one_engine(
    home: Home, base: Base, engine: Engine, adapter_folders: dict[str, Path]
) -> None:
    release_of(home, base, adapter_folders["a"], "flight-search", 1)
    release_of(home, base, adapter_folders["b"], "flight-search", 2, "challenger")
    release_of(home, base, adapter_folders["b"], "support", 1)
    models = ReleasedModels(home, base, engine, "none")
    assert list(models) == ["base", "flight-search", "support", "flight-search@challenger"]
    first, second = models["flight-search:1"], models["flight-search:2"]
    assert models["flight-search"] == first
    assert models["flight-search@champion"] == first
    assert models["flight-search@challenger"] == second
    assert first.system == "You are flight-search 1."
    assert answer(engine, first) != answer(engine, second) != answer(engine, models["base"])
    assert answer(engine, models["support"]) == answer(engine, second)


def test_a_name_tells_the_version_that_it_means_now(
    home: Home, base: Base, engine: Engine, adapter_folders: dict[str, Path]
) -> None:
    release_of(home, base, adapter_folders["a"], "flight-search", 1)
    models = ReleasedModels(home, base, engine, "none")
    assert models.version("flight-search") == "flight-search:1"
    release_of(home, base, adapter_folders["b"], "flight-search", 2, "challenger")
    release_of(home, base, adapter_folders["b"], "flight-search", 3)
    told = {
        name: models.version(name) for name in ("flight-search", "flight-search@challenger", "base", "other", "../x")
    }
    assert told == {
        "flight-search": "flight-search:3", "flight-search@challenger": "flight-search:2", "base": None, "other": None,
        "../x": None,
    }  # fmt: skip
    assert answer(engine, models["flight-search:3"]) == answer(engine, models["flight-search"])


def test_a_release_made_while_it_serves_is_found(
    home: Home, base: Base, engine: Engine, adapter_folders: dict[str, Path]
) -> None:
    models = ReleasedModels(home, base, engine, "none")
    assert list(models) == ["base"]
    assert models.get("support") is None
    release_of(home, base, adapter_folders["a"], "support", 1)
    assert models["support"].system == "You are support 1."
    release_of(home, base, adapter_folders["b"], "support", 2)
    assert models["support"].system == "You are support 2."


def test_only_what_fits_the_base_and_its_text_is_served(
    home: Home, base: Base, engine: Engine, adapter_folders: dict[str, Path]
) -> None:
    other = replace(base, files=replace(base.files, ref=base.files.ref.model_copy(update={"digest": "f" * 64})))
    release_of(home, other, adapter_folders["a"], "other", 1)
    release_of(home, base, adapter_folders["a"], "mine", 1)
    assert list(ReleasedModels(home, base, engine, "none")) == ["base", "mine"]
    assert list(ReleasedModels(home, base, engine, "nf4")) == ["base"]


def test_files_that_changed_after_the_release_are_refused(
    home: Home, base: Base, engine: Engine, adapter_folders: dict[str, Path]
) -> None:
    release_of(home, base, adapter_folders["a"], "support", 1)
    model = ReleasedModels(home, base, engine, "none")["support"]
    path = home.root / "runs" / "support-1" / CONFIG
    path.write_text(path.read_text().replace('"lora_alpha": 8.0', '"lora_alpha": 9.0'))
    with pytest.raises(BaseModelError, match="SHA-256 differs"):
        answer(engine, model)


@pytest.mark.parametrize(
    "name",
    [
        "", "nobody", "support:3", "support:0", "support:-1", "support@", "support@nobody", "../support", "/etc/passwd",
        "support/../support", "support\0", "suppоrt", "SUPPORT", "support:1:1", "support@champion:1", "a" * 100_000, "support ",
    ],
)  # fmt: skip
def test_a_name_that_means_no_release_finds_nothing(
    home: Home, base: Base, name: str, adapter_folders: dict[str, Path]
) -> None:
    release = release_of(home, base, adapter_folders["a"], "support", 1)
    assert resolve_release([release], name) is None


def test_the_newest_version_answers_where_none_is_champion(
    home: Home, base: Base, adapter_folders: dict[str, Path]
) -> None:
    releases = [release_of(home, base, adapter_folders["a"], "x", version, "challenger") for version in (2, 10, 9)]
    assert resolve_release(releases, "x") == releases[1]
