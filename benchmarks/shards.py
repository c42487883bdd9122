"""Loading 100,000 small images from shards: start-up, memory, speed, waiting.

    PYTHONPATH=src python benchmarks/shards.py FOLDER [--number 100000]

Writes FOLDER/tar and FOLDER/parquet once (JPEGs of 40 x 56 pixels, ten shards), then
measures each in its own process. `--kind tar` measures one in this process.
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
"""Row group size that `datasets` writes for images."""


def jpeg(number: int) -> tuple[bytes, int]:
    """Return an image whose color encodes its class, and the class."""
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
    images = [{"bytes": content, "path": None} for content, _ in pairs]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table(
        {
            "image": pa.array(images, kind),
            "label": pa.array([label for _, label in pairs], pa.int64()),
        }
    )
    pq.write_table(table, file, row_group_size=ROWS_A_GROUP)


def make(folder: Path, number: int) -> None:
    per_shard = number // SHARDS
    for kind, write in (("tar", write_tar), ("parquet", write_parquet)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for shard in range(SHARDS):
            file = folder / kind / f"shard-{shard:03d}.{kind}"
            if not file.exists():
                partial = file.with_suffix(".part")
                write(partial, range(shard * per_shard, (shard + 1) * per_shard))
                partial.rename(file)


def resident() -> float:
    """Return the resident megabytes of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def time_start(folder: Path, cache: Path) -> dict[str, float]:
    """Time each step from the folder to the first batch."""
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
    loader = make_loader(dataset, 0)
    next(loader.epoch(0))
    lap("first batch")
    return {**times, "all": round(sum(times.values()), 2)}


def make_loader(dataset, workers: int):  # type: ignore[no-untyped-def]
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

    results: dict[str, object] = {"kind": folder.name}
    results["cold"] = time_start(folder, cache)
    results["warm"] = time_start(folder, cache)
    print(json.dumps(results), flush=True)
    dataset = data.open(folder, root=cache)
    memory = []
    loader = make_loader(dataset, 0)
    for epoch in range(2):
        started = time.perf_counter()
        for index, _ in loader.enumerate_batches(epoch):
            if index % 100 == 99:
                memory.append(resident())
        seconds = time.perf_counter() - started
        results[f"images/s, epoch {epoch}"] = round(len(loader.examples) / seconds)
    half = len(memory) // 2
    results["MB at the end of epoch 0 and 1"] = [memory[half - 1], memory[-1]]
    results["MB at most in epoch 0 and 1"] = [max(memory[:half]), max(memory[half:])]
    for workers in (1, 2):
        loader = make_loader(dataset, workers)
        started = time.perf_counter()
        number = sum(len(batch.id) for batch in loader.epoch(2))
        seconds = time.perf_counter() - started
        results[f"images/s, {workers} worker(s)"] = round(number / seconds)
    return results


def measure_waiting(folder: Path, cache: Path, workers: int) -> list[float]:
    """Return the fraction of time that a training waits for data, in the second and
    third 20 steps, and images per second in the third."""
    import torch

    import vitral as vt
    import vitral.data as data
    from vitral.tasks.classification import Supervised, SupervisedConfig
    from vitral.training import LoopConfig
    from vitral.training.fit import EpochBatches, FitSpec, fit

    loader = make_loader(data.open(folder, root=cache), workers)
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
    args = parser.parse_args()
    if args.kind:
        import torch

        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as cache:
            folder = args.folder / args.kind
            if args.waiting:
                results = {
                    n: measure_waiting(folder, Path(cache), n) for n in (0, 1, 2)
                }
                print(json.dumps({"kind": args.kind, "workers: waiting": results}))
            else:
                print(json.dumps(measure(folder, Path(cache))))
        return
    make(args.folder, args.number)
    for kind in ("tar", "parquet"):
        argv = [sys.executable, __file__, str(args.folder), "--kind", kind]
        subprocess.run(argv, check=True)
        subprocess.run([*argv, "--waiting"], check=True)


if __name__ == "__main__":
    main()
