"""`burnish promote`: an alias moves to another version and back, on record, and servers, registry and artifacts agree."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from burnish import wiring
from burnish.cli import main
from burnish.core.artifacts import Adapter, EvalReport, Release
from burnish.core.errors import UsageError
from burnish.core.events import discard
from burnish.doors.promoting import check_alias, promote
from burnish.doors.releases import resolve_release
from burnish.registry.mlflow_store import registered
from burnish.store.home import Home

pytestmark = pytest.mark.filterwarnings("ignore:.*noload.*")


@pytest.fixture
def home(family: dict[str, Any], tmp_path: Path, empty_registry: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with two releases of one name, as two runs leave it: version 1, and 2 which is the champion."""
    monkeypatch.delenv("BURNISH_REGISTRY", raising=False)
    home = Home(tmp_path / "home")
    wiring.registry_file(home).parent.mkdir(parents=True)
    shutil.copyfile(empty_registry, wiring.registry_file(home))
    manifest, plan, first = family["manifest"], family["plan"], family["adapter"]
    second = first.model_copy(update={"fingerprint": first.fingerprint.model_copy(update={"system": "Be brief."})})
    home.save(manifest)
    home.save(plan)
    for adapter in (first, second):
        report = family["report"].model_copy(update={"parents": (adapter.id, manifest.id), "adapter": adapter.id})
        home.save(adapter)
        home.save(report)
        release_one(home, adapter, report, family, "champion")
    return home


def release_one(home: Home, adapter: Adapter, report: EvalReport, family: dict[str, Any], alias: str) -> None:
    from burnish.core.recipe_file import load_recipe

    recipe = load_recipe(Path(__file__).parents[2] / "recipes" / "flight-search.yaml", [])
    gate = wiring.decide(report, {"exact_match": 0.65})
    home.save(wiring.release(recipe, adapter, report, family["plan"], family["manifest"], gate, home, alias))


def meaning(home: Home, name: str) -> tuple[int, str] | None:
    """Version and adapter that a name means."""
    found = resolve_release(home.all(Release), name)
    return None if found is None else (found.version, found.adapter)


def test_an_alias_moves_to_a_version_and_back_and_the_registry_follows(home: Home, family: dict[str, Any]) -> None:
    old = family["adapter"].id
    new = meaning(home, "flight-search:2")
    assert new is not None
    assert meaning(home, "flight-search") == new
    done = promote(home, "flight-search:1", "champion", discard)
    assert (done.moved, done.release.version, done.before and done.before.version) == (True, 3, 2)
    assert meaning(home, "flight-search") == (3, old)
    assert meaning(home, "flight-search:1") == (1, old), "what was recorded has not changed"
    back = promote(home, "flight-search:2", "champion", discard)
    again = promote(home, "flight-search:3", "champion", discard)
    assert [back.release.version, again.release.version] == [4, 5], "back and forth are moves of their own"
    assert meaning(home, "flight-search") == (5, old)
    uri = wiring.tracking_uri(home)
    known = registered("flight-search", uri)
    assert [version.aliases for version in known] == [(), (), (), (), ("champion",)]
    wiring.registry_file(home).unlink()
    wiring.mend_registry(home, discard)
    assert registered("flight-search", uri) == known, "the artifacts hold all of it"


def test_a_challenger_answers_beside_the_champion_until_it_is_promoted(home: Home, family: dict[str, Any]) -> None:
    champion = meaning(home, "flight-search")
    done = promote(home, "flight-search:1", "challenger", discard)
    assert done.before is None
    assert meaning(home, "flight-search@challenger") == (3, family["adapter"].id)
    assert meaning(home, "flight-search") == champion
    same = promote(home, "flight-search:1", "challenger", discard)
    assert (same.moved, same.release.version) == (False, 3)
    promote(home, "flight-search@challenger", "champion", discard)
    assert meaning(home, "flight-search") == (4, family["adapter"].id)


def test_a_run_may_release_a_challenger(home: Home, family: dict[str, Any]) -> None:
    champion = meaning(home, "flight-search")
    better = family["report"].model_copy(update={"name": "better"})
    home.save(better)
    release_one(home, family["adapter"], better, family, "challenger")
    assert meaning(home, "flight-search") == champion
    assert meaning(home, "flight-search@challenger") == (3, family["adapter"].id)


@pytest.mark.parametrize("alias", ["", "latest", "v7", "Champion", "a b", "../x", "-x", "a" * 33, "ch\u0430mpion"])
def test_what_cannot_be_an_alias_is_refused(alias: str) -> None:
    with pytest.raises(UsageError, match="cannot be an alias"):
        check_alias(alias)
    assert check_alias("canary_2") == "canary_2"


def test_the_verb(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--home", str(home.root)]
    assert main(["promote", "flight-search:1", "--alias", "challenger", *where]) == 0
    assert capsys.readouterr().out == "flight-search@challenger leads to flight-search:1 now, as version 3\n"
    assert main(["promote", "flight-search:1", "--alias", "challenger", *where]) == 0
    assert "leads there already: it is version 3" in capsys.readouterr().out
    assert main(["promote", "flight-search@challenger", "--json", *where]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["alias"], told["version"], told["before"], told["moved"]) == ("champion", 4, 2, True)
    assert main(["promote", "flight-serch", *where]) == 2
    said = capsys.readouterr().err
    assert "no release is called 'flight-serch'" in said
    assert "flight-search:1" in said
