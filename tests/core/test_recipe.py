"""The recipe refuses what it does not know, and says everything wrong at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from burnish.core.errors import RecipeError
from burnish.core.recipe_file import load_recipe, parse_recipe, recipe_fields

SHORT = {"name": "support", "base": "smollm2-135m-instruct", "data": "rows.jsonl", "method": "qlora"}


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_four_lines_are_a_recipe_and_everything_else_is_derived() -> None:
    recipe = parse_recipe(SHORT, source="test")
    assert recipe.method.kind == "qlora"
    assert recipe.method.rank == 16
    assert recipe.gate == {}
    assert recipe.train.tokens_per_step is None


def test_a_method_may_be_a_mapping_with_one_target_as_text() -> None:
    recipe = parse_recipe(SHORT | {"method": {"kind": "lora", "rank": 32, "targets": "q_proj"}}, source="test")
    assert recipe.method.targets == ("q_proj",)
    assert recipe.method.rank == 32


def test_all_problems_are_shown_at_once_with_file_key_found_and_allowed(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "name: Flight\nbase: smollm2-135m-instruct\nmetod: qlora\nmethod: {kind: qlra, rank: 0}\n"
        "gate: {exct_match: 0.65}\ntrain: {epohs: 2}\nsystem: 'Today is {dat}'\n",
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert message.startswith(f"{path} has 8 problems")
    for part in ("metod", 'Did you mean "method"?', "method.kind = 'qlra'", 'Did you mean "qlora"?', "data = missing"):
        assert part in message
    for part in ("method.rank = 0", "train.epohs = 2", 'Did you mean "epochs"?', "unknown field {dat}", "exct_match"):
        assert part in message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "part"),
    [("- a\n- b\n", "a mapping of keys"), ("a: [", "not YAML"), ("", "a mapping of keys"), ("\x00", "not YAML")],
)
def test_what_is_not_a_mapping_is_refused(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(RecipeError, match=part):
        load_recipe(write(tmp_path, text))


def test_a_missing_recipe_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="burnish new"):
        load_recipe(tmp_path / "none.yaml")


def test_overrides_reach_sections_and_turn_a_short_method_into_a_mapping(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\nbase: b\ndata: c\nmethod: qlora\n")
    recipe = load_recipe(path, ["method.rank=4", "train.epochs=2", "gate.exact_match=0.5", "name=other"])
    assert (recipe.method.kind, recipe.method.rank, recipe.train.epochs) == ("qlora", 4, 2.0)
    assert recipe.gate == {"exact_match": 0.5}
    assert recipe.name == "other"


@pytest.mark.parametrize("override", ["rank", "=3", "name.x=1", "train.epochs=["])
def test_a_bad_override_is_a_recipe_error(tmp_path: Path, override: str) -> None:
    path = write(tmp_path, "name: a\nbase: b\ndata: c\nmethod: qlora\n")
    with pytest.raises(RecipeError, match="--set"):
        load_recipe(path, [override])


@pytest.mark.parametrize("name", ["base", "../up", "a/b", "A", "", "a" * 64, "-x", "a b", "é"])
def test_names_that_could_leave_a_folder_or_hide_the_base_are_refused(name: str) -> None:
    with pytest.raises(RecipeError):
        parse_recipe(SHORT | {"name": name}, source="test")


@pytest.mark.parametrize("name", ["train", "test", "general"])
def test_a_task_cannot_have_the_name_of_a_split_or_of_the_general_texts(name: str) -> None:
    with pytest.raises(RecipeError, match=f'a task cannot be called "{name}"'):
        parse_recipe(SHORT | {"evaluate": {"tasks": {name: "rows.jsonl"}}}, source="test")


def test_every_field_has_a_description_for_the_reference() -> None:
    rows = list(recipe_fields())
    assert {"name", "method.rank", "train.epochs", "evaluate.tasks"} <= {key for key, *_ in rows}
    assert [key for key, _, _, description in rows if not description] == []


@example(raw={"[key]": None})
@given(st.dictionaries(st.text(max_size=8), st.one_of(st.none(), st.integers(), st.text(max_size=5), st.booleans())))
def test_any_mapping_gives_a_recipe_or_a_recipe_error(raw: dict[str, object]) -> None:
    try:
        found: object = parse_recipe(raw, source="fuzz")
    except RecipeError as error:
        found = error.problems
    assert found


def test_recipe_errors_survive_pickling() -> None:
    import pickle

    with pytest.raises(RecipeError) as caught:
        parse_recipe({}, source="test")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value)


@pytest.mark.parametrize(
    ("text", "key"), [("name: a\nname: b\n", "name"), ("name: a\ntrain: {epochs: 1, epochs: 2}\n", "epochs")]
)
def test_a_key_that_is_given_twice_is_refused(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(RecipeError, match=f"{key} = given twice.*line 2"):
        load_recipe(write(tmp_path, text))


def test_what_people_read_is_not_the_words_of_libraries(tmp_path: Path) -> None:
    text = "name: Ä\nbase: 3\ndata: x\nmethod: {kind: lora, rank: many}\ntrain: {device: tpu}\n"
    text += "gate: {exact_match: 2, acuracy: 0.5}\n"
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, text))
    message = str(caught.value)
    for part in (
        "must begin with a-z",
        "must be text",
        "must be a whole number",
        "must be between 0 and 1",
        'unknown metric "acuracy"',
    ):
        assert part in message
    for part in ("nput should", "?.", "NoneType", "unicode string", "valid string"):
        assert part not in message
    with pytest.raises(RecipeError, match="file = nothing"):
        load_recipe(write(tmp_path, ""))
