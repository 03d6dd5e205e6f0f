"""The address of a chat server: where requests go, and how that is shown. Connects to nothing."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

from mlxtune.errors import Misuse


@dataclass(frozen=True)
class Address:
    """Where a chat server is.

    Attributes:
        endpoint: Where requests go, with what is secret in it.
        shown: The server's address without credentials and query.
        secrets: What is secret in the endpoint; some may be empty.
        is_loopback: Whether it is this machine.
        is_plain: Whether what is sent there can be read on its way.
    """

    endpoint: str = field(repr=False)
    shown: str
    secrets: tuple[str, ...] = field(repr=False)
    is_loopback: bool
    is_plain: bool

    @classmethod
    def of(cls, url: str) -> Address:
        """The address that a URL names, with or without /v1 and /chat/completions.

        Raises:
            Misuse: Not the address of a server.
        """
        expected = "expected the address of a chat server, such as http://127.0.0.1:8080"
        try:
            parts = urlsplit(url.strip())
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise Misuse(f"{expected}: {error}") from None
        if parts.scheme not in ("http", "https") or not host:
            raise Misuse(f"{expected}, got {without_credentials(url)!r}")
        path = parts.path.rstrip("/")
        if not path.endswith("/chat/completions"):
            path = f"{path or '/v1'}/chat/completions"
        endpoint = urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))
        server = (parts.scheme, parts.netloc.rpartition("@")[2], path.removesuffix("/chat/completions"), "", "")
        values = [pair.partition("=")[2] for pair in parts.query.split("&")]
        secrets = (parts.password or "", parts.query, *values)
        return cls(endpoint, urlunsplit(server), secrets, _is_loopback(host), parts.scheme == "http")


def without_credentials(url: str) -> str:
    """An address without user, password, query and fragment, also where it is no proper one.

    >>> without_credentials("https://me:secret@host/v1?key=secret")
    'https://host/v1'
    """
    return re.sub(r"^([^/?#]*//)?[^/?#]*@", r"\1", re.split(r"[?#]", url.strip(), maxsplit=1)[0])


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
