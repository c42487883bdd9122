"""Fuzz what strangers send: mutated files, each read as the product reads it.

    OMP_NUM_THREADS=1 python benchmarks/fuzz.py all --tries 10000 --seed 0

Every try makes one input from (seed, kind, number) and reads it. It must be read, or
refused by an error with an exit code or a status of its own. Anything else, more than
10 s and more than 1.5 GB are failures; each is printed with the command that repeats
it, and the exit code is then 1.
"""

import argparse
import asyncio
import collections
import copy
import faulthandler
import io
import json
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import vitral as vt
import vitral.data
import vitral.weights
from vitral.data import Preprocess
from vitral.data.images import decode
from vitral.data.images.formats import FORMATS, register_formats
from vitral.data.video import open_clip
from vitral.errors import VitralError
from vitral.serve.errors import HTTPError
from vitral.serve.http.limits import media_type, require_image
from vitral.serve.http.multipart import extract_image

MAX_SECONDS = 10.0
MAX_GROWTH = 0.9e9
"""Bytes above those of the program itself, which takes 0.6 GB: 1.5 GB in all."""
HOSTILE_NUMBERS = (0, 1, -1, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)
HOSTILE_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 10**12, 10**400, 1e-300, 1e300, -0.5),
    *(float("nan"), float("inf"), "", "vit", "\ud800", "\x1b[31m", "9" * 5000),
    *([], [1, 2], [[]], {}, {"a": {}}, ["a"] * 5, [None], "../../etc/passwd"),
)
HOSTILE_CELLS = (
    *(
        "",
        " ",
        "nan",
        "NaN",
        "-1",
        "1e400",
        "=1+1",
        '"',
        '""',
        "\0",
        "\ud800",
        "a" * 5000,
    ),
    *("9" * 5000, ";", ";;", "\\;", "é", "e\u0301", "../x", "/etc/passwd", "C:\\x.png"),
    *("\x1b[2J", "train", "[" * 3000, "{}", "\u202e", "0.png#t=0,1", "None"),
)


