"""What filters and audit know of every row at once, in columns."""

from __future__ import annotations

import numpy as np

MENTIONS = "<u4"
NO_SENTIMENT = np.iinfo(np.int16).min

SIGNALS = np.dtype([
    ("signals", "<u4"),  # bits of `rules.BY_ROW` and `rules.REPAIRS`
    ("asked", MENTIONS),  # groups of people that the request names, bits of `groups.GROUPS`
    ("told", MENTIONS),  # those that the answer names
    ("named", MENTIONS),  # a number for those of the request in the order of their first mention; 0 for none
    ("size", "<u4"),  # words of the answer
    ("kind", "u1"),  # a place in `rules.KINDS`
    ("language", "u1"),  # 0 for unknown, else a place in LANGUAGES, from 1
    ("variety", "u1"),  # 0 for unknown, else a place in VARIETIES, from 1
    ("sentiment", "<i2"),  # of the answer, in thousandths from -1 to 1; NO_SENTIMENT where no word says any
])  # fmt: skip
"""25 bytes a row."""
