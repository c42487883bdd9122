"""Try a request again where that may help, with growing pauses."""

import logging
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from vitral.weights.zoo.causes import (
    BUSY,
    WrongContentError,
    is_certificate_fault,
    is_unknown_host,
)

logger = logging.getLogger(__name__)
T = TypeVar("T")
RETRIES = 5
LONGEST_PAUSE = 30.0
"""Seconds between two attempts."""
LONGEST_WAIT = 120.0
"""Seconds that a server may ask for with Retry-After."""


def retry(
    action: Callable[[], T], label: str, progressed: Callable[[], bool] = lambda: False
) -> T:
    """Return the result of `action`, which is tried up to five times more.

    Args:
        label: name of what is fetched, for the log.
        progressed: returns whether the attempt that failed has brought something: then
            the count of failures begins anew.
    """
    failures = 0
    while True:
        try:
            return action()
        except Exception as error:
            failures = 1 if progressed() else failures + 1
            if failures > RETRIES or not is_worth_a_retry(error):
                raise
            pause = pause_before_retry(error, failures)
            reason = " ".join(str(error).split()) or type(error).__name__
            logger.info(
                "%s: %s; attempt %d of %d follows in %.0f s",
                label,
                reason,
                failures + 1,
                RETRIES + 1,
                pause,
            )
            time.sleep(pause)


def is_worth_a_retry(error: Exception) -> bool:
    """Return whether the same request may succeed later."""
    import httpx2

    if isinstance(error, WrongContentError):
        return not error.final
    if isinstance(error, httpx2.HTTPStatusError):
        return error.response.status_code in BUSY
    if isinstance(error, httpx2.ProxyError | httpx2.UnsupportedProtocol):
        return False
    if isinstance(error, httpx2.TransportError):
        return not (is_certificate_fault(error) or is_unknown_host(error))
    return False


def pause_before_retry(error: Exception, failures: int) -> float:
    """Return the seconds to wait: what the server asks for, else more each time."""
    import httpx2

    if isinstance(error, httpx2.HTTPStatusError):
        asked = _parse_retry_after(error.response.headers.get("Retry-After", ""))
        if asked is not None:
            return min(asked, LONGEST_WAIT)
    # Machines of a cluster that fail together must not all return together.
    return min(2.0 ** (failures - 1), LONGEST_PAUSE) * random.uniform(0.5, 1.0)


def _parse_retry_after(text: str) -> float | None:
    if text.isdigit():
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    if date.tzinfo is None:
        return None
    return max(0.0, (date - datetime.now(UTC)).total_seconds())
