"""A hub in a thread, with repositories in memory and the faults of real networks."""

import contextlib
import hashlib
import http.server
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PAGE = b"<html><body>Sign in to the network</body></html>"
FAULTS = (
    "cut",
    "stall",
    "promise more",
    "promise less",
    "page",
    "ignore range",
    "wrong bytes",
    "other range",
    "dead end",
    "401",
    "403",
    "404",
    "408",
    "429",
    "500",
    "503",
)
"""What a server may do to one request; `ok` is the answer without a fault."""


@dataclass
class Hub:
    """Files by `owner/name/file`; each request takes the next of `faults`."""

    files: dict[str, bytes]
    faults: list[str] = field(default_factory=list)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    """Method, path and range of each request so far."""
    headers: list[dict[str, str]] = field(default_factory=list)
    at: float = 0.5
    """Share of the bytes after which a connection is cut or stalls."""
    gated: bool = False
    url: str = ""
    released: threading.Event = field(default_factory=threading.Event)

    def gets(self) -> list[tuple[str, str]]:
        return [(path, part) for method, path, part in self.requests if method == "GET"]


@contextlib.contextmanager
def run_hub(files: dict[str, bytes], **settings: object) -> Iterator[Hub]:
    hub = Hub(files, **settings)  # type: ignore[arg-type]

    class Handler(_Handler):
        state = hub

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        hub.released.set()
        server.shutdown()
        server.server_close()


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Hub

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, part = self.state, self.headers.get("Range", "")
        hub.requests.append((self.command, self.path, part))
        hub.headers.append(dict(self.headers))
        name = re.sub(r"/resolve/[^/]+/", "/", self.path).strip("/")
        if self.command == "HEAD" and name.count("/") == 1:
            found = any(it.startswith(f"{name}/") for it in hub.files)
            self._empty(200 if found else 404)
            return
        fault = hub.faults.pop(0) if hub.faults and self.command == "GET" else "ok"
        if hub.gated and "Authorization" not in self.headers:
            why = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is gated."}
            self._empty(401, why)
        elif name not in hub.files:
            self._empty(404)
        elif fault.isdigit():
            retry = {"Retry-After": "0"} if fault in ("429", "503") else {}
            self._empty(int(fault), retry)
        elif fault == "dead end":
            self._empty(302, {"Location": f"http://127.0.0.1:{closed_port()}/x"})
        elif fault == "page":
            self._send(PAGE, {"Content-Type": "text/html; charset=utf-8"})
        else:
            self._send_file(hub.files[name], part, fault)

    def _send_file(self, content: bytes, part: str, fault: str) -> None:
        digest = hashlib.sha256(content).hexdigest()
        headers = {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT}
        if fault == "wrong bytes":
            content = bytes(len(content))
        start, status = 0, 200
        fits = self.headers.get("If-Range", f'"{digest}"') == f'"{digest}"'
        if part and fits and fault != "ignore range":
            start, status = int(part.removeprefix("bytes=").rstrip("-")), 206
            if start >= len(content):
                self._empty(416)
                return
            first = 0 if fault == "other range" else start
            headers["Content-Range"] = (
                f"bytes {first}-{len(content) - 1}/{len(content)}"
            )
        body = content[start:]
        promised = len(body)
        if fault == "promise more":
            promised += 1000
        if fault == "promise less":
            body = body[: len(body) // 2]
            promised = len(body)
        self._send(body, headers, status, promised, fault)

    def _send(
        self,
        body: bytes,
        headers: dict[str, str],
        status: int = 200,
        promised: int | None = None,
        fault: str = "",
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header(
            "Content-Length", str(len(body) if promised is None else promised)
        )
        self.end_headers()
        if self.command == "HEAD":
            return
        with contextlib.suppress(OSError):
            if fault in ("cut", "stall"):
                self.wfile.write(body[: int(len(body) * self.state.at)])
                self.wfile.flush()
            if fault == "stall":
                self.state.released.wait(5)
            if fault in ("cut", "stall"):
                self.connection.shutdown(socket.SHUT_RDWR)
            else:
                self.wfile.write(body)
        self.close_connection = fault not in ("", "ok")

    def _empty(self, status: int, headers: dict[str, str] | None = None) -> None:
        self._send(b"", headers or {}, status)


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
