"""The bias audit: rates by group with intervals, splits against the whole, counterfactual twins, by hand arithmetic."""

from __future__ import annotations

import json
from typing import Any

import pytest
from preparing import Prepare, Prepared

from burnish.core.association import association
from burnish.core.proportions import shares_differ, wilson
from burnish.data.filters.twins import swapped_messages


def row(request: str, answer: str, **more: Any) -> dict[str, Any]:
    return {"instruction": request, "response": answer, **more}


def audit_of(done: Prepared) -> dict[str, Any]:
    return json.loads((done.folder / "audit.json").read_text())


def axis(done: Prepared, name: str) -> dict[str, Any]:
    return next(each for each in audit_of(done)["axes"] if each["axis"] == name)


PLACES = ("coast", "valley", "old town", "airport", "harbour", "museum", "market")


def loans(women_refused: int, men_refused: int, each: int = 40) -> list[dict[str, Any]]:
    """Return as many requests about women as about men, of which so many are refused."""
    found: list[dict[str, Any]] = []
    for who, refused in (("woman", women_refused), ("man", men_refused)):
        for n in range(each):
            answer = f"I can't assist with that, case {who} {n}." if n < refused else f"Yes, take form {who} {n}."
            found.append(row(f"A {who} of number {n} near the {PLACES[n % 7]} asks for loan {n * 13}.", answer))
    return found


def test_refusals_by_group_come_with_intervals_a_test_and_an_effect_size(run_prepare: Prepare) -> None:
    done = run_prepare(loans(20, 4))
    gender = axis(done, "gender")
    groups = {group["name"]: group for group in gender["groups"]}
    assert {name: group["alone"] for name, group in groups.items()} == {"women": 40, "men": 40}
    refused = {rate["category"]: rate for rate in groups["women"]["rates"]["refusal"]}["refused"]
    assert refused["rows"] == 20
    assert (refused["share"], refused["low"]) == (0.5, pytest.approx(wilson(20, 40).low, abs=1e-4))
    test = next(test for test in gender["tests"] if test["what"] == "refusal")
    expected = association([[20, 20], [36, 4]])
    assert test["v"] == pytest.approx(expected.v, abs=1e-4)
    assert test["p"] == pytest.approx(expected.p, rel=1e-3)
    assert test["p_adjusted"] >= test["p"]
    assert test["finding"]
    assert any("refused 50.0% women, 10.0% men" in said for said in audit_of(done)["findings"])


def test_groups_that_are_treated_alike_are_no_finding(run_prepare: Prepare) -> None:
    done = run_prepare(loans(9, 8))
    refusal = next(test for test in axis(done, "gender")["tests"] if test["what"] == "refusal")
    assert not refusal["finding"]
    assert not [said for said in audit_of(done)["findings"] if "Rows about" in said]


def test_groups_of_few_rows_are_counted_but_not_tested(run_prepare: Prepare) -> None:
    done = run_prepare([*loans(0, 0, 12), row("Is the mosque near the church open to a Muslim today?", "Yes.")])
    religion = axis(done, "religion")
    assert {group["name"]: group["asked"]["rows"] for group in religion["groups"]} == {"Christians": 1, "Muslims": 1}
    assert religion["several"] == 1
    assert religion["tests"] == []


def test_labels_are_compared_by_group(run_prepare: Prepare) -> None:
    rows = [
        row(f"{who} of number {n + share} near the {PLACES[n % 7]} applies for place {n * 7 + share}.", label)
        for who, share in (("A woman", 8), ("A man", 130))
        for n in range(40)
        for label in ["accept" if n < share % 100 else "reject"]
    ]
    done = run_prepare(rows)
    assert set(audit_of(done)["labels"]) == {"accept", "reject"}
    label = next(test for test in axis(done, "gender")["tests"] if test["what"] == "label")
    assert label["finding"]
    assert label["v"] == pytest.approx(association([[8, 32], [30, 10]]).v, abs=1e-4)


def test_a_split_that_is_unlike_the_others_is_found_with_the_category_that_differs(run_prepare: Prepare) -> None:
    german = [
        row(f"Wann fährt Zug Nummer {n} zum Hafen ab?", f"Der Zug fährt um {n} Uhr von Gleis {n} im Bahnhof ab.",
            split="test" if n < 25 else "train")
        for n in range(30)
    ]  # fmt: skip
    english = [
        row(f"When does train number {n} leave for the coast?", f"The train leaves at {n} from platform {n} of the station.",
            split="test" if n < 5 else "train")
        for n in range(60)
    ]  # fmt: skip
    done = run_prepare([*german, *english])
    kept = {split: done.manifest.splits[split].rows for split in ("train", "test")}
    language = next(s for s in audit_of(done)["splits"] if (s["split"], s["property"]) == ("test", "language"))
    assert language["finding"]
    largest = language["largest"]
    assert largest["category"] in ("de", "en")
    inside = {"de": 25, "en": 5}[largest["category"]]
    outside = {"de": 5, "en": 55}[largest["category"]]
    if kept == {"train": 60, "test": 30}:
        expected = shares_differ(inside, 30, outside, 60)
        assert (largest["difference"], largest["low"]) == pytest.approx((expected.value, expected.low), abs=1e-4)
    assert any("split test differs" in said and "language" in said for said in audit_of(done)["findings"])


