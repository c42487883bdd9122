"""A real server in a process of its own, and a client of plain sockets."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from helpers import TINY, randomise
from vitral.data import Preprocess
from vitral.models import ViT, ViTConfig
from vitral.weights import save

SOURCE = Path(__file__).parents[1] / "src"
ABUSE = Path(__file__).with_name("abuse.py")
CLASSES = tuple(f"kind {letter}" for letter in "abcdefg")
START_SECONDS = 240
"""A loaded machine takes long to import torch."""


def tiny_model(
    folder: Path, classes: tuple[str, ...] = CLASSES, seed: int = 0, **extra: Any
) -> Path:
    """A model folder: 48 x 80 pixels, every weight random."""
    model = ViT(ViTConfig(**{**TINY, "num_classes": len(classes)}))
    randomise(model, seed)
    preprocess = Preprocess(image_size=(48, 80), resize="crop", crop_fraction=0.875)
    kept = {"temperature": 1.7, **extra}
    save(folder, model.eval(), preprocess, classes=classes, extra=kept)
    return folder


def jpeg(number: int, *, kind: str = "JPEG") -> bytes:
    """An image that is another one for every number, of a size of its own."""
    rng = np.random.default_rng(number)
    height, width = (int(side) for side in rng.integers(20, 120, 2))
    coarse = rng.integers(0, 256, (3, 5, 3)).astype(np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    content = io.BytesIO()
    picture.save(content, kind)
    return content.getvalue()


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One connection."""

    def __init__(self, port: int, timeout: float = 60.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        # Without it a request in two writes waits for the answer to the first.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.rest = b""

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, content: bytes) -> None:
        self.socket.sendall(content)

    def read(self) -> Reply | None:
        """The next answer; None where the server closed first."""
        while b"\r\n\r\n" not in self.rest:
            if not self._more():
                return None
        head, self.rest = self.rest.split(b"\r\n\r\n", 1)
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.split(":", 1) for line in lines)
        headers = {name.lower(): value.strip() for name, value in pairs}
        length = int(headers.get("content-length", "0"))
        while len(self.rest) < length:
            if not self._more():
                return None
        body, self.rest = self.rest[:length], self.rest[length:]
        return Reply(int(first.split()[1]), headers, body)

    def ask(self, content: bytes) -> Reply | None:
        self.send(content)
        return self.read()

    def _more(self) -> bool:
        try:
            piece = self.socket.recv(65536)
        except ConnectionError:
            return False
        self.rest += piece
        return bool(piece)


def request(
    body: bytes = b"",
    path: str = "/predict",
    *,
    method: str = "POST",
    headers: dict[str, str] | None = None,
) -> bytes:
    """The bytes of a request; a header given as an empty text is left out."""
    every = {"host": "localhost", "content-type": "image/jpeg"}
    every |= {"content-length": str(len(body))} | (headers or {})
    lines = [f"{name}: {value}" for name, value in every.items() if value]
    head = "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""])
    return head.encode("latin-1") + body


def form(*parts: tuple[str, bytes], boundary: str = "xx-boundary") -> bytes:
    content = b""
    for name, value in parts:
        content += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; '
            f'filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
        ).encode() + value
        content += b"\r\n"
    return content + f"--{boundary}--\r\n".encode()


FORM = {"content-type": "multipart/form-data; boundary=xx-boundary"}


class Server:
    """`vitral serve` as a process."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    def ask(self, content: bytes) -> Reply:
        with Client(self.port) as client:
            reply = client.ask(content)
        assert reply is not None
        return reply

    def get(self, path: str, **headers: str) -> Reply:
        return self.ask(request(path=path, method="GET", headers=headers))

    def metric(self, name: str) -> float:
        text = self.get("/metrics").body.decode()
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.M)
        return float(found[1]) if found else 0.0

    def worker(self) -> int:
        """The number of the model process."""
        return self._named("vitral-model")[-1]

    def decoders(self) -> list[int]:
        """The numbers of the decoder processes."""
        return self._named("vitral-decoder")

    def _named(self, name: str) -> list[int]:
        found = children(children(self.process.pid)[0])
        # One that has just ended may not have been waited for.
        living = [pid for pid in found if _state(pid) not in ("Z", "X")]
        return [pid for pid in living if _name(pid) == name]

    def stop(self, number: int = signal.SIGTERM, seconds: float = 60) -> int:
        self.process.send_signal(number)
        return self.process.wait(seconds)


@contextmanager
def serving(
    run: Path, *flags: str, log: Path | None = None, packages: Path | None = None
) -> Iterator[Server]:
    """A server on a port that the system chose; its processes end with the block."""
    words = [sys.executable, "-m", "vitral", "serve", str(run), "--port", "0"]
    path = os.pathsep.join(map(str, filter(None, (SOURCE, packages))))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    with (log or Path(os.devnull)).open("w") as errors:
        process = subprocess.Popen(
            [*words, "--threads", "1", *flags],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        )
    assert process.stdout is not None
    # Reading its first line must not wait for ever.
    late = threading.Timer(START_SECONDS, process.kill)
    late.start()
    own: list[int] = []
    try:
        found = re.search(r":(\d+)$", process.stdout.readline().strip())
        late.cancel()
        assert found, f"it did not start: exit {process.wait(60)}"
        own = [*children(process.pid)]
        own += [pid for maker in own for pid in children(maker)]
        yield Server(process, int(found[1]))
    finally:
        late.cancel()
        process.kill()
        process.wait()
        process.stdout.close()
        # Those that it started see its end, but a test leaves nothing behind.
        for pid in own:
            with_end(pid)


def wait_for(holds: Callable[[], object], seconds: float = 90) -> None:
    """Until it holds; fails after `seconds`."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)


