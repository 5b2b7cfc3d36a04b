"""Parts by themselves: the form of replies, ROUGE-L, quotes, loops, templates, what is new."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.core.recipe_augment import Synthesize
from burnish.data.splits.leakage import exact_hash
from burnish.data.synthesize.checks import find_quote, goes_round, problem_of
from burnish.data.synthesize.draft import Draft
from burnish.data.synthesize.jobs import Jobs
from burnish.data.synthesize.material import Piece, Seed, pieces_of
from burnish.data.synthesize.novelty import EARLIER, SEED, TESTED, Limits, Novelty
from burnish.data.synthesize.rouge import Index, lcs, rouge_l, words
from burnish.data.synthesize.shape import Examples, Misshapen, read_json, read_text

WARRANTY = "the warranty covers every part of the machine for two years after the day on which it was bought"
GOOD = '{"examples": [{"request": " a ", "answer": "b"}]}'


def seed(request: str, answer: str = "yes", system: str | None = None) -> Seed:
    return Seed(request, answer, system, False, None, None, f"{exact_hash(request):016x}")


def section(**make: object) -> Synthesize:
    teacher = {"endpoint": "http://127.0.0.1:1/v1", "model": "m"}
    return Synthesize.model_validate(
        {"into": "x", "teacher": teacher, "budget": {"tokens": 1}, "make": make, "task": "t"}
    )


@pytest.mark.parametrize("reply", [
    GOOD, f"Sure!\n```json\n{GOOD}\n```\nDone.", f"<think>{{hm}} {GOOD[:20]}</think>\n{GOOD}", f"Here: {GOOD} and {GOOD}",
    GOOD[:-1] + ', "more": 1}',
])  # fmt: skip
def test_json_is_found_wherever_it_stands_in_a_reply(reply: str) -> None:
    assert read_json(reply, Examples).examples[0].request == "a"


@pytest.mark.parametrize(("reply", "says"), [
    ("no", "no JSON object"), ("{", "not valid JSON"), ('{"examples": []}', "examples"), ('{"a": 1}', "Field required"),
    ('{"examples": [{"request": "", "answer": "b"}]}', r"examples\.0\.request"), ("[1]", "no JSON object"),
    ('{"examples": [{"request": 5, "answer": "b"}]}', "valid string"), ('{"a":' * 5000, "not valid JSON"), ("", "no JSON"),
])  # fmt: skip
def test_what_is_wrong_with_a_reply_is_told(reply: str, says: str) -> None:
    with pytest.raises(Misshapen, match=says):
        read_json(reply, Examples)


@settings(deadline=None)
@given(st.text() | st.text(alphabet='{}[]":,\\ud83daex0`\n'))
def test_any_reply_is_read_or_refused_without_another_error(reply: str) -> None:
    for read in (read_text, lambda text: read_json(text, Examples)):
        try:
            read(reply)
        except Misshapen:
            continue


def test_a_text_loses_its_quotes_and_its_thoughts() -> None:
    assert read_text('<think>well</think> "What is it?" ') == "What is it?"
    assert read_text("“Wie geht's?”") == "Wie geht's?"
    assert read_text('"a" or "b"') == '"a" or "b"'
    with pytest.raises(Misshapen):
        read_text(" \n")


def slow_lcs(a: list[str], b: list[str]) -> int:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a, 1):
        for j, y in enumerate(b, 1):
            table[i][j] = table[i - 1][j - 1] + 1 if x == y else max(table[i - 1][j], table[i][j - 1])
    return table[-1][-1]


TEXT = st.lists(st.sampled_from("abcd"), max_size=12)


@settings(deadline=None)
@given(TEXT, TEXT)
def test_the_longest_common_subsequence_is_that_of_the_textbook(a: list[str], b: list[str]) -> None:
    assert lcs(a, b) == slow_lcs(a, b) == lcs(b, a)


def test_rouge_l_by_hand() -> None:
    # Lin 2004, section 3.1: "police killed the gunman" and "police kill the gunman" share 3 words of 4 in order.
    assert rouge_l(words("police killed the gunman"), words("Police kill the gunman.")) == 2 * 3 / 8
    assert rouge_l(words("the gunman kill police"), words("police killed the gunman")) == 2 * 2 / 8


@settings(deadline=None)
@given(st.lists(TEXT, max_size=8), TEXT, st.sampled_from([0.3, 0.5, 0.7, 1.0]))
def test_the_closest_text_is_that_of_comparing_all(texts: list[list[str]], new: list[str], least: float) -> None:
    index = Index()
    for text in texts:
        index.add(" ".join(text))
    found = index.closest(" ".join(new), least)
    scores = [rouge_l(new, text) if new and text else 0.0 for text in texts]
    best = max(scores, default=0.0)
    assert found == ((scores.index(best), best) if best >= least else None)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a.", "(b", "c+", "d\\", "5"]), min_size=3, max_size=9), st.data())
def test_a_quote_is_found_where_it_stands_whatever_the_space_between_its_words(
    parts: list[str], data: st.DataObject
) -> None:
    text = "".join(part + data.draw(st.sampled_from([" ", "\n", "  \t"])) for part in parts)
    begin = data.draw(st.integers(0, len(parts) - 1))
    quote = " ".join(parts[begin : begin + 3])
    place = find_quote(text, quote)
    assert place is not None
    assert text[place[0] : place[1]].split() == quote.split()
    assert find_quote(text, quote + " zz") is None


@pytest.mark.parametrize(("quote", "answer", "reason"), [
    ("opens at 8 in the morning", "It opens at 8 in the morning.", None),
    ("opens at 8\nin  the morning", "At 8.", None),
    ("opens at 9 in the morning", "At 9.", "quote not in the document"),
    ("Opens at 8 in the morning", "At 8.", "quote not in the document"),
    ("", "At 8.", "quote not in the document"),
    ("opens at 8", "At 8.", "quote too short"),
    ("opens at 8 in the morning", "At 8.30 or 9.", "number not in the document"),
    ("opens at 8 in the morning", "Elephants dislike winter because penguins.", "answer not in the document"),
])  # fmt: skip
def test_an_answer_stands_in_its_document(quote: str, answer: str, reason: str | None) -> None:
    text = "The house opens at 8 in the morning and closes at 22."
    piece = Piece("a/rules.md", 3, 100, 100 + len(text), text)
    draft = Draft("questions", "When?", answer, piece=piece, said_quote=quote)
    problem = problem_of(draft)
    assert (problem and problem[0]) == reason
    if reason is None:
        assert draft.quote is not None
        assert (draft.quote.text.split(), draft.quote.start, draft.quote.line) == (quote.split(), 110, 3)
        assert draft.row("t", None)["group"] == "a/rules.md"


def test_loops_and_changed_numbers_are_seen() -> None:
    assert goes_round("and so on " * 40)
    assert not goes_round(" ".join(f"word{n}" for n in range(200)))
    changed = Draft("paraphrase", "a flight under 400 please", "x", seed("find a flight under 300"))
    assert (problem_of(changed) or ("",))[0] == "says something else"
    negated = Draft("style", "do not find a flight under 300", "x", seed("find a flight under 300"))
    assert (problem_of(negated) or ("",))[0] == "says something else"


@pytest.mark.parametrize(("kind", "answer", "reason"), [
    ("persona", "I'm sorry, but I cannot assist with that.", "a refusal"),
    ("adversarial", "I'm sorry, but I cannot assist with that.", None),
    ("adversarial", "As an AI language model I have no parcel.", "speaks of being a model"),
    ("persona", "I'm sorry, but your parcel is late.", None),
])  # fmt: skip
def test_answers_that_evade_are_no_rows(kind: str, answer: str, reason: str | None) -> None:
    problem = problem_of(Draft(kind, "where is it", answer))
    assert (problem and problem[0]) == reason


def test_pieces_are_whole_paragraphs_and_cover_the_document(tmp_path: object) -> None:
    from pathlib import Path

    paragraphs = [" ".join(f"p{n}w{w}" for w in range(size)) for n, size in enumerate((20, 20, 100, 5))]
    path = Path(str(tmp_path)) / "a.txt"
    path.write_text("\n\n".join(paragraphs) + "\n")
    pieces = list(pieces_of([str(path)], 45))
    assert [len(piece.text.split()) for piece in pieces] == [40, 45, 45, 15]
    assert [word for piece in pieces for word in piece.text.split()] == " ".join(paragraphs).split()
    whole = path.read_text()
    assert all(whole[piece.start : piece.end] == piece.text for piece in pieces)


def test_each_filling_of_a_template_comes_once() -> None:
    template = {
        "rows": 12,
        "request": "{a} {b}?",
        "answer": "{b}",
        "fields": {"a": ["x", "y", "z"], "b": ["1", "2", "3", "4"]},
    }
    for seed_number in range(20):
        jobs = Jobs(section(template=template), seed_number, [], [])
        assert jobs.most("template", 12) == 12
        fillings = [jobs.of("template", n).read("")[0].request for n in range(12)]
        assert len(set(fillings)) == 12
    assert fillings != sorted(fillings)


def test_a_job_is_the_same_in_every_run_and_seeds_take_turns() -> None:
    seeds = [seed(f"request {n}") for n in range(7)]
    one, two = (Jobs(section(paraphrase=5, self_instruct=5), 3, seeds, []) for _ in range(2))
    assert [one.of("self_instruct", n).ask for n in range(9)] == [two.of("self_instruct", n).ask for n in range(9)]
    asked = [one.of("paraphrase", n).ask for n in range(14)]
    assert len(set(asked)) == 14
    assert sorted(str(ask.turns).partition("Request: ")[2] for ask in asked[:7] if ask) == sorted(
        str(ask.turns).partition("Request: ")[2] for ask in asked[7:] if ask
    )


@pytest.mark.parametrize(("reply", "request_"), [
    ("How is it?", "How is it?"), ("Sure.\n\nRequest: How is it?", "How is it?"), ('"Request: How is it?"', "How is it?"),
])  # fmt: skip
def test_a_model_may_write_what_it_was_asked_before_its_answer(reply: str, request_: str) -> None:
    job = Jobs(section(paraphrase=1), 0, [seed("what is it")], []).of("paraphrase", 0)
    assert [draft.request for draft in job.read(reply)] == [request_]


def novelty(**limits: float) -> Novelty:
    long = "the warranty covers every part of the machine for two years after the day on which it was bought"
    tested = {
        "test": [("how long is the warranty of my washing machine", long)],
        "hard": [("who are you", "a machine")],
    }
    return Novelty(
        [seed("where is my blue parcel today", "on its way")], tested, Limits(**{"rouge": 0.7, "near": 0.7, **limits})
    )


@pytest.mark.parametrize(("kind", "request_", "answer", "reason"), [
    ("self_instruct", "what do you sell in winter", "skis", None),
    ("self_instruct", "Where is my blue parcel, today?", "on its way", SEED),
    ("self_instruct", "where is my green parcel today", "no idea", SEED),
    ("paraphrase", "where is my green parcel today", "no idea", None),
    ("paraphrase", "WHO are  you", "nobody", TESTED),
    ("self_instruct", "how long is the guarantee of my washing machine", "long", TESTED),
    ("paraphrase", "tell me", f"Of my washing machine {WARRANTY}", TESTED),
    ("self_instruct", "an earlier request that came before", "x", EARLIER),
])  # fmt: skip
def test_what_is_like_a_seed_a_tested_row_or_an_earlier_one_is_not_new(
    kind: str, request_: str, answer: str, reason: str | None
) -> None:
    known = novelty()
    assert known.problems([Draft("self_instruct", "an earlier request that came first", "x")]) == [None]
    (problem,) = known.problems([Draft(kind, request_, answer)])
    assert (problem and problem[0]) == reason


def test_of_two_equal_drafts_in_one_wave_the_first_is_new_and_a_limit_of_one_lets_alike_ones_pass() -> None:
    twins = [Draft("persona", f"please mend the kettle{tail}", "gladly") for tail in ("", "!")]
    assert [problem and problem[0] for problem in novelty().problems(twins)] == [None, EARLIER]
    alike = [
        Draft("persona", f"please mend the {what} of my aunt", f"gladly, the {what}") for what in ("kettle", "lamp")
    ]
    assert [problem and problem[0] for problem in novelty().problems(alike)] == [None, EARLIER]
    assert novelty(rouge=1.0).problems(alike) == [None, None]


def test_embeddings_find_what_is_tested_in_other_words() -> None:
    import numpy as np

    def embed(texts: object) -> np.ndarray:
        rows = [[1.0, 0.0] if "warrant" in t or "guarantee" in t else [0.0, 1.0] for t in texts]  # type: ignore[attr-defined]
        return np.array(rows, np.float32)

    tested = {"test": [("how long is the warranty", "two years")]}
    known = Novelty([], tested, Limits(0.7, 0.7, 0.95), embed=embed)
    drafts = [Draft("paraphrase", "duration of guarantee", "2"), Draft("paraphrase", "price of the lamp", "3")]
    assert [problem and problem[0] for problem in known.problems(drafts)] == [TESTED, None]


def test_the_id_of_a_draft_is_its_content_and_licences_add_up() -> None:
    like = Seed("q", "a", "Be brief.", True, "2025-01-01", "CC-BY-4.0", "00" * 8)
    row = Draft("paraphrase", "q2", "a", like).row("m at host", "MIT")
    assert row["license"] == "CC-BY-4.0 AND MIT"
    assert row["date"] == "2025-01-01"
    assert [turn["role"] for turn in row["messages"]] == ["system", "user", "assistant"]
    assert row["synthetic"]["parent"] == "00" * 8
    assert Draft("paraphrase", "q2", "a", like).id == row["synthetic"]["id"] != Draft("style", "q2", "a", like).id
    assert "license" not in Draft("persona", "q", "a").row("m", None)
    json.dumps(row)
