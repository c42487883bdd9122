"""Refusal of requests that a foreign web page makes through a visitor's browser.

A page may post to any address (CSRF), and a name that its owner points to 127.0.0.1
makes answers readable (DNS rebinding). Both show in the headers.
"""

import ipaddress
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OPEN_PATHS = frozenset({"/health", "/ready"})
"""Answered under any name: they say nothing of the model."""


class OriginCheck:
    """Decides by Host, Origin and Sec-Fetch-Site."""

    def __init__(self, host: str, allowed: Iterable[str]) -> None:
        """Keep the names.

        Args:
            host: address that the server listens on; a loopback one is asked for by
                loopback names only.
            allowed: more names, of the server and of pages that may post.
        """
        self._allowed = {name.strip().lower() for name in allowed if name.strip()}
        self._own = host.lower()
        self._checks_host = is_loopback(host) or bool(self._allowed)
        self._is_loopback = is_loopback(host)

    def refusal(self, method: str, path: str, headers: Mapping[str, str]) -> str:
        """Return why a request is refused; empty if it is not."""
        host = headers.get("host", "")
        if path not in OPEN_PATHS and self._checks_host and host:
            name = host_name(host)
            if not (self._is_own(name) or name in self._allowed):
                return (
                    f"The server is not known as {name[:80]!r}: a web page may have "
                    "pointed that name here. Ask for it by its address, or start it "
                    "with `--allow-hosts NAME`."
                )
        if method in SAFE_METHODS:
            return ""
        site, origin = headers.get("sec-fetch-site", ""), headers.get("origin", "")
        if site in ("same-origin", "none") or not (site or origin):
            return ""
        if origin and origin != "null":
            parts = urlsplit(origin)
            same = not site and parts.netloc.lower() == host.lower()
            if same or (parts.hostname or "") in self._allowed:
                return ""
        return (
            f"A page of another site ({(origin or site)[:80]}) posts to this server. "
            "Start it with `--allow-hosts NAME` if that site may."
        )

    def _is_own(self, name: str) -> bool:
        if self._is_loopback:
            return is_loopback(name)
        return name == self._own or is_address(name)


def host_name(host: str) -> str:
    """Return the name of a Host header, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().rstrip(".")


def is_address(name: str) -> bool:
    """Return whether a name is an IP address, which no page can point elsewhere."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(name: str) -> bool:
    """Return whether a name or an address is of this machine alone."""
    name = name.lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    return is_address(name) and ipaddress.ip_address(name).is_loopback
