"""What signals, filters and the audit cost: processor time for a megabyte of rows, beside everything else a worker does.

python benchmarks/filters.py [--megabytes 6]     writes benchmarks/results/filters.json

Rows are those of mixed_rows.py (English), and the same rows with German sentences in place of what is said, which is what costs
most: no text is English beyond doubt, so the model looks at every answer. A chunk is made as `prepare` makes it, and the part of
it that makes the signals is timed, three rounds; medians. The filter report and the audit are made once, over all rows of a spool.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mixed_rows import Rows

from burnish import wiring
from burnish.core.events import discard
from burnish.core.recipe_file import parse_recipe
from burnish.data import row_maker
from burnish.data.decide import decide
from burnish.data.filters.audit import audit
from burnish.data.filters.marks import Marks
from burnish.data.filters.report import filter_report
from burnish.data.filters.signals import signals_of
from burnish.data.ledger import Book
from burnish.data.personal import treatment
from burnish.data.prepare import _chunked, wanted
from burnish.data.record import Origin, RawRow
from burnish.data.row_maker import Settings, chunk_maker
from burnish.data.spool import Spool

RESULTS = Path(__file__).parent / "results" / "filters.json"
GERMAN = (
    "Der Zug fährt heute von einem anderen Gleis ab.", "Wir haben die Bestellung noch am selben Tag verschickt.",
    "Bitte öffnen Sie das Menü und wählen Sie den zweiten Eintrag.", "Das Gerät muss vor der Reinigung ausgeschaltet werden.",
    "Die Rechnung liegt unter Konto, dann Belege.", "Leider war die Lieferung beschädigt, wir schicken eine neue.",
)  # fmt: skip


def german(line: bytes, draw: random.Random) -> bytes:
    """Put German sentences of the same length in place of what is said."""
    try:
        row = json.loads(line)
    except ValueError:
        return line

    def said(text: str) -> str:
        if text.startswith("{"):
            return text
        parts: list[str] = []
        while sum(map(len, parts)) < len(text):
            parts.append(f"{draw.choice(GERMAN)} Vorgang {draw.randrange(10**6)}.")
        return " ".join(parts)

    for key in ("instruction", "input", "output", "response", "prompt", "completion"):
        if key in row:
            row[key] = said(row[key])
    for turns, key in ((row.get("messages", ()), "content"), (row.get("conversations", ()), "value")):
        for turn in turns:
            turn[key] = said(turn[key])
    return json.dumps(row, ensure_ascii=False).encode()


def raws(lines: list[bytes]) -> list[RawRow]:
    found: list[RawRow] = []
    for number, line in enumerate(lines, start=1):
        text = line.decode("utf-8", "replace")
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        found.append(RawRow(Origin("rows", "rows.jsonl", number), value, text, None if value else "not JSON"))
    return found


def measure(name: str, lines: list[bytes], base: wiring.Base) -> dict[str, Any]:
    size = sum(map(len, lines)) / 1e6
    recipe = parse_recipe({"name": "b", "base": "b", "data": "rows.jsonl", "method": "lora"}, source="benchmark")
    settings = Settings("You are a helpful assistant.", treatment(recipe.prepare.personal_data), 8192, "reject")
    make = chunk_maker(base.tokenizer, settings)
    chunks = list(_chunked(raws(lines)))
    inside: list[float] = []

    def timed(*arguments: Any) -> Any:
        began = time.process_time()
        found = signals_of(*arguments)
        inside[-1] += time.process_time() - began
        return found

    whole: list[float] = []
    row_maker.signals_of = timed  # the benchmark's own clock around one call
    for _ in range(3):
        inside.append(0.0)
        began = time.process_time()
        made = [make(chunk) for chunk in chunks]
        whole.append(time.process_time() - began)
    row_maker.signals_of = signals_of
    with tempfile.TemporaryDirectory() as folder, Spool(Path(folder)) as spool:
        book = Book()
        for chunk in made:
            book.enter(0, chunk)
            spool.add(0, chunk)
        spool.finish()
        marks = Marks(spool, recipe.prepare.filters)
        fates = decide(spool, wanted(recipe), lambda: None, None, marks)
        began = time.process_time()
        told = filter_report(spool, fates, marks, [], {})
        report_s = time.process_time() - began
        began = time.process_time()
        audit(spool, fates, marks, {"train": 0, "test": 2}, [])
        audit_s = time.process_time() - began
        rows = len(spool)
    signals_ms, worker_ms = (1000 * statistics.median(each) / size for each in (inside, whole))
    return {
        "rows_are": name, "megabytes": round(size, 2), "rows": rows,
        "signals_ms_per_mb": round(signals_ms, 1), "worker_ms_per_mb": round(worker_ms, 1),
        "signals_share_of_worker": round(signals_ms / worker_ms, 4),
        "report_ms_in_all": round(1000 * report_s, 1), "audit_ms_in_all": round(1000 * audit_s, 1),
        "languages": {each["name"]: each["rows"] for each in told["languages"][:4]},
        "marked": {each["name"]: each["marked"] for each in told["filters"] if each["marked"]},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=6)
    options = parser.parse_args()
    base = wiring.open_base("smollm2-135m-instruct", discard)
    lines = list(Rows(0).lines(int(options.megabytes * 1e6)))
    draw = random.Random(0)
    rows = [
        measure("English", lines, base),
        measure("German", [german(line, draw) for line in lines], base),
    ]
    done = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "device": platform.machine(),
        "versions": {name: version(name) for name in ("py3langid", "numpy", "vaderSentiment")},
        "bytes_a_row": {"signals": row_maker.SIGNALS.itemsize, "all columns": row_maker.COLUMNS.itemsize},
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(done, indent=2) + "\n")
    print(json.dumps(done, indent=2))


if __name__ == "__main__":
    main()