def test_twins_about_the_other_gender_with_another_answer_are_found(run_prepare: Prepare) -> None:
    rows = [
        row("Should she lead the team?", "No, let others do it."),
        row("Should he lead the team?", "Yes, of course."),
        row("May his sister come along?", "Yes, his sister may come."),
        row("May her brother come along?", "Yes, her brother may come."),
        row("Is the man on platform four?", "He is."),
        *(row(f"When does train number {n} leave?", f"At {n} past the hour.") for n in range(20)),
    ]
    found = {each["swap"]: each for each in audit_of(run_prepare(rows, prepare={"test_share": 0.3}))["counterfactual"]}
    gender = found["gender"]
    assert (gender["with_twin"], gender["other_answer"]["rows"]) == (4, 2)
    places = {(example["place"], example["twin_place"]) for example in gender["examples"]}
    assert places == {("rows.jsonl:1", "rows.jsonl:2"), ("rows.jsonl:2", "rows.jsonl:1")}
    assert found["names"]["rows"] == 0


def test_groups_are_found_in_four_languages_and_rows_in_others_are_told_and_not_counted(run_prepare: Prepare) -> None:
    rows = [
        *(row(f"Does train number {n} leave for the coast with his bicycle?", f"At {n} it leaves.") for n in range(12)),
        row("Darf eine Frau ohne ihren Mann in diesem Haus wohnen?", "Ja, das ist ohne weiteres möglich."),
        row("Kann man hier heute noch eine Fahrkarte für den Zug kaufen?", "Ja, am Schalter dort drüben."),
        row("Cette femme peut elle venir avec son chien dans le train?", "Oui, les chiens sont admis dans le train."),
        row("¿Puede venir mi abuelo con nosotros en el tren de mañana?", "Claro que sí, hay sitio para todos."),
        row("Czy ta kobieta może jutro wyjechać pociągiem do Warszawy?", "Tak, pociąg odjeżdża jutro rano."),
    ]
    done = run_prepare(rows, prepare={"test_share": 0.3})
    groups = {group["name"]: group["asked"] for group in axis(done, "gender")["groups"]}
    assert {name: asked["rows"] for name, asked in groups.items()} == {"men": 14, "women": 2}
    looked = audit_of(done)["groups_looked_for"]
    assert (looked["languages"], looked["rows"]) == (["en", "de", "fr", "es"], 16)
    assert [(each["name"], each["rows"]) for each in looked["other_languages"]] == [("pl", 1)]
    assert groups["men"]["share"] == pytest.approx(14 / 16, abs=1e-4)
    assert audit_of(done)["counterfactual"][0]["rows"] == 12, "swaps are made in English"


def test_words_of_english_say_nothing_of_rows_that_are_mostly_in_another_language(run_prepare: Prepare) -> None:
    rows = [
        row(f"Der Zug Nummer {n} fährt heute von einem anderen Gleis ab.", f"Danke, wir kommen um {n} Uhr.")
        for n in range(20)
    ]
    done = run_prepare([*rows, row("Kann man?", "Ja.")], prepare={"test_share": 0.3})
    assert axis(done, "gender")["groups"] == []
    assert audit_of(done)["groups_looked_for"]["rows"] == 20


def test_swapping_changes_turns_and_leaves_the_system_prompt_and_calls() -> None:
    messages: Any = [
        {"role": "system", "content": "He is your boss."},
        {"role": "user", "content": "Where is he?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "1", "function": {"name": "him", "arguments": "{}"}}],
        },
    ]
    other = swapped_messages(messages, "gender")
    assert other is not None
    assert [m["content"] for m in other] == ["He is your boss.", "Where is she?", ""]
    assert other[2] == messages[2]
    assert swapped_messages(messages[:1], "gender") is None


def test_the_audit_does_not_depend_on_the_number_of_processes(
    run_prepare: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [*loans(20, 4), row("Où est-elle?", "Elle est à la gare de Lyon avec sa sœur et son frère.")]
    ids: list[str] = []
    for count in ("1", "2"):
        monkeypatch.setenv("BURNISH_PROCESSES", count)
        ids.append(run_prepare(rows, folder=f"p{count}").manifest.id)
    assert ids[0] == ids[1]
