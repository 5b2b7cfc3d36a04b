"""Verbs that look: show and doctor."""

from __future__ import annotations

import argparse

from burnish.cli.verbs import AddVerb, print_json


def add_verbs(verb: AddVerb) -> None:
    """Add the verbs of this file."""
    show = verb("show", "print an artifact, or list what there is", _show)
    show.add_argument("id", nargs="?", help="an id, the beginning of one, or latest")
    show.add_argument(
        "--kind", choices=("manifest", "plan", "adapter", "report", "release"), help="with latest: of this kind"
    )
    verb("doctor", "look at this machine: versions, memory, disk, device", _doctor)


def _show(options: argparse.Namespace) -> int:
    from burnish.store.home import Home
    from burnish.views.artifacts import artifact_rows, print_artifact, print_artifacts

    home = Home(options.home)
    if options.id is None:
        rows = artifact_rows(home)
        print_json(rows) if options.json else print_artifacts(rows)
        return 0
    artifact = home.find(options.id, options.kind)
    value = {"kind": artifact.kind, "id": artifact.id, **artifact.model_dump(mode="json")}
    print_json(value) if options.json else print_artifact(artifact, home)
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from burnish.doors.doctor import doctor
    from burnish.views.findings import print_doctor

    findings = doctor(options.home)
    print_json(findings) if options.json else print_doctor(findings)
    return 0 if findings["ok"] else 1
