"""The report page: what is on it, that it loads and runs nothing, and that no text can break out."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from flight_desk import FAILED, PASSED, SYSTEM, Desk, make_release, make_steps

from burnish.core.artifacts import EvalReport, Example, Foretold, GateVerdict, Interval, TimePlan
from burnish.core.recipe_file import parse_recipe
from burnish.evaluate.report import render_report
from burnish.evaluate.sections import summary_table

VOID = {"meta", "link", "br"}
SVG_EMPTY = {"line", "polyline"}
HOSTILE = (
    "</pre></title><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "<svg onload=alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
)


class Page(HTMLParser):
    """What a browser would see: tags, attributes, texts; fails on tags that are not closed in their order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.headings: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("h1", "h2", "h3"):
            self.headings.append(f"{tag} ")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in SVG_EMPTY
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if {"h1", "h2", "h3"} & set(self.open):
            self.headings[-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def render(desk: Desk, report: EvalReport, **changed: Any) -> str:
    given: dict[str, Any] = {
        "manifest": desk.manifest, "plan": desk.plan, "adapter": desk.adapter, "report": report, "gate": PASSED,
        "release": make_release(desk, report), "steps": make_steps(112), "seconds": {"total": 503.0},
    }  # fmt: skip
    return render_report(**given | changed)


def test_the_page_has_its_sections_in_order(desk: Desk) -> None:
    page = Page(render(desk, desk.evaluate()))
    assert page.headings == [
        "h1 flight-search",
        "h2 ✓Gate passed",
        "h2 6 of 6 scores are better after tuning by more than chance",
        "h3 General text became harder to predict by 0.039 nats per token (perplexity +4.0%)",
        "h3 Paired differences, tuned minus base on the same rows",
        "h2 10 requests before and after",
        "h2 Loss went from 1.78 to 0.13 nats per token in 112 steps",
        "h3 Learning rate",
        "h3 Gradient norm: 5 of 112 steps clipped to 1",
        "h2 1,304 rows in = 1,118 kept + 186 rejected",
        "h3 Changes made to rows",
        "h3 Personal data found, by type",
        "h3 Training rows rejected because a row of a test is too like them",
        "h3 Token lengths by split: the longest row has 277 tokens",
        "h2 Training took 1.10× the predicted time and 0.95× the predicted memory",
        "h2 Every number of the run, and why",
        "h2 What this result was made from",
        "h2 How these numbers were made",
    ]
    anchors = {attrs["href"] for tag, attrs in page.tags if tag == "a"}
    assert anchors == {f"#{attrs['id']}" for tag, attrs in page.tags if tag == "section" and "id" in attrs}


def test_the_page_loads_nothing_and_runs_nothing(desk: Desk) -> None:
    html = render(desk, desk.evaluate())
    page = Page(html)
    assert {tag for tag, _ in page.tags} & {"script", "iframe", "object", "embed", "img", "base", "form"} == set()
    links = [value for _, attrs in page.tags for name, value in attrs.items() if name in ("src", "href", "action")]
    assert all(link is not None and (link.startswith("#") or link == "data:,") for link in links)
    assert re.findall(r"url\(|@import|https?://", html) == []
    policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert len(html) < 250_000


def test_every_score_and_difference_is_on_the_page(desk: Desk) -> None:
    report = desk.evaluate()
    text = Page(render(desk, report)).text
    for row in summary_table(report):
        assert f"{row.before.value:.3f}" in text
        assert f"{row.after.low:.3f} to {row.after.high:.3f}" in text
        assert f"{row.paired.difference:+.3f}".replace("-", "\u2212") in text
    assert "On 128 test rows that training never saw, exact match rose from 0.000 (base) to" in text


def test_the_ledger_the_plan_and_the_lineage_are_whole(desk: Desk) -> None:
    report = desk.evaluate()
    release = make_release(desk, report)
    text = Page(render(desk, report, release=release)).text
    for reason, count in desk.manifest.ledger.rejected.items():
        assert reason in text
        assert f"{count} ({count / 1304:.1%})" in text
    for found in (*desk.manifest.ledger.changed, *desk.manifest.personal_data, *desk.manifest.splits):
        assert found in text
    for because in desk.plan.because.values():
        assert because in text
    for link in (desk.manifest.id, desk.plan.id, desk.adapter.id, report.id, release.id, desk.plan.base.digest):
        assert link in text
    assert "predicted 5 min 30 s (4 min 0 s to 7 min 50 s)" in text
    assert "measured 6 min 2 s" in text
    assert "whole run" in text
    assert "method.base_dtype" not in text, "what is not set says nothing"
    assert "method.rank" in text


def test_a_failed_gate_says_which_number_fell_short(desk: Desk) -> None:
    page = Page(render(desk, desk.evaluate(), gate=FAILED, release=None))
    assert "h2 ✗Gate failed" in page.headings
    assert FAILED.reasons[0] in page.text
    assert "not met" in page.text
    assert "released as" not in page.text


def test_without_thresholds_nothing_is_said_to_have_passed(desk: Desk) -> None:
    gate = GateVerdict(passed=True, thresholds={}, reasons=("No gate was asked: the recipe names no threshold.",))
    page = Page(render(desk, desk.evaluate(), gate=gate))
    assert "h2 –No gate was set" in page.headings
    assert "Gate passed" not in page.text


def test_a_threshold_that_was_not_measured_is_not_met(desk: Desk) -> None:
    gate = GateVerdict(passed=False, thresholds={"json_valid": 0.9}, reasons=("json_valid was not measured",))
    report = desk.evaluate()
    report = report.model_copy(
        update={
            "scores": tuple(s for s in report.scores if s.metric != "json_valid"),
            "comparisons": tuple(c for c in report.comparisons if c.metric != "json_valid"),
        }
    )
    assert "valid JSON 0.9 not measured not met" in Page(render(desk, report, gate=gate)).text


def test_wrong_missing_and_extra_fields_are_marked(desk: Desk) -> None:
    expected = '{"a": 1, "b": 2, "c": 3}'
    example = Example(
        task="test", system=SYSTEM, prompt="p", expected=expected, base="no idea", tuned='{"a": 1, "b": 9, "d": 4}',
        base_exact=False, tuned_exact=False,
    )  # fmt: skip
    html = render(desk, desk.evaluate().model_copy(update={"examples": (example,)}))
    assert '<span class="same">  &#34;a&#34;: 1,</span>' in html
    assert '<span class="wrong">  &#34;b&#34;: 9,<em> expected 2</em></span>' in html
    assert '<span class="extra">  &#34;d&#34;: 4</span>' in html
    assert '<span class="missing">c<em> missing, expected 3</em></span>' in html
    text = Page(html).text
    assert "1 request before and after" in text
    assert SYSTEM in text


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_text_can_break_out_of_the_page(desk: Desk, hostile: str) -> None:
    example = Example(
        task=hostile, system=hostile, prompt=hostile, expected=f'{{"a": "{hostile[:3]}"}}', base=hostile, tuned=hostile,
        base_exact=False, tuned_exact=False,
    )  # fmt: skip
    report = desk.evaluate()
    release = make_release(desk, report)
    scores = [score for score in report.scores if (score.task, score.metric) == ("test", "exact_match")]
    report = report.model_copy(
        update={
            "name": hostile,
            "examples": (example, example.model_copy(update={"expected": hostile})),
            "scores": tuple(score.model_copy(update={"task": hostile}) for score in scores),
            "comparisons": (report.comparisons[0].model_copy(update={"task": hostile}),),
        }
    )
    ledger = desk.manifest.ledger.model_copy(update={"rejected": {hostile: 186}, "changed": {hostile: 3}})
    manifest = desk.manifest.model_copy(
        update={"ledger": ledger, "personal_data": {hostile: 1}, "leakage": {hostile: 2},
                "splits": {hostile: desk.manifest.splits["test"]},
                "sources": (desk.manifest.sources[0].model_copy(update={"path": hostile}),)}
    )  # fmt: skip
    plan = desk.plan.model_copy(update={"because": {hostile: hostile, "train.steps": hostile}})
    gate = GateVerdict(passed=False, thresholds={hostile: 0.5}, reasons=(hostile,))
    harmless = Page(render(desk, desk.evaluate()))
    page = Page(render(desk, report, manifest=manifest, plan=plan, gate=gate, release=release))
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in harmless.tags} | {"li", "ul"}
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert page.text.count(" ".join(hostile.split())) > 15