@dataclass
class Tally:
    """Outcomes of one kind of input."""

    kind: str
    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    failures: list[str] = field(default_factory=list)
    longest: float = 0.0
    """Seconds of the slowest input."""
    growth: float = 0.0
    """Bytes above those before the first input."""


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """Change a file in one to eight ways, most of them near its start."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 9))):
        if not data:
            break
        end = len(data) if rng.random() < 0.4 else min(len(data), 256)
        at, length = int(rng.integers(end)), int(rng.integers(1, 64))
        match int(rng.integers(7)):
            case 0:
                data[at] ^= 1 << int(rng.integers(8))
            case 1:
                data[at] = int(rng.integers(256))
            case 2:
                value = int(rng.choice(HOSTILE_NUMBERS)) % 2**32
                order = "little" if rng.random() < 0.5 else "big"
                data[at : at + 4] = value.to_bytes(4, order)  # type: ignore[arg-type]
            case 3:
                del data[at:]
            case 4:
                data[at:at] = data[at : at + length] * int(rng.integers(1, 50))
            case 5:
                del data[at : at + length]
            case 6:
                data[at : at + length] = rng.bytes(length)
    return bytes(data)


def make_images() -> list[bytes]:
    """Return small files of every format and of the modes that it keeps."""
    register_formats()
    rng = np.random.default_rng(0)
    pixels = Image.fromarray(rng.integers(0, 256, (40, 60, 3)).astype(np.uint8))
    deep = Image.fromarray(rng.integers(0, 65536, (40, 60)).astype(np.uint16))
    files = []
    for name in FORMATS:
        for image in (pixels, pixels.convert("L"), pixels.convert("RGBA"), deep):
            for extra in ({}, {"progressive": True}, {"save_all": True}):
                if "save_all" in extra:
                    extra = {**extra, "append_images": [image, image]}
                buffer = io.BytesIO()
                try:
                    image.save(buffer, name, **extra)
                except (OSError, ValueError, TypeError, KeyError):
                    continue  # this format has no such mode
                files.append(buffer.getvalue())
    return files


def make_clip(rng: np.random.Generator) -> bytes:
    """Return an .npz whose members have mutated headers, or mutated bytes."""
    frames = np.zeros((4, 6, 8, 3), np.uint8)
    members = {"frames": frames, "times": np.arange(4.0), "fps": np.array(5.0)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in members.items():
            content = io.BytesIO()
            np.save(content, array)
            data = content.getvalue()
            if rng.random() < 0.6:
                data = mutate(data, rng)
            archive.writestr(f"{name}.npy", data)
    content = buffer.getvalue()
    return mutate(content, rng) if rng.random() < 0.3 else content


def make_config(config: dict[str, Any], rng: np.random.Generator) -> str:
    """Return JSON with one to three values replaced, removed, nested or added."""
    made = json.loads(json.dumps(config))
    for _ in range(int(rng.integers(1, 4))):
        owner: Any = made
        while True:
            keys = list(owner) if isinstance(owner, dict) else list(range(len(owner)))
            if not keys:
                break
            key = keys[int(rng.integers(len(keys)))]
            inner = owner[key]
            if isinstance(inner, dict | list) and inner and rng.random() < 0.8:
                owner = inner
                continue
            match int(rng.integers(4)):
                case 0 | 1:
                    value = HOSTILE_VALUES[int(rng.integers(len(HOSTILE_VALUES)))]
                    # A later change must not reach the next input.
                    owner[key] = copy.deepcopy(value)
                case 2:
                    del owner[key]
                case 3:
                    owner[key] = [inner] if rng.random() < 0.5 else {"value": inner}
            break
    text = json.dumps(made)
    if rng.random() < 0.1:
        return mutate(text.encode(), rng).decode("utf-8", "replace")
    if rng.random() < 0.05:
        deep = int(rng.integers(10, 200_000))
        return text.replace(":", ":" + "[" * deep, 1)
    return text


def make_table(rng: np.random.Generator) -> tuple[str, bytes]:
    """Return name and content of a table with hostile cells, columns or bytes."""
    columns = ["path", "label", "split", "group", "weight", "start", "file_name"]
    used = ["path", "label", *rng.choice(columns, int(rng.integers(0, 3))).tolist()]
    rows = []
    for index in range(int(rng.integers(1, 12))):
        row = {"path": f"{index % 6}.png", "label": f"c{index % 3}"}
        for name in used:
            if rng.random() < 0.15:
                row[name] = HOSTILE_CELLS[int(rng.integers(len(HOSTILE_CELLS)))]
        rows.append(row)
    if rng.random() < 0.5:
        values: list[dict[str, Any]] = [dict(row) for row in rows]
        for value in values:
            if rng.random() < 0.1:
                key = str(rng.choice(used))
                value[key] = HOSTILE_VALUES[int(rng.integers(len(HOSTILE_VALUES)))]
        text, name = "\n".join(json.dumps(value) for value in values), "labels.jsonl"
    else:
        lines = [",".join(row.get(name, "") for name in used) for row in rows]
        text, name = "\n".join([",".join(used), *lines]), "labels.csv"
    content = text.encode("utf-8", "surrogatepass")
    return name, mutate(content, rng) if rng.random() < 0.3 else content


def make_form(image: bytes, rng: np.random.Generator) -> tuple[bytes, bytes]:
    """Return content type and body of a form with an image."""
    boundary = b"limit"
    head = b'Content-Disposition: form-data; name="image"; filename="a.png"'
    body = b"--limit\r\n" + head + b"\r\n\r\n" + image + b"\r\n--limit--\r\n"
    kind = b"multipart/form-data; boundary=" + boundary
    if rng.random() < 0.3:
        kind = mutate(kind, rng)
    return kind, mutate(body, rng) if rng.random() < 0.9 else body


class Fuzz:
    """The kinds of input, and how each is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = make_images()
        for index in range(6):
            Image.new("RGB", (9, 9), (index * 40, 9, 9)).save(folder / f"{index}.png")
        model = vt.create("vit_mu16", num_classes=3)
        vt.save(folder / "model", model, Preprocess(), classes=("a", "b", "c"))
        self.config_file = folder / "model" / "config.json"
        self.config = json.loads(self.config_file.read_text("utf-8"))

    def image(self, rng: np.random.Generator) -> None:
        decode(mutate(self.images[int(rng.integers(len(self.images)))], rng))

    def clip(self, rng: np.random.Generator) -> None:
        file = self.folder / "clip.npz"
        file.write_bytes(make_clip(rng))
        clip = open_clip(file)
        clip.read([0])

    def config_json(self, rng: np.random.Generator) -> None:
        text = make_config(self.config, rng)
        self.config_file.write_text(text, "utf-8", errors="surrogatepass")
        vitral.weights.load(self.folder / "model")

    def table(self, rng: np.random.Generator) -> None:
        name, content = make_table(rng)
        file = self.folder / name
        file.write_bytes(content)
        try:
            vitral.data.open(str(file))
        finally:
            file.unlink()

    def form(self, rng: np.random.Generator) -> None:
        kind, body = make_form(self.images[0], rng)
        content_type = kind.decode("latin-1")
        headers = {"content-type": content_type, "content-length": str(len(body))}
        media_type(headers)
        image = asyncio.run(extract_image(body, content_type))
        require_image(image)
        decode(image)


