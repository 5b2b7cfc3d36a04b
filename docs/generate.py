"""Write the generated pages again: the recipe reference and the command line, from the code itself.

`python docs/generate.py` writes; `python docs/generate.py --check` exits 1 when a page is stale.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from burnish.cli import build_parser
from burnish.core import errors
from burnish.core.recipe_file import recipe_fields

DOCS = Path(__file__).parent
DEMO = DOCS.parent / "benchmarks" / "results" / "demo.json"

RECIPE_HEAD = """# The recipe

*Generated from `src/burnish/core/recipe.py` by `make docs`.*

A recipe is one short YAML file. Five keys make a specialist; everything else is derived by `burnish plan`, which says why.
Unknown keys are refused, and all problems are shown at once. `--set key=value` changes one key for one command.

```yaml
{example}```

| key | type | default | meaning |
|---|---|---|---|
"""


def recipe_page() -> str:
    """Return docs/recipe.md."""
    example = (DOCS.parent / "recipes" / "flight-search.yaml").read_text(encoding="utf-8")
    rows = [
        f"| `{key}` | {kind} | {default.replace('|', chr(92) + '|') or ' '} | {text} |"
        for key, kind, default, text in recipe_fields()
    ]
    return RECIPE_HEAD.format(example=example) + "\n".join(rows) + "\n"


def command_page() -> str:
    """Return docs/commands.md: the help of each verb, and the exit codes."""
    os.environ["COLUMNS"] = "110"
    parser = build_parser()
    parts = [
        "# The command line\n\n*Generated from `src/burnish/cli` by `make docs`.*\n\n```\n"
        + parser.format_help()
        + "```\n"
    ]
    for action in parser._subparsers._group_actions if parser._subparsers else []:
        for name, sub in (action.choices or {}).items():
            parts.append(f"\n## burnish {name}\n\n```\n{sub.format_help()}```\n")
    tree = (errors.__doc__ or "").strip().partition("\n\n")[2]
    parts.append(f"\n## Exit codes\n\n```\n{tree}\n```\n")
    return "".join(parts)


def demo_numbers() -> str:
    """Return the README's table of what the demo measured, from benchmarks/results/demo.json."""
    record = json.loads(DEMO.read_text(encoding="utf-8"))
    scores = {(s["task"], s["metric"], s["subject"]): s for s in record["scores"]}

    def cell(task: str, metric: str, subject: str) -> str:
        score = scores[task, metric, subject]
        return f"{score['value']:.2f} ({score['low']:.2f} to {score['high']:.2f})"

    tasks = [("test", "held-out phrasings and routes"), ("handwritten", "written by hand, never trained on")]
    rows = [
        f"| {what}, {scores[task, metric, 'tuned']['n']} requests | {name} | "
        f"{cell(task, metric, 'base')} | {cell(task, metric, 'tuned')} |"
        for task, what in tasks
        for metric, name in (("exact_match", "exact match"), ("field_f1", "field F1"), ("json_valid", "valid JSON"))
    ]
    seconds, rss = record["seconds"], record["peak_rss_bytes"]
    return (
        "What the demo measured (95% intervals):\n\n| requests | metric | base | tuned |\n|---|---|--:|--:|\n"
        + "\n".join(rows)
        + f"\n\nIt took {seconds['total'] / 60:.1f} minutes on {record['threads']} CPU cores without a GPU "
        f"(training {record['train']['seconds'] / 60:.1f}), {rss / 2**30:.1f} GiB of memory at its peak, "
        f"and {seconds['second_run']:.1f} s "
        f"when run again ({record['date']}, torch {record['versions']['torch']}; `python benchmarks/demo.py`).\n"
        "Settings were chosen while looking at these requests, so expect a little less on new ones ([log](docs/log.md)).\n"
    )


def readme_page() -> str:
    """Return the README with the demo's numbers as they were last measured."""
    text = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    if not DEMO.exists():
        return text
    begin, end = "<!-- demo numbers: begin -->\n", "<!-- demo numbers: end -->"
    return text[: text.index(begin) + len(begin)] + demo_numbers() + text[text.index(end) :]


PAGES = {"docs/recipe.md": recipe_page, "docs/commands.md": command_page, "README.md": readme_page}


def main() -> int:
    """Write or check each generated page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    root = DOCS.parent
    fresh = {name: page() for name, page in PAGES.items()}
    stale = [
        name
        for name, text in fresh.items()
        if not (root / name).exists() or (root / name).read_text(encoding="utf-8") != text
    ]
    if check:
        sys.stdout.write("".join(f"{name} is stale: run make docs\n" for name in stale))
        return 1 if stale else 0
    for name in stale:
        (root / name).write_text(fresh[name], encoding="utf-8")
        sys.stdout.write(f"wrote {name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