def with_end(pid: int) -> None:
    """Wait for a process that ends by itself, and end it if it does not."""
    until = time.monotonic() + 10
    while _state(pid) not in ("Z", "X", "") and time.monotonic() < until:
        time.sleep(0.02)
    if _state(pid) not in ("Z", "X", "") and b"vitral" in _command(pid):
        os.kill(pid, signal.SIGKILL)


def children(pid: int) -> list[int]:
    """Those that any thread of a process started."""
    found = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(word) for word in file.read_text().split()]
    return sorted(found)


def resident(pid: int) -> int:
    """Bytes of memory that belong to the process alone or that it wrote to."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    parts = re.findall(r"^Anonymous: +(\d+) kB", text, re.M)
    return 1024 * sum(map(int, parts))


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def logits_of_api(folder: Path, contents: list[bytes]) -> torch.Tensor:
    """What the Python API says, one image at a time."""
    from vitral.workflows import open_run

    run = open_run(folder)
    run.model.eval()
    with torch.no_grad():
        return torch.cat(
            [run.model(run.preprocess_input(one)[None]) for one in contents]
        )


def mutated(rng: np.random.Generator) -> bytes:
    """A request to /predict whose body, form or headers are broken in some way."""
    kinds = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"]
    content = jpeg(int(rng.integers(40)), kind=str(rng.choice(kinds)))
    way = int(rng.integers(4))
    if way == 0:
        return request(_broken(content, rng))
    if way == 1:
        parts = [("image", _broken(content, rng))] * int(rng.integers(1, 3))
        return request(form(*parts), headers=FORM)
    if way == 2:
        return request(_broken(form(("image", content)), rng), headers=FORM)
    text = json.dumps({"image": content[:200].hex(), "top": int(rng.integers(9))})
    kinds = ["application/json", "image/png", FORM["content-type"], "text/html", "a/b"]
    headers = {"content-type": str(rng.choice(kinds))}
    return request(_broken(text.encode(), rng), headers=headers)


def _broken(content: bytes, rng: np.random.Generator) -> bytes:
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        way, at = int(rng.integers(5)), int(rng.integers(max(1, len(data))))
        if way == 0:
            data[at : at + 1] = bytes([int(rng.integers(256))])
        elif way == 1:
            del data[at:]
        elif way == 2:
            data[at : at + int(rng.integers(40))] = b""
        elif way == 3:
            data[at:at] = rng.bytes(int(rng.integers(40)))
        else:
            # Header fields of most formats lie here: sizes, counts, offsets.
            place = int(rng.integers(min(64, max(1, len(data)))))
            data[place : place + 4] = rng.choice(
                [b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff", b"\x80\0\0\0"]
            )
    return bytes(data)


def probe(port: int, seconds: float) -> np.ndarray:
    """Milliseconds of the answers to a client that asks now and then."""
    content = request(jpeg(1))
    until = time.monotonic() + seconds
    took = []
    with Client(port) as client:
        while time.monotonic() < until or not took:
            started = time.monotonic()
            reply = client.ask(content)
            took.append(time.monotonic() - started)
            assert reply is not None
            assert reply.status == 200, reply
            time.sleep(0.005)
    return 1000 * np.array(took)


@contextmanager
def abused(port: int, kind: str, seconds: float) -> Iterator[None]:
    """The server is abused while the block runs, for so long; see abuse.py."""
    words = [str(port), kind, str(seconds), jpeg(1).hex()]
    with subprocess.Popen([sys.executable, str(ABUSE), *words]) as process:
        try:
            time.sleep(0.7)  # until its connections are made
            assert process.poll() is None
            yield
        finally:
            process.kill()


class Load:
    """Clients that ask one image after the other until they are refused."""

    def __init__(self, port: int, clients: int) -> None:
        self.port = port
        self.content = jpeg(1)
        self.sent: list[str] = []
        self.answered: dict[str, int] = {}
        self.refused: list[str] = []
        self.threads = [
            threading.Thread(target=self._ask, args=(number,), daemon=True)
            for number in range(clients)
        ]
        for thread in self.threads:
            thread.start()

    def _ask(self, client: int) -> None:
        number = 0
        while True:
            name = f"{client}-{number}"
            number += 1
            try:
                connection = Client(self.port)
            except OSError:
                self.refused.append(name)
                return
            with connection:
                headers = {"x-request-id": name}
                while True:
                    self.sent.append(name)
                    try:
                        reply = connection.ask(request(self.content, headers=headers))
                    except OSError:
                        reply = None
                    if reply is None:
                        return
                    assert reply.json["request_id"] == name
                    self.answered[name] = reply.status
                    if reply.status != 200:
                        return
                    if reply.headers.get("connection") == "close":
                        break
                    name = f"{client}-{number}"
                    number += 1
                    headers = {"x-request-id": name}

    def join(self) -> None:
        for thread in self.threads:
            thread.join(120)
            assert not thread.is_alive()

    @staticmethod
    def closed(port: int, clients: int, seconds: float) -> float:
        """Answers a second of clients that each wait for theirs."""
        until = time.monotonic() + seconds
        content = request(jpeg(1))

        def one(_: int) -> int:
            number = 0
            with Client(port) as client:
                while time.monotonic() < until:
                    reply = client.ask(content)
                    number += reply is not None and reply.status == 200
            return number

        started = time.monotonic()
        with ThreadPoolExecutor(clients) as pool:
            total = sum(pool.map(one, range(clients)))
        return total / (time.monotonic() - started)