KINDS = ("image", "clip", "config_json", "table", "form")


def run_kind(fuzz: Fuzz, kind: str, numbers: range, seed: int) -> Tally:
    """Read the inputs with these numbers; a process that hangs ends with its stack."""
    tally = Tally(kind)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = memory_bytes("VmRSS")
    read: Callable[[np.random.Generator], None] = getattr(fuzz, kind)
    for number in numbers:
        rng = np.random.default_rng([seed, KINDS.index(kind), number])
        repeat = f"python benchmarks/fuzz.py {kind} --seed {seed} --only {number}"
        faulthandler.dump_traceback_later(60, exit=True)
        started = time.monotonic()
        try:
            read(rng)
            outcome = "read"
        except (VitralError, HTTPError) as error:
            outcome = f"refused: {type(error).__name__}"
        except Exception as error:
            outcome = "failed"
            text = " ".join(str(error).split())[:200]
            tally.failures.append(f"{type(error).__name__}: {text}  {repeat}")
        took = time.monotonic() - started
        tally.longest = max(tally.longest, took)
        tally.outcomes[outcome] += 1
        if took > MAX_SECONDS:
            tally.failures.append(f"{took:.1f} s  {repeat}")
        growth = memory_bytes("VmHWM") - before
        tally.growth = max(tally.growth, growth)
        if growth > MAX_GROWTH:
            tally.failures.append(f"{growth / 1e9:.2f} GB more  {repeat}")
            break
    faulthandler.cancel_dump_traceback_later()
    return tally


def memory_bytes(name: str) -> float:
    """Return the bytes of this process, now (VmRSS) or at its peak (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024.0
    raise LookupError(name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=(*KINDS, "all"))
    parser.add_argument("--tries", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="number of one input to repeat")
    args = parser.parse_args()
    numbers = range(args.tries)
    if args.only is not None:
        numbers = range(args.only, args.only + 1)
    failed = False
    with tempfile.TemporaryDirectory() as name:
        fuzz = Fuzz(Path(name))
        for kind in KINDS if args.kind == "all" else (args.kind,):
            tally = run_kind(fuzz, kind, numbers, args.seed)
            counts = ", ".join(
                f"{n} {what}" for what, n in tally.outcomes.most_common()
            )
            print(
                f"{kind}: {counts}; longest {tally.longest:.2f} s; "
                f"at most {tally.growth / 1e9:.2f} GB more",
                flush=True,
            )
            for failure in tally.failures[:20]:
                print(f"  {failure}", flush=True)
            failed = failed or bool(tally.failures)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
