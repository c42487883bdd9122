"""Kill a rank of a two-rank run under torchrun, let torchrun restart it, compare.

    python benchmarks/rank_kills.py --trials 10 [--shard fsdp]

The command is `vitral train` on small photos. Each trial kills one rank at a random
step. The result must equal an uninterrupted run: every tensor of the last checkpoint
and of the model, and every line of metrics.jsonl except its timing fields.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parents[1]
sys.path[:0] = [str(HERE / "tests"), str(HERE / "src")]
STEPS = 30
SETTINGS = ["--model", "vit_mu16", "--image-size", "32", "48", "--set", "depth=2"]
SETTINGS += ["embed_dim=32", "mlp_dim=64", "num_heads=2", "drop_path_rate=0.2"]
SETTINGS += ["--batch-size", "12", "--accumulate", "2", "--ema", "0.9"]
SETTINGS += ["--mixup", "0.4", "--lr", "0.003", "--warmup", "5", "--device", "cpu"]
SETTINGS += ["--steps", str(STEPS), "--eval-every", "10", "--checkpoint-every", "5"]
SETTINGS += ["--log-every", "1"]


def start(photos: Path, out: Path, shard: str) -> subprocess.Popen[bytes]:
    argv = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    argv += ["--max-restarts", "3", "-m", "vitral", "train", str(photos)]
    argv += ["--out", str(out), *SETTINGS, "--shard", shard]
    with (out.parent / f"{out.name}.txt").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, *argv],
            env=os.environ | {"PYTHONPATH": str(HERE / "src"), "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def find_ranks(process: subprocess.Popen[bytes]) -> dict[int, int]:
    """Return the pids of torchrun's workers by rank."""
    pids_by_rank = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent != process.pid:
                continue
            variables = (folder / "environ").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue
        values = dict(variable.partition(b"=")[::2] for variable in variables)
        if b"RANK" in values:
            pids_by_rank[int(values[b"RANK"])] = int(folder.name)
    return pids_by_rank


def count_lines(out: Path) -> int:
    try:
        return (out / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def trial(photos: Path, out: Path, shard: str, generator: random.Random) -> str:
    """Kill one rank; return which, when, and how long the other took to stop."""
    process = start(photos, out, shard)
    step, rank = generator.randint(0, STEPS), generator.randrange(2)
    while count_lines(out) < step or len(find_ranks(process)) < 2:
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.002)
    time.sleep(generator.uniform(0, 0.05))
    pids = find_ranks(process)
    os.kill(pids[rank], signal.SIGKILL)
    killed = time.monotonic()
    while is_alive(pids[1 - rank]):
        time.sleep(0.01)
    stopped = time.monotonic() - killed
    try:
        process.wait(timeout=300)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        text = (out.parent / f"{out.name}.txt").read_text()
        return f"rank {rank} after {step} lines; it hangs: {text[-2000:]}"
    assert process.returncode == 0, (out.parent / f"{out.name}.txt").read_text()[-3000:]
    return f"rank {rank} after {step} lines; the other stopped in {stopped:.1f} s"


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:4]
    except OSError:
        return False


def find_difference(first: Path, second: Path) -> str:
    """Return the first difference between two runs; empty for none."""
    from vitral.training import TIMING_FIELDS
    from vitral.training.checkpointing import sharded

    logs = []
    for run in (first, second):
        records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        logs.append(
            [{k: v for k, v in r.items() if k not in TIMING_FIELDS} for r in records]
        )
    if logs[0] != logs[1]:
        return "metrics.jsonl"
    for name in ("model", f"checkpoints/step-{STEPS:08d}"):
        tensors = []
        for run in (first, second):
            folder = run / name
            if (folder / "shards").is_dir():
                groups = sharded.load(folder, None)
                tensors.append(
                    {f"{g}/{k}": t for g, ts in groups.items() for k, t in ts.items()}
                )
            else:
                tensors.append(load_tensors(folder))
        if tensors[0].keys() != tensors[1].keys():
            return f"names in {name}"
        for key, tensor in tensors[0].items():
            if not tensor.equal(tensors[1][key]):
                return f"{name}: {key}"
    return ""


def load_tensors(folder: Path) -> dict:
    from safetensors.torch import load_file

    return {
        f"{file.stem}/{key}": tensor
        for file in sorted(folder.glob("*.safetensors"))
        for key, tensor in load_file(file).items()
    }


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--shard", default="none")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    from photos import make_photos

    generator = random.Random(args.seed)
    equal = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        photos = make_photos(folder / "photos", per_class=10)
        unbroken = folder / "unbroken"
        code = start(photos, unbroken, args.shard).wait(timeout=300)
        assert code == 0, (folder / "unbroken.txt").read_text()
        for index in range(args.trials):
            out = folder / f"trial-{index}"
            outcome = trial(photos, out, args.shard, generator)
            difference = find_difference(unbroken, out)
            equal += not difference
            print(f"{index + 1}: {outcome}; {difference or 'bit-equal'}", flush=True)
    print(f"{equal} of {args.trials} bit-equal ({args.shard})")
    return 0 if equal == args.trials else 1


if __name__ == "__main__":
    raise SystemExit(main())
