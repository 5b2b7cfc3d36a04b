"""Secrets that open doors: keys and tokens with a known shape, passwords that are said to be passwords."""

from __future__ import annotations

import re
from collections.abc import Iterator

_SHAPES: dict[str, str] = {
    "AWS access key": r"(?:AKIA|ASIA)[0-9A-Z]{16}",
    "GitHub token": r"gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255}",
    "GitLab token": r"glpat-[A-Za-z0-9_-]{20,64}",
    "OpenAI or Anthropic key": r"sk-(?:ant-|proj-|svcacct-)?[A-Za-z0-9_-]{20,200}",
    "Hugging Face token": r"hf_[A-Za-z0-9]{30,64}",
    "Google key": r"AIza[0-9A-Za-z_-]{35}|GOCSPX-[0-9A-Za-z_-]{28}",
    "Slack token": r"xox[abposr]-[0-9A-Za-z-]{10,200}",
    "Stripe key": r"(?:[rs]k|whsec)_(?:live_|test_)?[0-9A-Za-z]{16,200}",
    "npm token": r"npm_[A-Za-z0-9]{36}",
    "PyPI token": r"pypi-[A-Za-z0-9_-]{50,300}",
    "SendGrid key": r"SG\.[A-Za-z0-9_-]{16,64}\.[A-Za-z0-9_-]{16,64}",
    "Twilio key": r"(?:SK|AC)[0-9a-f]{32}",
    "JSON Web Token": r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",
}
_SHAPED = re.compile(rf"(?<![A-Za-z0-9_-])(?:{'|'.join(_SHAPES.values())})(?![A-Za-z0-9_-])", re.ASCII)
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)", re.DOTALL
)
_IN_ADDRESS = re.compile(r"://(?P<value>[^\s/:@\"']{1,100}:[^\s/@\"']{1,200})@")
_SAID = re.compile(
    r"\b(?:password|passwd|passphrase|pwd|api[ _-]?key|secret[ _-]?key|access[ _-]?token|auth[ _-]?token)\b[\"']?"
    r"(?:\s*[:=]\s*|\s+is\s+)[\"']?(?P<value>[^\s\"',;]{6,200})",
    re.IGNORECASE,
)
_NOT_A_WORD = re.compile(r"[0-9]|[!-/:-@\[-`{-~](?!$)")


def credentials(text: str) -> Iterator[tuple[int, int]]:
    """Yield where secrets begin and end; the places may overlap."""
    for pattern in (_PRIVATE_KEY, _SHAPED):
        for match in pattern.finditer(text):
            yield match.span()
    for match in _IN_ADDRESS.finditer(text):
        yield match.span("value")
    for match in _SAID.finditer(text):
        # "the password is required" is no password: a value needs a digit or a sign inside.
        if _NOT_A_WORD.search(match["value"]) and not match["value"].startswith("["):
            yield match.span("value")