def test_answers_with_control_characters_and_broken_unicode_can_be_written(desk: Desk) -> None:
    answer = "a\x00b\x1bc\u202ed"
    example = Example(
        task="test",
        prompt="p",
        expected="{}",
        base=answer,
        tuned='{"k": "\\ud800"}',
        base_exact=False,
        tuned_exact=False,
    )
    html = render(desk, desk.evaluate().model_copy(update={"examples": (example,)}))
    assert "a\ufffdb\ufffdc\ufffdd" in html
    assert "&#34;k&#34;: &#34;\ufffd&#34;" in html
    html.encode("utf-8")


def test_a_text_task_without_a_test_split_gives_a_page_too(desk: Desk) -> None:
    report = desk.evaluate(forgetting=False)
    report = report.model_copy(
        update={
            "scores": tuple(s for s in report.scores if s.task == "handwritten" and s.metric == "token_loss"),
            "comparisons": tuple(c for c in report.comparisons if c.task == "handwritten" and c.metric == "token_loss"),
            "examples": (),
        }
    )
    adapter = desk.adapter.model_copy(update={"measured": None})
    page = Page(render(desk, report, adapter=adapter, steps=(), seconds=None, release=None))
    assert "token loss fell from" in page.text
    assert "general text was not measured" in page.text
    ids = [attrs["id"] for tag, attrs in page.tags if tag == "section" and "id" in attrs]
    assert ids == ["scores", "examples", "data", "plan", "lineage", "method"]


