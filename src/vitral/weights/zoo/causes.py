"""Causes of a failed download: one sentence and one action for each."""

import errno
import socket
import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from vitral.errors import WeightsError

if TYPE_CHECKING:
    import httpx2

BUSY = (408, 425, 429, 500, 502, 503, 504)
"""Answers after which the same request may succeed."""


class WrongContentError(Exception):
    """The answer is not the file, or not all of it.

    Args:
        final: the next attempt would have the same answer.
    """

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


def failure_of(error: Exception, url: str, label: str, terms: str = "") -> WeightsError:
    """Return the error that says why a download ended, and what to do.

    Args:
        label: name of the file in the sentence.
        terms: page where access is asked for.
    """
    if isinstance(error, WeightsError):
        return error
    return WeightsError(f"{label} cannot be fetched: {_explain(error, url, terms)}")


def _explain(error: Exception, url: str, terms: str) -> str:
    import httpx2

    host = urlsplit(url).netloc
    if isinstance(error, httpx2.RequestError) and error._request is not None:
        host = error.request.url.netloc.decode()
    if isinstance(error, httpx2.HTTPStatusError):
        return _explain_status(error.response, terms)
    if isinstance(error, httpx2.ProxyError):
        return (
            f"the proxy refused the way to {host} ({error}). Correct HTTPS_PROXY, or "
            "add the host to NO_PROXY."
        )
    if isinstance(error, httpx2.TimeoutException):
        return (
            f"{host} did not answer in time. Try again; VITRAL_TIMEOUT=60 waits 60 s, "
            "and HF_ENDPOINT names a mirror of the hub."
        )
    if is_certificate_fault(error):
        return (
            f"the certificate of {host} is not trusted here ({_reason(error)}). Behind "
            "a company's proxy, name its certificate file in SSL_CERT_FILE."
        )
    if is_unknown_host(error):
        return (
            f"the name {host} is not known here ({_reason(error)}). Check the network; "
            "on a machine without one, fetch elsewhere and copy the folder here."
        )
    if isinstance(error, httpx2.ConnectError):
        return (
            f"there is no way to {host} ({_reason(error)}). Check the network and "
            "HTTPS_PROXY; on a machine without one, fetch elsewhere and copy the "
            "folder here."
        )
    if isinstance(error, WrongContentError):
        return (
            f"{host}: {error}. Check HF_ENDPOINT and the proxy, and try again; what is "
            "here is kept."
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return (
            "the disk is full. Free some space, or set VITRAL_CACHE to a folder on "
            "another disk; what is here is kept."
        )
    if isinstance(error, OSError):
        return f"{error}. Set VITRAL_CACHE to a folder that can be written."
    if isinstance(error, httpx2.TooManyRedirects | httpx2.UnsupportedProtocol):
        return (
            f"{host} sends on to an address that is none ({error}). Check HF_ENDPOINT."
        )
    return (
        f"the connection to {host} was cut ({_reason(error)}). Run the same command "
        "again: it goes on from the bytes that are here."
    )


def _explain_status(response: "httpx2.Response", terms: str) -> str:
    status, host = response.status_code, response.request.url.netloc.decode()
    said = " ".join(response.headers.get("X-Error-Message", "").split())[:200]
    if response.headers.get("X-Error-Code") == "RepoNotFound":
        return (
            f"{host} has no such repository, or it is private ({status}: {said}). "
            "Check the name; a private repository needs HF_TOKEN."
        )
    if status in (401, 403):
        page = terms or "the page of the weights"
        answer = f"{status}: {said}" if said else str(status)
        return (
            f"{host} refuses access ({answer}). Ask for it at {page}, and set HF_TOKEN "
            "to a token of the account that has it."
        )
    if status == 404:
        return (
            f"{host} has no such file, repository or revision ({status}: "
            f"{response.request.url.path}). Check the name; a private repository needs "
            "HF_TOKEN."
        )
    if status == 429:
        return (
            f"{host} had too many requests from here ({status}). Wait some minutes, or "
            "set HF_TOKEN: users with an account have a larger share."
        )
    if status in BUSY:
        return (
            f"{host} cannot answer now ({status}), after several attempts. Try again "
            "later; HF_ENDPOINT names a mirror of the hub."
        )
    return f"{host} answers {status}. Check the address {response.request.url}."


def is_certificate_fault(error: BaseException) -> bool:
    """Return whether the certificate of the server was refused."""
    return any(isinstance(it, ssl.SSLCertVerificationError) for it in _chain(error))


def is_unknown_host(error: BaseException) -> bool:
    """Return whether no address was found for the host's name."""
    return any(isinstance(it, socket.gaierror) for it in _chain(error))


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in found:
        found.append(at)
        at = at.__cause__ or at.__context__
    return found


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
