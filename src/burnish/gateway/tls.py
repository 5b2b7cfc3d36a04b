"""The TLS files, looked at before anything is loaded: what is wrong with them, in words that say what to do."""

from __future__ import annotations

import ssl
from pathlib import Path

from burnish.core.errors import UsageError

EXPIRED, NOT_YET = 10, 9
"""OpenSSL's codes (X509_V_ERR_CERT_HAS_EXPIRED, X509_V_ERR_CERT_NOT_YET_VALID)."""
TOO_WEAK = frozenset({"EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"})
"""OpenSSL's reasons not to take a certificate at its level of security."""


class _LockedKey(Exception):
    """OpenSSL asks for the pass phrase of a key."""


def check_tls(certificate: Path | None, key: Path | None) -> str | None:
    """Look at the files that the settings name; returns what clients will have against the certificate, if anything.

    Raises UsageError for files that cannot be used. None and None: no TLS, and nothing to say.
    """
    if certificate is None or key is None:
        return None
    for path in (certificate, key):
        if not path.is_file():
            raise UsageError(f"the TLS file {path} is missing; tls_certificate and tls_key name PEM files.")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        server.load_cert_chain(certificate, key, password=_locked)
    except _LockedKey as error:
        raise UsageError(
            f"the TLS key {key} needs a pass phrase, and nobody is there to type one when a server starts. Write one without: "
            f"openssl pkey -in {key} -out KEY.pem, and keep it readable for the server alone."
        ) from error
    except OSError as error:
        raise UsageError(_what_is_wrong(certificate, key, error)) from error
    return _objection(server, certificate)


def _locked() -> str:
    raise _LockedKey


def _what_is_wrong(certificate: Path, key: Path, error: OSError) -> str:
    if isinstance(error, PermissionError):
        return f"the TLS files {certificate} and {key} may not both be read: {error.strerror}."
    if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
        return f"the TLS key {key} is not the one that {certificate} was made for; name the two that belong together."
    if isinstance(error, ssl.SSLError) and error.reason in TOO_WEAK:
        return (
            f"the TLS certificate {certificate} or its key is too weak ({error.reason}); clients refuse it too. Make one of RSA "
            "with 2048 bits or more, or of the curve P-256, signed with SHA-256."
        )
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(certificate)
    except OSError:
        return f"{certificate} holds no certificate in PEM format (-----BEGIN CERTIFICATE-----)."
    return f"{key} holds no private key in PEM format (-----BEGIN PRIVATE KEY-----): {error}."


def _objection(server: ssl.SSLContext, certificate: Path) -> str | None:
    """Say what a client that trusts a certificate would find out: it has expired, is not valid yet, or cannot be spoken to."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(certificate)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)]
    for _ in range(8):  # a handshake takes two turns of each side
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                when = {EXPIRED: "has expired", NOT_YET: "is not valid yet"}.get(error.verify_code)
                return None if when is None else f"the TLS certificate {certificate} {when}: clients will refuse it"
            except ssl.SSLError as error:
                return (
                    f"no client with usual settings can speak to the TLS certificate {certificate} ({error.reason}): make one of "
                    "the curve P-256, or of RSA"
                )
    return None
