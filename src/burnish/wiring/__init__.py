"""What a stage needs from another room, built here and passed as a function or as data. One function a verb.

Stage rooms are imported inside the functions: a command that needs no torch loads none.
"""

from burnish.wiring.base import Base, load_for_serving, open_base
from burnish.wiring.evaluating import evaluate, subjects
from burnish.wiring.own_rows import synthesize_section, without_synthetic
from burnish.wiring.planning import estimate, plan, plan_inputs, planning_inputs, stored_errors
from burnish.wiring.preparing import prepare, prepare_inputs, private_key, vault_path
from burnish.wiring.probing import probe
from burnish.wiring.releasing import (
    decide,
    mend_registry,
    predicted_and_measured,
    promote,
    registry_file,
    release,
    sqlite_uri_of,
    tracking_uri,
    write_report,
)
from burnish.wiring.samples import Samples, train_samples
from burnish.wiring.serving import intent_picker, prompt_counter
from burnish.wiring.training import interruptible, train

__all__ = [
    "Base",
    "Samples",
    "decide",
    "estimate",
    "evaluate",
    "intent_picker",
    "interruptible",
    "load_for_serving",
    "mend_registry",
    "open_base",
    "plan",
    "plan_inputs",
    "planning_inputs",
    "predicted_and_measured",
    "prepare",
    "prepare_inputs",
    "private_key",
    "probe",
    "promote",
    "prompt_counter",
    "registry_file",
    "release",
    "sqlite_uri_of",
    "stored_errors",
    "subjects",
    "synthesize_section",
    "tracking_uri",
    "train",
    "train_samples",
    "vault_path",
    "without_synthetic",
    "write_report",
]
