"""One JSON object from bytes, strictly: RFC 8259, UTF-8, no key twice, nothing that could not be written again.

The fast path is jiter, which refuses NaN, halves of surrogate pairs and keys given twice by itself, at eight times the speed of the
standard library with hooks (`orjson` is faster still, but drops the first of two equal keys in silence and turns large
integers into floats). What jiter refuses is parsed again by the standard library: it says what is wrong in words that
have not changed, and it nests deeper.
"""

from __future__ import annotations

import json
import math
from typing import Any, cast

from jiter import from_json

from burnish.data.sources.refusal import BLANK, BROKEN_JSON, NOT_AN_OBJECT, NOT_UTF8, NUL, SURROGATE, Refused

_DIGITS = bytes.maketrans(b"123456789E", b"000000000e")
_HUGE_NUMBERS = (b"0e000", b"0e+000", b"0" * 309)


def parse_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in `raw`. Raises Refused with the reason why there is none."""
    if b"\0" in raw:
        raise Refused(NUL, f"at byte {raw.index(0)}")
    try:
        value = from_json(raw, allow_inf_nan=False, catch_duplicate_keys=True, cache_mode="keys")
    except ValueError:
        value = _parse_slowly(raw)
    if not isinstance(value, dict):
        raise Refused(NOT_AN_OBJECT, f"found {type(value).__name__}")
    shape = raw.translate(_DIGITS)  # eight times as fast as a regular expression
    if any(
        huge in shape for huge in _HUGE_NUMBERS
    ):  # rare, and mostly words in a text: only then is every number looked at
        _check_finite(value)
    return cast(dict[str, Any], value)


def _parse_slowly(raw: bytes) -> Any:
    try:
        text = raw.decode("utf-8").strip(" \t\r\n")
    except UnicodeDecodeError as error:
        raise Refused(NOT_UTF8, f"at byte {error.start}") from error
    if not text:
        raise Refused(BLANK)
    try:
        value = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_twins)
        _check_unicode(value)
    except json.JSONDecodeError as error:
        raise Refused(BROKEN_JSON, f"{error.msg.removesuffix(' at')} at character {error.pos}") from error
    except UnicodeEncodeError as error:
        raise Refused(SURROGATE, f"\\u{ord(error.object[error.start]):04x}") from error
    except RecursionError as error:
        raise Refused(BROKEN_JSON, "nested too deeply") from error
    except ValueError as error:  # NaN, a key given twice, a number of thousands of digits
        raise Refused(BROKEN_JSON, str(error)) from error
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is given twice")
    return value


def _check_unicode(value: Any) -> None:
    """Raise UnicodeEncodeError for half a surrogate pair: no file and no tokenizer can hold one."""
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, dict):
        for key, item in cast(dict[str, Any], value).items():
            key.encode()
            _check_unicode(item)
    elif isinstance(value, list):
        for item in cast(list[Any], value):
            _check_unicode(item)


def _check_finite(value: Any) -> None:
    """Raise Refused for a number that became infinite, such as 1e999: it could not be written as JSON again."""
    if isinstance(value, float) and not math.isfinite(value):
        raise Refused(BROKEN_JSON, "a number is too large")
    if isinstance(value, dict):
        for item in cast(dict[str, Any], value).values():
            _check_finite(item)
    elif isinstance(value, list):
        for item in cast(list[Any], value):
            _check_finite(item)
