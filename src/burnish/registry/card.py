"""The model card of a release: Markdown made from its artifacts alone, so that it says what was measured."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from burnish.core.artifacts import Adapter, EvalReport, Manifest, Plan, Release
from burnish.core.units import format_bytes, format_count, format_seconds


def model_card(
    *, release: Release, adapter: Adapter, report: EvalReport, plan: Plan, manifest: Manifest, base_licence: str | None
) -> str:
    """Return the card. `base_licence` is the base model's (an SPDX name), None when it is not known here."""
    sections = [
        _front_matter(release, adapter, base_licence),
        _head(release, adapter, base_licence),
        _scores(report),
        _data(manifest),
        _training(adapter, plan),
        _gate(release),
        _limits(report, manifest),
        _lineage(release),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(release: Release, adapter: Adapter, licence: str | None) -> str:
    full = adapter.model is not None
    lines = ["---", f"base_model: {release.base.name}", f"library_name: {'transformers' if full else 'peft'}"]
    lines += [f"license: {licence.lower()}"] if licence else []
    return "\n".join([*lines, f"tags: [burnish, {'full' if full else 'lora'}]", "---"])


def _head(release: Release, adapter: Adapter, licence: str | None) -> str:
    made = f" on {release.created_at[:10]}" if release.created_at else ""
    version = f"version {release.version}, " if release.version else ""
    head = f"# {release.name}\n\nA specialist made with burnish{made}: {version}alias `{release.alias}`. "
    if adapter.model is not None:
        return (
            f"{head}Every weight of `{release.base.name}` was trained (licence of the base: "
            f"{licence or 'not known here, see its own card'}); it runs by itself, as a model of transformers "
            f"(digest `{adapter.model.digest}`)."
        )
    return (
        f"{head}It is a LoRA adapter for `{release.base.name}` (licence of the base: "
        f"{licence or 'not known here, see its own card'}); it needs that base, by its digest, to run."
    )


def _scores(report: EvalReport) -> str:
    rows = [
        (s.task, s.metric, s.subject, f"{s.value:.3f}", f"{s.low:.3f} to {s.high:.3f}", str(s.n))
        for s in sorted(report.scores, key=lambda s: (s.task != "test", s.task, s.metric, s.subject))
    ]
    text = "## Scores\n\n" + _table(("task", "metric", "model", "value", "95% interval", "rows"), rows)
    if report.comparisons:
        pairs = [
            (c.task, c.metric, f"{c.a} - {c.b}", f"{c.difference:+.3f}", f"{c.low:+.3f} to {c.high:+.3f}", f"{c.p:.2g}")
            for c in report.comparisons
        ]
        text += "\n\nPaired differences on the same rows:\n\n" + _table(
            ("task", "metric", "difference of", "value", "95% interval", "p"), pairs
        )
    return text


def _data(manifest: Manifest) -> str:
    ledger = manifest.ledger
    lines = [
        "## Data\n\n"
        f"{ledger.rows_in:,} rows read = {ledger.rows_kept:,} kept + {sum(ledger.rejected.values()):,} rejected."
    ]
    rows = [("rejected", reason, f"{count:,}") for reason, count in sorted(ledger.rejected.items())]
    rows += [("changed", what, f"{count:,}") for what, count in sorted(ledger.changed.items())]
    rows += [("personal data found", kind, f"{count:,}") for kind, count in sorted(manifest.personal_data.items())]
    rows += [("leakage check", what, f"{count:,}") for what, count in sorted(manifest.leakage.items())]
    lines.append(_table(("", "what", "count"), rows))
    splits = [
        (name, f"{split.rows:,}", f"{split.tokens:,}", f"{split.trained_tokens:,}", f"{split.longest_tokens:,}")
        for name, split in manifest.splits.items()
    ]
    lines.append(_table(("split", "rows", "tokens", "tokens with loss", "longest row"), splits))
    if ledger.sources is not None:
        licenses = {name: said["license"] or "not said" for name, said in manifest.settings["sources"].items()}
        sources = [
            (name, licenses[name], f"{own.rows_in:,}", f"{own.rows_kept:,}") for name, own in ledger.sources.items()
        ]
        lines.append(_table(("source", "licence", "rows read", "rows kept"), sources))
    return "\n\n".join(lines)


def _training(adapter: Adapter, plan: Plan) -> str:
    method, train = plan.method, plan.train
    weights = (
        "4-bit NF4" + (", double quantisation" if method.double_quantisation else "")
        if method.quantisation == "nf4"
        else train.compute_dtype
    )
    rows = [
        *(
            [("method", "full: every weight"), ("weights", f"{weights}, optimised in float32")]
            if method.kind == "full"
            else [
                ("method", f"{method.kind}, rank {method.rank}, alpha {method.alpha:g}, dropout {method.dropout:g}"),
                ("adapted layers", ", ".join(method.targets)),
                ("base weights", weights),
            ]
        ),
        ("parameters", f"{format_count(plan.parameters.trainable)} trained of {format_count(plan.parameters.total)}"),
        ("steps", f"{train.steps:,} of at most {train.tokens_per_step:,} tokens, epochs {train.epochs:g}"),
        (
            "optimizer",
            f"{train.optimizer or 'AdamW'}, rate {train.learning_rate:g}, {train.schedule}, "
            f"warm-up {train.warmup_steps}, seed {train.seed}",
        ),
        ("device", f"{train.device}, {train.compute_dtype}"),
        *([("rows drawn", str(train.mix))] if train.mix is not None else []),
    ]
    if adapter.measured is not None:
        took = adapter.measured
        peak = took.peak_device_bytes or took.peak_rss_bytes
        rows.append(
            (
                "took",
                f"{format_seconds(took.seconds)}, {format_bytes(peak)} at its peak, "
                f"loss {took.first_loss:.3f} to {took.last_loss:.3f}",
            )
        )
    return "## Training\n\n" + _table(("", ""), rows)


def _gate(release: Release) -> str:
    verdict = "passed" if release.gate.passed else "failed"
    return f"## Gate: {verdict}\n\n" + "\n".join(f"- {reason}" for reason in release.gate.reasons)


def _limits(report: EvalReport, manifest: Manifest) -> str:
    tested = ", ".join(sorted({f"{s.task} ({s.n} rows)" for s in report.scores if s.subject == "tuned"}))
    longest = max((split.longest_tokens for split in manifest.splits.values()), default=0)
    lines = [
        f"- Shown only on: {tested or 'nothing'}. Requests of another kind were not measured.",
        f"- The longest row seen has {longest:,} tokens; longer requests were not measured.",
        "- The intervals say how far the scores would move with other rows of the same kind, not of another kind.",
        "- What the base model gets wrong or says unfairly, this model may too.",
    ]
    if manifest.fingerprint.system is not None:
        lines.append("- It was trained with a system prompt, and has to be served with the same one.")
    if manifest.fingerprint.variables:
        said = json.dumps(manifest.fingerprint.variables)
        lines.append(f"- Its chat template had these variables, and has to be served with them: `{said}`.")
    return "## Limits\n\n" + "\n".join(lines)


def _lineage(release: Release) -> str:
    rows = [
        ("release", release.id),
        ("adapter", release.adapter),
        ("report", release.report),
        ("plan", release.plan),
        ("manifest", release.manifest),
        ("base", release.base.digest),
    ]
    return "## Lineage\n\n" + _table(("artifact", "id"), [(name, f"`{value}`") for name, value in rows])


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [" | ".join(heads), " | ".join("---" for _ in heads)]
    lines += [" | ".join(_cell(cell) for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
