"""100,000 small images in shards: start-up, memory, speed, waiting.

    PYTHONPATH=src python benchmarks/shards.py FOLDER [--number 100000]

Writes FOLDER/tar and FOLDER/parquet once (JPEGs of 40 x 56 pixels, ten shards), then
measures each in a process of its own. `--kind tar` measures one of them here.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

SHARDS = 10
CLASSES = 13
ROWS_A_GROUP = 100
"""What `datasets` writes for pictures."""


def jpeg(number: int) -> tuple[bytes, int]:
    """A picture whose colour tells its class."""
    label = number * 7 % CLASSES
    generator = np.random.default_rng(number)
    pixels = generator.integers(0, 90, (40, 56, 3)) + 12 * label
    out = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(out, "JPEG", quality=80)
    return out.getvalue(), label


def write_tar(file: Path, numbers: range) -> None:
    with tarfile.open(file, "w") as archive:
        for number in numbers:
            content, label = jpeg(number)
            for suffix, data in (("jpg", content), ("cls", str(label).encode())):
                info = tarfile.TarInfo(f"{number:07d}.{suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


def write_parquet(file: Path, numbers: range) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pairs = [jpeg(number) for number in numbers]
    pictures = [{"bytes": content, "path": None} for content, _ in pairs]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table(
        {
            "image": pa.array(pictures, kind),
            "label": pa.array([label for _, label in pairs], pa.int64()),
        }
    )
    pq.write_table(table, file, row_group_size=ROWS_A_GROUP)


def make(folder: Path, number: int) -> None:
    each = number // SHARDS
    for kind, write in (("tar", write_tar), ("parquet", write_parquet)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for shard in range(SHARDS):
            file = folder / kind / f"shard-{shard:03d}.{kind}"
            if not file.exists():
                partial = file.with_suffix(".part")
                write(partial, range(shard * each, (shard + 1) * each))
                partial.rename(file)


def resident() -> float:
    """Megabytes of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def started(folder: Path, cache: Path) -> dict[str, float]:
    """Seconds of each step from the folder to the first batch."""
    import vitral.data as data
    from vitral.workflows.dataset import MAX_FULL_AUDIT_IMAGES

    times: dict[str, float] = {}
    clock = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal clock
        times[name] = round(time.perf_counter() - clock, 2)
        clock = time.perf_counter()

    dataset = data.open(folder, root=cache)
    lap("open")
    full = len(dataset.examples) <= MAX_FULL_AUDIT_IMAGES
    dataset = data.check(dataset, workers=2, full=full).dataset
    lap("audit")
    dataset.counts()
    dataset.fingerprint()
    lap("counts, fingerprint")
    loader = loader_of(dataset, 0)
    next(loader.epoch(0))
    lap("first batch")
    return {**times, "all": round(sum(times.values()), 2)}


def loader_of(dataset, workers: int):  # type: ignore[no-untyped-def]
    import vitral.data as data

    return data.Loader(
        dataset=dataset,
        examples=dataset.select("train"),
        transform=data.EvalTransform(preprocess=data.Preprocess(image_size=(32, 48))),
        batch_size=128,
        shuffle=True,
        workers=workers,
        seed=5,
    )


def measure(folder: Path, cache: Path) -> dict[str, object]:
    import vitral.data as data

    found: dict[str, object] = {"kind": folder.name}
    found["cold"] = started(folder, cache)
    found["warm"] = started(folder, cache)
    print(json.dumps(found), flush=True)
    dataset = data.open(folder, root=cache)
    memory = []
    loader = loader_of(dataset, 0)
    for epoch in range(2):
        begun = time.perf_counter()
        for index, _ in loader.enumerate_batches(epoch):
            if index % 100 == 99:
                memory.append(resident())
        seconds = time.perf_counter() - begun
        found[f"images/s, epoch {epoch}"] = round(len(loader.examples) / seconds)
    half = len(memory) // 2
    found["MB at the end of epoch 0 and 1"] = [memory[half - 1], memory[-1]]
    found["MB at most in epoch 0 and 1"] = [max(memory[:half]), max(memory[half:])]
    for workers in (1, 2):
        loader = loader_of(dataset, workers)
        begun = time.perf_counter()
        number = sum(len(batch.id) for batch in loader.epoch(2))
        seconds = time.perf_counter() - begun
        found[f"images/s, {workers} worker(s)"] = round(number / seconds)
    return found


def waited(folder: Path, cache: Path, workers: int) -> list[float]:
    """Share of time that a training waits for data, in the second and third 20 steps,
    and images a second in the third."""
    import torch

    import vitral as vt
    import vitral.data as data
    from vitral.objectives import Supervised, SupervisedConfig
    from vitral.training import LoopConfig
    from vitral.training.fit import EpochBatches, FitSpec, fit

    loader = loader_of(data.open(folder, root=cache), workers)
    classes = len(loader.dataset.classes)
    model = vt.create("vit_ti8", image_size=(32, 48), num_classes=classes)
    out = cache / f"run-{folder.name}-{workers}"
    out.mkdir()
    fit(
        Supervised(model, SupervisedConfig()),
        torch.optim.AdamW(model.parameters()),
        EpochBatches(epoch=loader.epoch, per_epoch=len(loader)),
        FitSpec(
            loop=LoopConfig(steps=60, log_every=20),
            lr=lambda step: 1e-4,
            folder=out,
            seed=0,
        ),
        device=torch.device("cpu"),
    )
    lines = (out / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines if '"train"' in line]
    return [*(step["data_wait"] for step in steps[1:]), steps[2]["images_per_second"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--number", type=int, default=100_000)
    parser.add_argument("--kind", choices=("tar", "parquet"))
    parser.add_argument("--waiting", action="store_true")
    known = parser.parse_args()
    if known.kind:
        import torch

        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as cache:
            folder = known.folder / known.kind
            if known.waiting:
                found = {n: waited(folder, Path(cache), n) for n in (0, 1, 2)}
                print(json.dumps({"kind": known.kind, "workers: waiting": found}))
            else:
                print(json.dumps(measure(folder, Path(cache))))
        return
    make(known.folder, known.number)
    for kind in ("tar", "parquet"):
        words = [sys.executable, __file__, str(known.folder), "--kind", kind]
        subprocess.run(words, check=True)
        subprocess.run([*words, "--waiting"], check=True)


if __name__ == "__main__":
    main()
