"""Answers that must be JSON of a schema, match a regular expression, or be one of some choices: which tokens may come next.

The grammars and masks are llguidance's (https://github.com/guidance-ai/llguidance); this is their edge to the engine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import llguidance
import numpy as np
import torch
from torch import Tensor

from burnish.core.errors import ServeError
from burnish.text.tokenizer import Tokenizer

SCHEMA_BYTES = 64 << 10
"""A schema or expression may not be longer."""
WHITESPACE = r"[ \n\t]{0,20}"
"""Between the parts of JSON. Without an end a model may go on with spaces until its length limit."""


class Grammar:
    """What answers must look like, checked and ready. One request after another may be constrained by it."""

    def __init__(self, constraints: Constraints, source: str, form: Mapping[str, Any]) -> None:
        self._constraints = constraints
        self._source = source
        self._form = form

    def begin(self) -> TokenConstraint:
        """Return the constraint of one answer."""
        return TokenConstraint(llguidance.LLMatcher(self._constraints.backend, self._source, log_level=0), self._form)


class TokenConstraint:
    """One answer's way through a grammar (see `model.sampling.Constraint`).

    form: the same as a request says it (`structured_outputs`), for an engine that makes its own grammars.
    """

    def __init__(self, matcher: llguidance.LLMatcher, form: Mapping[str, Any]) -> None:
        self._matcher = matcher
        self.form = form

    def allowed(self, vocabulary: int) -> Tensor:
        """Return which tokens may come next; none once the grammar became too complex to follow."""
        bits = np.zeros((vocabulary + 31) // 32, dtype=np.int32)
        if not self._matcher.is_error():
            self._matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
        return torch.from_numpy(np.unpackbits(bits.view(np.uint8), bitorder="little")[:vocabulary].astype(bool))

    def accept(self, token: int) -> None:
        """Take a token that was allowed."""
        self._matcher.consume_token(token)

    @property
    def finished(self) -> bool:
        """Whether nothing but the end may come."""
        return self._matcher.is_stopped()

    @property
    def failure(self) -> str | None:
        """Why the answer cannot go on: the grammar became too complex, or allows nothing."""
        return self._matcher.get_error().splitlines()[0] if self._matcher.is_error() else None


class Constraints:
    """Makes grammars for one tokenizer. May be used from several threads."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int) -> None:
        """vocabulary: how many logits the model gives, which may be more than the tokenizer has tokens."""
        self.backend = llguidance.LLTokenizer(
            tokenizer.backend.to_str(), n_vocab=vocabulary, eos_token=sorted(tokenizer.stop_ids)
        )

    def json_schema(self, schema: Mapping[str, Any]) -> Grammar:
        """Return the grammar of JSON that fits a schema. Raises ServeError for what is no schema or is not supported."""
        text = json.dumps(schema)
        _check_size(text, "schema")
        options: llguidance.JsonCompileOptions = {"whitespace_pattern": WHITESPACE}  # type: ignore[attr-defined]
        source = llguidance.LLMatcher.grammar_from_json_schema(text, overrides=options)
        return self._checked(source, "schema", {"json": {**schema, "x-guidance": options}})

    def json_object(self) -> Grammar:
        """Return the grammar of any JSON object."""
        return self.json_schema({"type": "object"})

    def regex(self, expression: str) -> Grammar:
        """Return the grammar of texts that match from the first to the last character. Raises ServeError for a bad one."""
        _check_size(expression, "expression")
        source = llguidance.LLMatcher.grammar_from_regex(expression)
        return self._checked(source, "expression", {"regex": expression})

    def choice(self, choices: Sequence[str]) -> Grammar:
        """Return the grammar of exactly one of some texts."""
        text = "start: " + " | ".join(json.dumps(choice) for choice in choices)
        _check_size(text, "list of choices")
        source = llguidance.LLMatcher.grammar_from_lark(text)
        return self._checked(source, "list of choices", {"choice": list(choices)})

    def _checked(self, source: str, what: str, form: Mapping[str, Any]) -> Grammar:
        wrong, messages = llguidance.LLMatcher.validate_grammar_with_warnings(source, self.backend)
        if wrong:
            raise ServeError(f"the {what} cannot be used: {messages[0].splitlines()[0][:300]}")
        return Grammar(self, source, form)


def _check_size(text: str, what: str) -> None:
    if len(text) > SCHEMA_BYTES:
        raise ServeError(f"the {what} has {len(text)} characters; at most {SCHEMA_BYTES} are allowed")
