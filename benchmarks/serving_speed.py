"""Compare the answers a second of two versions of the server, interleaved.

    python benchmarks/serving_speed.py OTHER/src   # about 3 minutes

Eight clients send photos of 640 x 480 to a ViT-S/16 at 224, and small ones to a tiny
model, whose server does little but decode. Prints the median of the ratios, this
version to the other.
"""

import argparse
import io
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

HERE = Path(__file__).parents[1]
sys.path[:0] = [str(HERE), str(HERE / "tests"), str(HERE / "src")]

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

import server_process  # noqa: E402
from vitral import create, save  # noqa: E402
from vitral.data import Preprocess  # noqa: E402

CLIENTS = 8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("other", type=Path, help="`src` of the other version")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4.0, help="of one measurement")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "vit_s16"
        save(small, create("vit_s16", num_classes=10).eval(), Preprocess())
        tiny = server_process.tiny_model(Path(folder) / "tiny")
        sources = (HERE / "src", args.other.resolve())
        for run, content in ((small, _photo()), (tiny, server_process.jpeg(1))):
            with ExitStack() as stack:
                ports = []
                for source in sources:
                    server_process.SOURCE = source
                    server = stack.enter_context(server_process.serving(run))
                    ports.append(server.port)
                _compare(run.name, ports, content, args.rounds, args.seconds)
    return 0


def _compare(
    name: str, ports: list[int], content: bytes, rounds: int, seconds: float
) -> None:
    rates = []
    for turn in range(rounds + 1):
        # In turn the first and the second, since the machine drifts.
        order = ports[:: 1 if turn % 2 else -1]
        found = {port: _rate(port, content, seconds) for port in order}
        rates.append([found[port] for port in ports])
    ratios = [this / other for this, other in rates[1:]]  # the first warms up
    this, other = (statistics.median(column) for column in zip(*rates[1:], strict=True))
    print(
        f"{name}: {this:.1f} and {other:.1f} images a second, ratio "
        f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})",
        flush=True,
    )


def _rate(port: int, content: bytes, seconds: float) -> float:
    """Return the answers a second of clients that each wait for theirs."""
    until = time.monotonic() + seconds
    asked = server_process.request(content)

    def ask(_: int) -> int:
        number = 0
        with server_process.Client(port) as client:
            while time.monotonic() < until:
                reply = client.ask(asked)
                if reply is None or reply.status != 200:
                    raise SystemExit(f"not answered: {reply}")
                number += 1
        return number

    started = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        total = sum(pool.map(ask, range(CLIENTS)))
    return total / (time.monotonic() - started)


def _photo() -> bytes:
    coarse = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC).save(
        content, "JPEG"
    )
    return content.getvalue()


if __name__ == "__main__":
    sys.exit(main())