def test_a_run_that_went_on_from_a_checkpoint_and_its_recipe_are_shown(desk: Desk) -> None:
    recipe = parse_recipe({"name": "flight-search", "base": "b", "data": "d", "method": "qlora"}, source="here")
    measured = desk.adapter.measured
    assert measured is not None
    adapter = desk.adapter.model_copy(update={"measured": measured.model_copy(update={"resumed_at_step": 48})})
    text = Page(render(desk, desk.evaluate(), adapter=adapter, recipe=recipe)).text
    assert "went on from a checkpoint at step 48" in text
    assert (
        "Training went on from step 48, so its time is not held against the plan; it took 0.95× the predicted memory"
        in text
    )
    assert '"kind": "qlora"' in text


def test_the_sentence_is_about_what_the_gate_asks_for(desk: Desk) -> None:
    gate = GateVerdict(passed=True, thresholds={"field_f1": 0.5}, reasons=("reached",))
    assert "rows that training never saw, field F1 rose from" in Page(render(desk, desk.evaluate(), gate=gate)).text
    gate = GateVerdict(passed=False, thresholds={"general_loss": 0.5}, reasons=("was not measured",))
    assert "rows that training never saw, exact match rose from" in Page(render(desk, desk.evaluate(), gate=gate)).text


def test_a_score_that_did_not_move_is_told_to_stay_where_it_is(desk: Desk) -> None:
    report = desk.evaluate()
    scores = tuple(s.model_copy(update={"value": 0.25}) if s.metric == "exact_match" else s for s in report.scores)
    paired = tuple(
        c.model_copy(update={"difference": 0.0}) if c.metric == "exact_match" else c for c in report.comparisons
    )
    text = Page(render(desk, report.model_copy(update={"scores": scores, "comparisons": paired}))).text
    assert "exact match stayed at 0.250 (base and tuned): a paired difference of" in text


def test_on_a_gpu_the_memory_is_held_against_what_torch_allocates(desk: Desk) -> None:
    measured = desk.adapter.measured
    assert measured is not None
    held = {"weights": 800, "context": 150, "allocator": 50}
    memory = desk.plan.memory.model_copy(update={"components": held, "peak_bytes": 1000})
    plan = desk.plan.model_copy(
        update={"memory": memory, "train": desk.plan.train.model_copy(update={"device": "cuda"})}
    )
    adapter = desk.adapter.model_copy(update={"measured": measured.model_copy(update={"peak_device_bytes": 800})})
    assert "1.00× the predicted memory" in Page(render(desk, desk.evaluate(), adapter=adapter, plan=plan)).text


def test_the_report_holds_a_run_against_what_its_plan_said_when_it_began(desk: Desk) -> None:
    said = Foretold(machine="A", memory=desk.plan.memory, time=desk.plan.time)
    adapter = desk.adapter.model_copy(update={"foretold": said})
    soon = Interval(low=1.0, mid=1.0, high=1.0)
    later = desk.plan.model_copy(update={"time": TimePlan(train=soon, evaluate=soon, total=soon)})
    assert (
        "Training took 1.10× the predicted time"
        in Page(render(desk, desk.evaluate(), adapter=adapter, plan=later)).text
    )


def test_the_page_is_made_for_the_dark_for_phones_and_for_paper(desk: Desk) -> None:
    html = render(desk, desk.evaluate())
    for query in ("(prefers-color-scheme: dark)", "(max-width: 46rem)", "@media print"):
        assert query in html
    page = Page(html)
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags
    assert all(attrs.get("role") == "img" and attrs.get("aria-label") for tag, attrs in page.tags if tag == "svg")
    assert sum(tag == "svg" for tag, _ in page.tags) == 2 * 5 + 2 + 2 + 3


def test_the_summary_pairs_scores_with_their_difference_in_the_order_of_the_tasks(desk: Desk) -> None:
    rows = summary_table(desk.evaluate())
    assert [(row.paired.task, row.paired.metric) for row in rows[:5]] == [
        ("test", "exact_match"), ("test", "field_f1"), ("test", "json_valid"), ("test", "token_loss"),
        ("handwritten", "exact_match"),
    ]  # fmt: skip
    for before, after, paired in rows:
        assert (before.subject, after.subject) == ("base", "tuned")
        assert (before.task, before.metric) == (after.task, after.metric) == (paired.task, paired.metric)
        assert paired.difference == pytest.approx(after.value - before.value)


def test_the_same_artifacts_give_the_same_page(desk: Desk) -> None:
    report = desk.evaluate()
    assert render(desk, report) == render(desk, report)
