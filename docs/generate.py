"""Write the generated pages again: the recipe reference and the command line, from the code itself.

`python docs/generate.py` writes; `python docs/generate.py --check` exits 1 when a page is stale.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from burnish.cli import build_parser
from burnish.core import errors
from burnish.core.recipe import recipe_fields

DOCS = Path(__file__).parent

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
        "# The command line\n\n*Generated from `src/burnish/cli.py` by `make docs`.*\n\n```\n"
        + parser.format_help()
        + "```\n"
    ]
    for action in parser._subparsers._group_actions if parser._subparsers else []:
        for name, sub in (action.choices or {}).items():
            parts.append(f"\n## burnish {name}\n\n```\n{sub.format_help()}```\n")
    tree = (errors.__doc__ or "").strip().partition("\n\n")[2]
    parts.append(f"\n## Exit codes\n\n```\n{tree}\n```\n")
    return "".join(parts)


PAGES = {"recipe.md": recipe_page, "commands.md": command_page}


def main() -> int:
    """Write or check each generated page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = [
        name
        for name, page in PAGES.items()
        if not (DOCS / name).exists() or (DOCS / name).read_text(encoding="utf-8") != page()
    ]
    if check:
        sys.stdout.write("".join(f"docs/{name} is stale: run make docs\n" for name in stale))
        return 1 if stale else 0
    for name in stale:
        (DOCS / name).write_text(PAGES[name](), encoding="utf-8")
        sys.stdout.write(f"wrote docs/{name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
