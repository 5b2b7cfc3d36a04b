"""Which rows are held out."""

from __future__ import annotations

import hashlib


def is_test(key: str, test_share: float) -> bool:
    """Decide by the row's own content, so that a row stays where it is when others come or go.

    key: what identifies the row. test_share: share of keys that are held out, from 0 to 1.
    """
    first_bytes = hashlib.sha256(key.encode()).digest()[:8]
    return int.from_bytes(first_bytes, "big") < test_share * 2**64
