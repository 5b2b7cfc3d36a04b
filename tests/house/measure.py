"""Measure what sets loved code apart from feared code: long functions, swallowed errors, guessing, patches.

`python tests/house/measure.py` prints the table; the tests beside it hold the limits.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "burnish"


@dataclass(frozen=True)
class Finding:
    """One place: file, line and what is there."""

    file: str
    line: int
    what: str


def trees() -> list[tuple[Path, str, ast.Module]]:
    """Every module of the package: path, text and syntax tree."""
    paths = sorted(SOURCE.rglob("*.py"))
    return [(path, text := path.read_text(encoding="utf-8"), ast.parse(text)) for path in paths]


def lines_total() -> int:
    """Lines of the package."""
    return sum(len(text.splitlines()) for _, text, _ in trees())


def functions() -> list[tuple[int, Finding]]:
    """Every function with its length in lines, docstring not counted, longest first."""
    found: list[tuple[int, Finding]] = []
    for path, _, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                doc = node.body[0] if ast.get_docstring(node) else None
                size = (node.end_lineno or 0) - node.lineno + 1
                size -= (doc.end_lineno or 0) - doc.lineno + 1 if doc else 0
                found.append((size, Finding(path.name, node.lineno, node.name)))
    return sorted(found, key=lambda item: -item[0])


def files() -> list[tuple[int, str]]:
    """Every file with its lines, longest first."""
    return sorted(((len(text.splitlines()), str(path.relative_to(SOURCE))) for path, text, _ in trees()), reverse=True)


def broad_excepts() -> list[Finding]:
    """`except:`, `except Exception` and handlers that only pass."""
    found: list[Finding] = []
    for path, _, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                broad = node.type is None or (
                    isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
                )
                if broad or all(isinstance(item, ast.Pass) for item in node.body):
                    found.append(Finding(str(path.relative_to(SOURCE)), node.lineno, ast.unparse(node).splitlines()[0]))
    return found


def guesses() -> list[Finding]:
    """Calls of getattr with a default and of hasattr."""
    found: list[Finding] = []
    for path, _, tree in trees():
        for node in ast.walk(tree):
            name = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
            if name == "hasattr" or (name == "getattr" and isinstance(node, ast.Call) and len(node.args) > 2):
                found.append(Finding(str(path.relative_to(SOURCE)), node.lineno, ast.unparse(node)))
    return found


def patches() -> list[Finding]:
    """Assignments to an attribute of an imported name (a foreign class or module), and exec, eval, getsource."""
    found: list[Finding] = []
    for path, _, tree in trees():
        imported = {
            (alias.asname or alias.name).split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for alias in node.names
        }
        for node in ast.walk(tree):
            targets = node.targets if isinstance(node, ast.Assign) else []
            for target in targets:
                root = target
                while isinstance(root, ast.Attribute):
                    root = root.value
                if isinstance(target, ast.Attribute) and isinstance(root, ast.Name) and root.id in imported:
                    found.append(Finding(str(path.relative_to(SOURCE)), node.lineno, ast.unparse(target)))
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name in ("exec", "eval") or name.endswith("getsource"):
                    found.append(Finding(str(path.relative_to(SOURCE)), node.lineno, name))
    return found


def main() -> None:
    """Print the four numbers and where they come from."""
    total = lines_total()
    longest = functions()[:5]
    print(f"files {len(trees())}, lines {total}, longest file {files()[0][0]} ({files()[0][1]})")
    print(
        f"longest function {longest[0][0]} lines: " + ", ".join(f"{f.file}:{f.line} {f.what} {n}" for n, f in longest)
    )
    print(f"broad or silent except: {len(broad_excepts())}")
    print(f"getattr/hasattr per 1,000 lines: {1000 * len(guesses()) / total:.1f}")
    print(f"patches of foreign objects, exec, eval: {len(patches())}")
    for finding in [*broad_excepts(), *guesses(), *patches()]:
        print(f"  {finding.file}:{finding.line}  {finding.what}")


if __name__ == "__main__":
    main()
