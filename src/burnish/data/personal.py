"""Personal data of a dataset: what the recipe asks for as a treatment, and the certificate of what it finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from burnish.core.errors import GateError
from burnish.core.recipe import PersonalData
from burnish.data.fates import KEPT, Fates
from burnish.data.private.canaries import PLANTED
from burnish.data.private.certificate import Certificate, certificate
from burnish.data.private.cleaner import Treatment, make_cleaner
from burnish.data.private.kinds import Kind
from burnish.data.spool import Spool

TEXTS = 500
"""Requests and answers that values are planted in, spread evenly over the dataset."""
SEED = 0


def treatment(said: PersonalData, key: bytes | None = None, vault: Path | None = None) -> Treatment:
    """Return what the recipe asks for."""
    return Treatment(
        said.action,
        tuple((Kind(kind.upper()), action) for kind, action in sorted(said.kinds.items())),
        said.names,
        said.second_opinion is not None,
        key,
        vault,
    )


def certify(spool: Spool, fates: Fates, personal: Treatment, least: float | None) -> Certificate:
    """Plant invented values in texts of the dataset and return how many of each kind are found.

    Kinds that are kept are not planted. Raises GateError when `least` is given and the lower limit of a kind is below it.
    """
    kept = np.flatnonzero(fates.reasons == KEPT)
    chosen = kept[np.unique(np.linspace(0, len(kept) - 1, min(TEXTS // 2, len(kept))).astype(np.int64))]
    texts = [text for _, *both in spool.pairs(chosen) for text in both if text.strip()]
    kinds = [kind for kind in PLANTED if kind not in personal.keeps]
    if not texts or not kinds:
        return Certificate(SEED, len(texts), (), ())
    clean = make_cleaner(personal.measured())
    made = certificate(texts, SEED, lambda text: clean(text).text, kinds)
    if least is not None and (low := made.below(least)):
        by_kind = {each.kind: each for each in made.kinds}
        lines = [
            f"  {each.kind}: {each.found} of {each.planted} found, lower limit {each.low:.3f}"
            for each in map(by_kind.__getitem__, low)
        ]
        raise GateError(
            f"prepare.personal_data.recall asks for {least:g}, but of the values planted in your texts fewer were found:\n"
            + "\n".join(lines)
            + "\nLower the gate, keep the kind (kinds: {...: keep}) or clean these texts before they come here."
        )
    return made
