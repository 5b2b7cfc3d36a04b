"""Which rows the report shows."""

from __future__ import annotations

from collections import Counter

from burnish.core.artifacts import Example
from burnish.evaluate.examples import choose_examples


def candidates(task: str, right: int, wrong: int) -> list[tuple[str, Example]]:
    return [
        (
            f"{task}-{n}",
            Example(
                task=task,
                prompt=f"{task} {n}",
                expected="x",
                base="",
                tuned="",
                base_exact=False,
                tuned_exact=n < right,
            ),
        )
        for n in range(right + wrong)
    ]


def kinds(chosen: tuple[Example, ...]) -> Counter[tuple[str, bool]]:
    return Counter((example.task, example.tuned_exact) for example in chosen)


def test_tasks_and_outcomes_take_turns() -> None:
    chosen = choose_examples([*candidates("test", 90, 30), *candidates("handwritten", 40, 20)], seed=0)
    assert kinds(chosen) == {("test", True): 3, ("test", False): 2, ("handwritten", True): 3, ("handwritten", False): 2}
    assert [example.task for example in chosen] == ["test"] * 5 + ["handwritten"] * 5


def test_failures_are_shown_as_long_as_there_are_any() -> None:
    assert kinds(choose_examples(candidates("test", 100, 2), seed=0)) == {("test", True): 8, ("test", False): 2}
    assert kinds(choose_examples(candidates("test", 0, 12), seed=0)) == {("test", False): 10}


def test_fewer_rows_than_places_are_all_shown_once() -> None:
    chosen = choose_examples(candidates("test", 3, 1), seed=0)
    assert sorted(example.prompt for example in chosen) == [f"test {n}" for n in range(4)]
    assert choose_examples([], seed=0) == ()


def test_the_choice_does_not_depend_on_the_order_of_the_rows() -> None:
    rows = candidates("test", 60, 60)
    assert choose_examples(rows, seed=0) == choose_examples(list(reversed(rows)), seed=0)
    assert choose_examples(rows, seed=0) != choose_examples(rows, seed=1)
