"""The files of the chat page and the headers that they are served with."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Nothing from elsewhere, nothing inline, no frame around it, and no way for a text to become markup or script."""
TYPES: Mapping[str, bytes] = {
    "html": b"text/html; charset=utf-8", "css": b"text/css; charset=utf-8", "js": b"text/javascript; charset=utf-8",
    "svg": b"image/svg+xml",
}  # fmt: skip
FILES = ("index.html", "style.css", "icon.svg", "app.js", "api.js", "markdown.js", "chat.js", "compare.js")
Asset = tuple[bytes, bytes, list[tuple[bytes, bytes]]]


def assets() -> dict[str, Asset]:
    """Return every file of the page by its path: content, type and headers."""
    headers = [
        (b"content-security-policy", POLICY.encode()),
        (b"x-frame-options", b"DENY"),
        (b"cache-control", b"no-cache"),
        (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), payment=()"),
    ]
    folder = resources.files("burnish.web")
    found: dict[str, Asset] = {}
    for name in FILES:
        body = folder.joinpath("assets", name).read_bytes()
        found[f"/assets/{name}"] = (body, TYPES[name.rsplit(".", 1)[1]], headers)
    found["/"] = found.pop("/assets/index.html")
    return found
