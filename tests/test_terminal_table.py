"""Tables of the terminal: no line is wider than it, sentences can be read, nothing is lost."""

from __future__ import annotations

import pytest

from burnish.terminal import paragraph, table

COLUMNS = ("what", "value", "because")
WHY = "largest parts: weights 513.1 MiB, process 510.2 MiB, prepared 201.2 MiB, and what the allocator keeps between blocks"
ROWS = [
    ("memory.peak_bytes", "1.6 GiB", WHY),
    ("time.train", "3 min 35 s (3 min 0 s to 6 min 0 s)", "operations over tokens"),
    ("train.steps", "26", ""),
]


def printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int, rows: list[tuple[str, ...]]
) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(width))
    table("a plan", COLUMNS, rows)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("width", [20, 60, 80, 100, 160])
def test_no_line_is_too_wide_and_no_word_is_lost(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    lines = printed(capsys, monkeypatch, width, ROWS)
    assert lines[0] == "a plan"
    assert max(map(len, lines)) <= max(width, 28), "three columns of eight and what is between them"
    assert all(line == line.rstrip() for line in lines)
    squeezed = "".join("".join(lines).split())
    for what, _, why in ROWS:
        assert "".join(why.split()) in squeezed or width < 60
        assert what in squeezed or width < 60


@pytest.mark.parametrize("width", [60, 80, 100])
def test_sentences_stand_below_their_row_where_a_column_would_be_narrow(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    lines = printed(capsys, monkeypatch, width, ROWS)
    at = next(i for i, line in enumerate(lines) if line.startswith("memory.peak_bytes"))
    assert lines[at].endswith("1.6 GiB")
    assert lines[at + 1].startswith("    largest parts: weights")
    assert lines[2] == "    because"
    assert lines[-1].split() == ["train.steps", "26"]


def test_with_room_they_are_a_column(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(capsys, monkeypatch, 240, ROWS)
    assert len(lines) == 2 + len(ROWS)
    assert lines[2].endswith(WHY)


def test_a_last_column_of_numbers_is_aligned_right(capsys: pytest.CaptureFixture[str]) -> None:
    table("sizes", ("rank", "all"), [("1", "512"), ("256", "131,072"), ("x", "-")])
    assert capsys.readouterr().out.splitlines()[1:] == [
        "rank      all",
        "1         512",
        "256   131,072",
        "x           -",
    ]


def test_square_brackets_and_wide_letters_stay_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    table("[bold]", ("a", "b"), [("[red]", "\u65e5\u672c")])
    assert capsys.readouterr().out.splitlines() == ["[bold]", "a      b", "[red]  \u65e5\u672c"]


def test_a_table_without_rows_has_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    table("none", ("a", "b"), [])
    assert capsys.readouterr().out.splitlines() == ["none", "a  b"]


def test_a_paragraph_is_broken_between_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    paragraph("a base that is larger than the GPU does not fit it", mark="  - ")
    assert capsys.readouterr().out.splitlines() == ["  - a base that is larger than the GPU", "    does not fit it"]
