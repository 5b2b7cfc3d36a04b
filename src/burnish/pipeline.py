"""The whole product: a recipe goes in, a released specialist comes out. The only file that knows the order.

Each stage is asked for by the content of its inputs. What the same inputs gave before is taken as it is ("already done");
what is new is worked on under a lock, in a folder of its own, and stored whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from burnish import wiring
from burnish.core.artifacts import Adapter, Artifact, EvalReport, GateVerdict, Manifest, Plan, Release
from burnish.core.errors import UsageError
from burnish.core.events import Emit, StageDone, StageStarted
from burnish.core.ids import content_id
from burnish.core.recipe import Recipe
from burnish.plan.tell import tell_plan
from burnish.store.home import Home

if TYPE_CHECKING:
    from burnish.plan.compare import Compared

A = TypeVar("A", bound=Artifact)
CHAMPION = "champion"
"""The alias of the version that answers when a model is called by its name alone."""
Stage = Literal["prepare", "plan", "train", "evaluate", "release"]
REVISIONS: dict[Stage, int] = {"prepare": 11, "plan": 2, "train": 2, "evaluate": 1, "release": 1}
"""Raised when a stage's code changes what it makes from the same inputs, so that old results are not taken for new ones."""


@dataclass
class Outcome:
    """What a run has made so far. `seconds` holds the wall time of each stage, cached ones included."""

    manifest: Manifest | None = None
    plan: Plan | None = None
    adapter: Adapter | None = None
    report: EvalReport | None = None
    gate: GateVerdict | None = None
    release: Release | None = None
    report_path: Path | None = None
    seconds: dict[str, float] = field(default_factory=dict[str, float])
    cached: set[str] = field(default_factory=set[str])

    def fresh_seconds(self) -> dict[str, float] | None:
        """Return the wall time of the whole run, or None when some of it was done before."""
        return None if self.cached else {"total": sum(self.seconds.values())}

    def as_json(self) -> dict[str, Any]:
        """Return the ids, the verdict and the seconds, as `burnish run --json` prints them."""
        made = {
            "manifest": self.manifest,
            "plan": self.plan,
            "adapter": self.adapter,
            "report": self.report,
            "release": self.release,
        }
        return {
            **{name: None if artifact is None else artifact.id for name, artifact in made.items()},
            "gate": None if self.gate is None else {"passed": self.gate.passed, "reasons": list(self.gate.reasons)},
            "report_path": None if self.report_path is None else str(self.report_path),
            "seconds": {name: round(seconds, 3) for name, seconds in self.seconds.items()},
        }


def run(recipe: Recipe, home: Home, emit: Emit, *, until: Stage = "release", alias: str = CHAMPION) -> Outcome:
    """Carry a recipe through the stages, up to and including `until`. alias: what the release is called by.

    A failed gate is no error here: it is in `Outcome.gate`, nothing is released, and the door decides how to say so.
    """
    done = Outcome()
    base = wiring.open_base(recipe.base, emit, recipe.template)
    prepared = wiring.prepare_inputs(recipe, base, home)
    done.manifest = _once(
        done, home, emit, "prepare", prepared, Manifest, lambda at: wiring.prepare(recipe, base, home, at, emit)
    )
    if until == "prepare":
        return done

    manifest = done.manifest
    planned = wiring.plan_inputs(recipe, base, manifest, home)
    done.plan = _once(done, home, emit, "plan", planned, Plan, lambda at: wiring.plan(recipe, base, manifest, home))
    tell_plan(done.plan, home, emit, fresh="plan" not in done.cached)
    if until == "plan":
        return done

    plan = done.plan
    trained = {"plan": plan.id}
    done.adapter = _once(
        done, home, emit, "train", trained, Adapter, lambda at: wiring.train(plan, manifest, base, home, at, emit)
    )
    if until == "train":
        return done

    adapter = done.adapter
    evaluated = {"adapter": adapter.id, "manifest": manifest.id, "settings": recipe.evaluate.model_dump(mode="json")}
    done.report = _once(
        done,
        home,
        emit,
        "evaluate",
        evaluated,
        EvalReport,
        lambda at: wiring.evaluate(recipe, adapter, manifest, plan, base, home, at, emit),
    )
    done.gate = wiring.decide(done.report, recipe.gate)
    if until == "release" and done.gate.passed:
        report, gate = done.report, done.gate
        wiring.mend_registry(home, emit)
        released = {
            "name": recipe.name,
            "report": report.id,
            "adapter": adapter.id,
            "gate": gate.model_dump(mode="json"),
            **({} if alias == CHAMPION else {"alias": alias}),
        }
        done.release = _once(
            done,
            home,
            emit,
            "release",
            released,
            Release,
            lambda at: wiring.release(recipe, adapter, report, plan, manifest, gate, home, alias),
        )
    done.report_path = wiring.write_report(
        recipe, manifest, plan, adapter, done.report, done.gate, done.release, home, done.fresh_seconds()
    )
    return done


def estimate(recipe: Recipe, home: Home) -> Plan:
    """Plan without preparing, fetching or loading anything: exact when the dataset is prepared, else from bytes.

    Raises UsageError when neither the base model nor its shape is known here.
    """
    try:
        return wiring.estimate(recipe, home)
    except FileNotFoundError as error:
        raise UsageError(f"{error.filename} is missing. The plan needs the data file to know its size.") from error


def probe(recipe: Recipe, home: Home, emit: Emit) -> Plan:
    """Prepare and plan, make a few steps of the run on this machine, and return the plan that goes by what they took.

    The probe is kept in the home: plans of its shape use it from now on, those of `run` too.
    """
    done = run(recipe, home, emit, until="plan")
    assert done.manifest is not None, "a run until the plan has a dataset"
    assert done.plan is not None, "a run until the plan has one"
    base = wiring.open_base(recipe.base, emit, recipe.template)
    home.save(wiring.probe(done.plan, done.manifest, base, home, emit))
    plan = wiring.plan(recipe, base, done.manifest, home)
    home.save(plan)  # the plan of that id; seconds and bytes do not count for the id
    return plan


def predicted_and_measured(outcome: Outcome) -> Sequence[Compared]:
    """Return what the plan predicted beside what this run measured."""
    assert outcome.plan is not None, "a run that measured something has a plan"
    return wiring.predicted_and_measured(outcome.plan, outcome.adapter, outcome.report)


def _once(
    done: Outcome,
    home: Home,
    emit: Emit,
    stage: Stage,
    inputs: dict[str, Any],
    kind: type[A],
    work: Callable[[Path], A],
) -> A:
    """Return what `stage` makes from `inputs`: from before, or by doing the work now."""
    began = time.perf_counter()
    key = content_id({"stage": stage, "revision": REVISIONS[stage], "inputs": inputs})
    artifact = home.recall(stage, key, kind)
    cached = artifact is not None
    if artifact is None:
        with home.working(stage, key):
            emit(StageStarted(stage))
            artifact = work(home.folder(stage, key))
            home.remember(stage, key, artifact)
    else:
        home.point_latest(artifact)
        done.cached.add(stage)
    done.seconds[stage] = time.perf_counter() - began
    emit(StageDone(stage, artifact.id, done.seconds[stage], cached))
    return artifact
