"""TLS files that cannot be used are told before anything is loaded, with what to do; so is a certificate clients refuse."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest

from burnish.core.errors import UsageError
from burnish.core.events import Note
from burnish.doors.gateway import ServeWish, serve
from burnish.gateway.tls import check_tls
from burnish.store.home import Home


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pairs of certificate and key, a locked key, and certificates of the first key out of their time."""
    folder = tmp_path_factory.mktemp("tls")
    for name in ("one", "two"):
        openssl(
            folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
            "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", "/CN=localhost",
        )  # fmt: skip
    openssl(folder, "pkey", "-in", "one.key", "-aes128", "-passout", "pass:secret", "-out", "locked.key")
    openssl(folder, "req", "-new", "-key", "one.key", "-subj", "/CN=localhost", "-out", "request")
    (folder / "ca.conf").write_text(
        "[ca]\ndefault_ca=d\n[d]\ndatabase=index\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\npolicy=p\n"
        "unique_subject=no\n[p]\ncommonName=supplied\n"
    )
    (folder / "index").write_text("")
    (folder / "serial").write_text("01\n")
    for name, begins, ends in (("old", "2020", "2021"), ("early", "2090", "2091")):
        openssl(
            folder, "ca", "-selfsign", "-batch", "-notext", "-in", "request", "-keyfile", "one.key", "-config", "ca.conf",
            "-startdate", f"{begins}0101000000Z", "-enddate", f"{ends}0101000000Z", "-out", f"{name}.pem",
        )  # fmt: skip
    for name, kind in (("short", ["rsa:1024"]), ("odd", ["ec", "-pkeyopt", "ec_paramgen_curve:secp256k1"])):
        openssl(
            folder, "req", "-x509", "-newkey", *kind, "-nodes", "-days", "30", "-keyout", f"{name}.key", "-out", f"{name}.pem",
            "-subj", "/CN=localhost",
        )  # fmt: skip
    (folder / "text.pem").write_text("no certificate\n")
    (folder / "chain.pem").write_text((folder / "one.pem").read_text() + (folder / "two.pem").read_text())
    return folder


@pytest.mark.parametrize(
    ("certificate", "key", "words"),
    [
        ("gone.pem", "one.key", "gone.pem is missing"),
        ("one.pem", "two.key", "two.key is not the one that .*one.pem was made for"),
        ("one.pem", "locked.key", "locked.key needs a pass phrase"),
        ("text.pem", "one.key", "text.pem holds no certificate in PEM format"),
        ("one.pem", "text.pem", "text.pem holds no private key in PEM format"),
        ("one.key", "one.pem", "one.key holds no certificate"),
        ("short.pem", "short.key", r"short.pem or its key is too weak \(EE_KEY_TOO_SMALL\)"),
    ],
)
def test_files_that_cannot_be_used_are_told_by_name(files: Path, certificate: str, key: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check_tls(files / certificate, files / key)


def test_a_certificate_that_clients_would_refuse_is_told(files: Path) -> None:
    assert check_tls(None, None) is None
    assert check_tls(files / "one.pem", files / "one.key") is None
    assert check_tls(files / "chain.pem", files / "one.key") is None
    for name, words in (("old.pem", "has expired: clients will refuse it"), ("early.pem", "is not valid yet")):
        assert words in (check_tls(files / name, files / "one.key") or "")
    assert "no client with usual settings can speak to" in (check_tls(files / "odd.pem", files / "odd.key") or "")


def test_the_files_are_looked_at_before_anything_is_loaded(files: Path, tmp_path: Path) -> None:
    config = tmp_path / "serve.yaml"
    said: list[str] = []

    def start(certificate: str, stop: threading.Event) -> None:
        config.write_text(f"tls_certificate: {files / certificate}\ntls_key: {files / 'one.key'}\n")
        wish = ServeWish(port=0, config=config, upstream="http://127.0.0.1:1")

        def hear(event: object) -> None:
            if isinstance(event, Note):
                said.append(event.text)

        serve(Home(tmp_path / "home"), wish, hear, lambda started: stop.set(), stop=stop)

    with pytest.raises(UsageError, match="not the one that"):
        start("two.pem", threading.Event())
    assert not (tmp_path / "home" / "gateway").exists()
    start("old.pem", threading.Event())
    assert "has expired" in said[0]
