"""The modules of the known families are known by their names in transformers."""

from __future__ import annotations

from importlib import import_module

import pytest
from torch import nn

from burnish.model.families import FAMILIES, is_attention, is_gated


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_and_gated_layers_of_a_family_are_known(family: str) -> None:
    code = import_module(f"transformers.models.{family.lower()}.modeling_{family.lower()}")
    attention, gated = vars(code)[f"{family}Attention"], vars(code)[f"{family}MLP"]

    class OfSomebodyElse(attention):
        pass

    for kind in (attention, OfSomebodyElse):
        assert is_attention(kind.__new__(kind))
        assert not is_gated(kind.__new__(kind))
    assert is_gated(gated.__new__(gated))
    assert not is_attention(nn.Linear(1, 1))
    assert not is_gated(nn.Linear(1, 1))
