"""Rows of mixed formats in any amount, seeded: what `prepare_speed.py` prepares.

The words are those of Python's own language reference (pydoc_data), cut into sentences and drawn anew, so that rows of
many lengths read like technical English and hold code. One text in twenty holds personal data, one row in thirty is a copy or
a near copy of an earlier one, one in a hundred is spoilt by mojibake, one in two hundred is no JSON.

python benchmarks/mixed_rows.py FILE MEGABYTES
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

FIRST = ("Ann", "Bob", "Chen", "Dilek", "Emeka", "Farah", "Goran", "Hana")
HOSTS = ("example.com", "example.org", "example.net")


def sentences() -> list[str]:
    """Return the sentences and code lines of the language reference, in order."""
    text = "\n\n".join(topics[name] for name in sorted(topics))
    parts = re.split(r"(?<=[.:])\s+(?=[A-Z])|\n\n+", text)
    return [" ".join(part.split()) for part in parts if 20 <= len(part) <= 400]


class Rows:
    """A stream of lines. Equal seeds give equal lines."""

    def __init__(self, seed: int = 0) -> None:
        self.draw = random.Random(seed)
        self.sentences = sentences()
        self.kept: list[dict[str, Any]] = []

    def lines(self, size: int) -> Iterator[bytes]:
        """Yield lines of `size` bytes together, or a little more."""
        while size > 0:
            line = self._line() + b"\n"
            size -= len(line)
            yield line

    def _line(self) -> bytes:
        chance = self.draw.random()
        if chance < 0.005:
            return json.dumps(self._row()).encode()[: self.draw.randrange(5, 60)]
        if chance < 0.02 and self.kept:
            row = self.draw.choice(self.kept)
        elif chance < 0.035 and self.kept:
            row = self._edited(self.draw.choice(self.kept))
        else:
            row = self._row()
            if len(self.kept) < 5000:
                self.kept.append(row)
            elif self.draw.random() < 0.05:
                self.kept[self.draw.randrange(5000)] = row
        text = json.dumps(row, ensure_ascii=False)
        if chance > 0.99:
            text = text.replace(". ", ". Zürich’s café: ".encode().decode("latin-1"), 1)
        return text.encode()

    def _said(self, most: int) -> str:
        said = [self.draw.choice(self.sentences) for _ in range(self.draw.randint(1, most))]
        if self.draw.random() < 0.05:
            said.insert(self.draw.randrange(len(said) + 1), self._personal())
        return " ".join(said)

    def _personal(self) -> str:
        name, number = self.draw.choice(FIRST), self.draw.randrange(10**4)
        return self.draw.choice((
            f"Write to {name.lower()}.{number}@{self.draw.choice(HOSTS)} for more.",
            f"Call {name} at +1 212 555 {number:04d} before noon.",
            f"The server is 192.168.{number % 256}.{number % 251}.",
            f"export GITHUB_TOKEN=ghp_{''.join(self.draw.choices('abcdefghijklmnopqrstuvwxyzABCDEFGH0123456789', k=36))}",
        ))  # fmt: skip

    def _edited(self, row: dict[str, Any]) -> dict[str, Any]:
        """Change one word of the request, as people do who send a row twice."""
        if "instruction" not in row:
            return row
        words = row["instruction"].split()
        words[self.draw.randrange(len(words))] = "perhaps"
        return row | {"instruction": " ".join(words)}

    def _row(self) -> dict[str, Any]:
        kind = self.draw.random()
        if kind < 0.35:
            return {"instruction": self._said(3), "input": self._said(4), "output": self._said(8)}
        if kind < 0.6:
            turns: list[dict[str, Any]] = []
            for _ in range(self.draw.randint(1, 4)):
                turns += [{"role": "user", "content": self._said(3)}, {"role": "assistant", "content": self._said(6)}]
            return {"messages": turns}
        if kind < 0.75:
            turns = [{"from": "system", "value": "You explain the language to beginners."}]
            for _ in range(self.draw.randint(1, 3)):
                turns += [{"from": "human", "value": self._said(3)}, {"from": "gpt", "value": self._said(6)}]
            return {"conversations": turns, "id": f"c{self.draw.randrange(10**9)}"}
        if kind < 0.88:
            answer = {"topic": self.draw.choice(self.sentences)[:40], "page": self.draw.randrange(900)}
            return {"instruction": self._said(2), "response": json.dumps(answer)}
        return {"prompt": self._said(4), "completion": self._said(10), "source": "manual"}


def write(path: Path, size: int, seed: int = 0) -> int:
    """Write lines of `size` bytes to a file, and return how many lines there are."""
    count = 0
    with path.open("wb") as file:
        for line in Rows(seed).lines(size):
            file.write(line)
            count += 1
    return count


if __name__ == "__main__":
    print(write(Path(sys.argv[1]), int(float(sys.argv[2]) * 1e6)), "lines")
