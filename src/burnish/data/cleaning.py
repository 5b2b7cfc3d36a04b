"""The texts of a row made whole and freed of personal data; what changed is counted, and some of it kept to be shown."""

from __future__ import annotations

from collections import Counter

from burnish.data.chunk import Counts
from burnish.data.examples import Examples, shape
from burnish.data.filters.strip import without_boilerplate
from burnish.data.private.cleaner import Treatment, make_cleaner, make_writer
from burnish.data.private.replace import redact
from burnish.data.record import Origin, Record
from burnish.data.repair import repair

BOILERPLATE, PERSONAL = "boilerplate lines", "personal data"


class Cleaning:
    """What is done with every text, as the recipe says."""

    def __init__(self, personal: Treatment, *, strip_boilerplate: bool) -> None:
        """Make it ready. Raises DataError as `make_cleaner` does."""
        self._clean, self._mask = make_cleaner(personal), make_writer(personal, shape)
        self._may_be_shown = personal.leaves_nothing
        self._strip = strip_boilerplate

    def examples(self) -> Examples:
        """Return a new collection of examples."""
        return Examples(self._mask)

    def cleaned(self, row: Record, origin: Origin, counts: Counts, examples: Examples) -> tuple[Record, set[str]]:
        """Return the row with every text repaired and treated, and what changed in it, which is counted."""
        changes: set[str] = set()
        found: Counter[str] = Counter()

        def cleaned(text: str) -> str:
            repaired = repair(text)
            whole = repaired.text
            for change, before, after in repaired.steps:
                changes.add(change)
                examples.add(change, origin, before, after, whole)
            text = without_boilerplate(whole) if self._strip else whole
            if text != whole:
                changes.add(BOILERPLATE)
                examples.add(BOILERPLATE, origin, whole, text)
            treated = self._clean(text)
            found.update(treated.counts)
            if treated.text != text:
                changes.add(PERSONAL)
                if not examples.full(PERSONAL, origin):
                    shown = treated.text if self._may_be_shown else redact(treated.text).text
                    examples.add_replaced(PERSONAL, origin, text, shown)
            return treated.text

        result = row.mapped(cleaned)
        counts.personal.update(found)
        counts.changed.update(changes)
        return result, changes
