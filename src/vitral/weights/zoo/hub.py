"""The Hugging Face hub or a mirror of it: what a file is, before its bytes are asked.

The hub answers a HEAD request with the commit, the size and the checksum, and sends on
to the place of the bytes. Documentation: huggingface_hub, "download files".
"""

import contextlib
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vitral.errors import WeightsError
from vitral.weights.zoo.causes import failure_of
from vitral.weights.zoo.download import RemoteFile
from vitral.weights.zoo.retry import retry

if TYPE_CHECKING:
    import httpx2

ENDPOINT = "https://huggingface.co"
LIMIT = 100_000_000_000
REDIRECTS = 5


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository at one commit."""

    remote: RemoteFile
    commit: str
    """All 40 digits; empty where a mirror does not say."""


def endpoint() -> str:
    """Return the address of the hub, or of the mirror that HF_ENDPOINT names."""
    return (os.environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")


def find_file(
    client: "httpx2.Client", repository: str, revision: str, name: str
) -> HubFile | None:
    """Ask the hub about a file; None where the repository has no such file.

    Raises:
        WeightsError: the hub cannot be asked, or refuses access.
    """
    url = f"{endpoint()}/{repository}/resolve/{revision or 'main'}/{name}"
    label, terms = f"{repository}/{name}", f"{endpoint()}/{repository}"
    headers = authorization()
    try:
        response = retry(lambda: _ask(client, url, headers), label)
    except Exception as error:
        raise failure_of(error, url, label, terms) from error
    if response.status_code == 404:
        return None
    commit = response.headers.get("X-Repo-Commit", "")
    if commit and not re.fullmatch("[0-9a-f]{40}", commit):
        raise WeightsError(
            f"{url}: the commit {commit[:80]!r} is none. Check HF_ENDPOINT."
        )
    if commit:  # the bytes of this commit, whatever the branch names by then
        url = f"{endpoint()}/{repository}/resolve/{commit}/{name}"
    size = response.headers.get("X-Linked-Size", "")
    if not size and not response.is_redirect:
        size = response.headers.get("Content-Length", "")
    remote = RemoteFile(
        url=url,
        label=label,
        size=int(size) if size.isdigit() else 0,
        limit=LIMIT,
        checksum=_checksum_of(response),
        headers=headers,
        terms=terms,
    )
    return HubFile(remote, commit)


def is_reachable(client: "httpx2.Client", repository: str, seconds: float) -> bool:
    """Return whether the hub answers for a repository, within so many seconds.

    A thread asks: looking a name up has no limit of its own.
    """
    import httpx2

    url, answers = f"{endpoint()}/{repository}", []

    def ask() -> None:
        with contextlib.suppress(httpx2.HTTPError, httpx2.InvalidURL, RuntimeError):
            answer = client.head(url, headers=authorization())
            answers.append(answer.is_success)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answers == [True]


def authorization() -> dict[str, str]:
    """Return the header with the user's token, from HF_TOKEN or the stored one."""
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
        file = Path(os.environ.get("HF_TOKEN_PATH") or f"{home}/token").expanduser()
        token = file.read_text(encoding="utf-8").strip() if file.is_file() else ""
    if not token or not token.isprintable() or " " in token:
        return {}
    return {"Authorization": f"Bearer {token}"}


def _ask(
    client: "httpx2.Client", url: str, headers: dict[str, str]
) -> "httpx2.Response":
    """Ask for the headers of a file, and follow the hub on its own host alone.

    The way to the bytes leads elsewhere; the commit and the checksum stand before it.
    """
    import httpx2

    at = httpx2.URL(url)
    asked = {"Accept-Encoding": "identity", **headers}
    for _ in range(REDIRECTS):
        response = client.request("HEAD", at, headers=asked, follow_redirects=False)
        if response.is_error and response.status_code != 404:
            response.raise_for_status()
        if not response.is_redirect or "X-Linked-Etag" in response.headers:
            return response
        following = at.join(response.headers.get("Location", ""))
        if following.host != at.host or following == at:
            return response
        at = following
    return response


def _checksum_of(response: "httpx2.Response") -> str:
    """Return the checksum in an ETag: SHA-256 of large files, git's hash of others."""
    headers = response.headers
    etag = headers.get("X-Linked-Etag", "") or headers.get("ETag", "")
    etag = etag.removeprefix("W/").strip('"').lower()
    if re.fullmatch("[0-9a-f]{64}", etag):
        return f"sha256:{etag}"
    if re.fullmatch("[0-9a-f]{40}", etag):
        return f"git:{etag}"
    return ""
