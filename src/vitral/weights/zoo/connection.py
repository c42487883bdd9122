"""The HTTP connection of downloads, and whether the network may be used at all."""

import os
from typing import TYPE_CHECKING

from vitral.errors import WeightsError
from vitral.version import __version__

if TYPE_CHECKING:
    import httpx2

OFFLINE = ("VITRAL_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
"""Variables of the environment, each of which forbids the network."""
TIMEOUT = 20.0
"""Seconds without a byte after which a connection counts as lost."""
CONNECT_TIMEOUT = 10.0


def is_offline() -> bool:
    """Return whether the user has forbidden the network: see `OFFLINE`."""
    off = ("", "0", "false", "no", "off")
    return any(os.environ.get(name, "").lower() not in off for name in OFFLINE)


def connect(timeout: float | None = None) -> "httpx2.Client":
    """Open a client; it takes proxies and certificates from the environment.

    Args:
        timeout: seconds without an answer; None: VITRAL_TIMEOUT, or 20.

    Raises:
        WeightsError: VITRAL_TIMEOUT or a proxy's address is none.
    """
    import httpx2

    seconds = timeout or _chosen_timeout()
    limits = httpx2.Timeout(seconds, connect=min(seconds, CONNECT_TIMEOUT))
    agent = {"User-Agent": f"vitral/{__version__}"}
    try:
        return httpx2.Client(timeout=limits, follow_redirects=True, headers=agent)
    except (ValueError, ImportError, OSError) as error:
        raise WeightsError(
            f"A setting of the network cannot be used: {error}. Correct HTTP_PROXY, "
            "HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE."
        ) from error


def _chosen_timeout() -> float:
    for name in ("VITRAL_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"):
        text = os.environ.get(name, "")
        if not text:
            continue
        try:
            seconds = float(text)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds < 86_400:
            raise WeightsError(
                f"{name} must be a number of seconds above 0: got {text!r}."
            )
        return seconds
    return TIMEOUT
