"""A listening socket, or an error that says why the address cannot be had and what to do."""

from __future__ import annotations

import socket

from burnish.core.errors import ResourceError


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one. Raises ResourceError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ResourceError(
            f"cannot listen on {host}: {error.strerror or error}. Choose another address with --host."
        ) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise ResourceError(
            f"cannot listen on {host} port {port}: {error.strerror or error}. Stop the program that uses it, or choose "
            "another one with --port (0 takes a free one)."
        ) from error
    return listener
