"""Jobs of the record that train, each in its own way.

A job is a function that gets a `Side` and leaves files in the folder of its own name.
It knows the command line and files, and nothing of the package's modules.
"""

import json
import signal
import time
from pathlib import Path

from record_side import SECONDS, JobError, Side, describe_failure

LENGTH = ("--steps", "12", "--batch-size", "12", "--warmup", "2", "--eval-every", "6")
LOG = ("--checkpoint-every", "6", "--log-every", "3")
PATCHES = ("--image-size", "24", "32")
TOKEN = ("class_token=true", "global_pool=token", "position=learned_1d")


def train_scratch(side: Side) -> None:
    side.run(
        *("train", "data/photos", "--out", "scratch", "--recipe", "small.scratch"),
        *("--model", "vit_mu8", "--set", "depth=2", *TOKEN, "drop_rate=0.1"),
        *(*PATCHES, *LENGTH, *LOG, "--workers", "2", "--lr", "0.003"),
        *("--rand-augment", "2", "--mixup", "0.2", "--cutmix", "0.5"),
        *("--random-erasing", "0.3", "--drop-path", "0.1", "--ema", "0.9"),
    )


def train_finetune(side: Side) -> None:
    side.run(
        *("train", "data/leaves", "--out", "finetune", "--weights", "scratch"),
        *("--recipe", "small.finetune", "--layer-decay", "0.7", "--lr", "0.003"),
        *(*LENGTH, *LOG, "--accumulate", "2", "--crop", "inception"),
        *("--set", "drop_rate=0", "patch_drop_rate=0.25", "--resolutions", "16", "24"),
        *("--repeats", "2", "--head-lr-scale", "3", "--val", "0.2"),
    )


def train_frozen(side: Side) -> None:
    side.run(
        *("train", "data/photos", "--out", "frozen", "--weights", "scratch"),
        *("--freeze", "1", "--cache", "--dihedral", "--views", "2", *LENGTH, *LOG),
        *("--optimizer", "sgd", "--lr", "0.05", "--eval-views", "flip"),
        *("--schedule", "step", "--precision", "fp32", "--seed", "4"),
    )


def train_labels(side: Side) -> None:
    side.run(
        *("train", "data/many/labels.csv", "--out", "labels", "--model", "vit_mu8"),
        *("--recipe", "small.scratch", "--set", "depth=2", "qk_norm=true", *PATCHES),
        *(*LENGTH, *LOG, "--optimizer", "adafactor", "--schedule", "rsqrt"),
        *("--timescale", "4", "--cooldown", "3", "--val", "0.2", "--policy", "auto"),
    )


def train_mae(side: Side) -> None:
    side.run(
        *("train", "data/photos", "--out", "mae", "--objective", "mae"),
        *("--model", "vit_mu8", "--set", "depth=2", *PATCHES, *LENGTH, *LOG),
        *("--decoder-dim", "24", "--decoder-depth", "1", "--decoder-heads", "3"),
    )


def train_masked(side: Side) -> None:
    side.run(
        *("train", "data/photos", "--out", "masked", "--objective", "masked_patch"),
        *("--model", "vit_mu8", "--set", "depth=2", *PATCHES, *LENGTH, *LOG),
    )


def train_distill(side: Side) -> None:
    side.run(
        *("train", "data/photos", "--out", "distill", "--objective", "distill"),
        *("--teacher", "scratch", "--kind", "soft", "--temperature", "2"),
        *("--model", "deit_ti16", "--set", *TOKEN[:2], "depth=2", "num_heads=3"),
        *("embed_dim=24", "mlp_dim=40", "patch_size=8", *PATCHES, *LENGTH, *LOG),
    )


def train_clips(side: Side) -> None:
    side.run(
        *("train", "data/clips", "--out", "clips", "--model", "timesformer_ti16"),
        *("--set", "embed_dim=24", "depth=2", "num_heads=3", "mlp_dim=40"),
        *("patch_size=8", "num_frames=4", "scheme=divided", "sampling.clips=2"),
        *("--image-size", "16", "16", *LENGTH, *LOG, "--batch-size", "6"),
    )


def train_tnt(side: Side) -> None:
    side.run(
        *("train", "data/photos", "--out", "tnt", "--model", "tnt_ti16"),
        *("--set", *TOKEN, "embed_dim=24", "depth=2", "num_heads=3", "mlp_dim=40"),
        *("patch_size=8", "inner_dim=12", "inner_num_heads=2", "inner_mlp_dim=20"),
        *(*PATCHES, *LENGTH, *LOG),
    )


def train_hybrid(side: Side) -> None:
    side.run(
        *("train", "data/photos", "--out", "hybrid", "--model", "r_vit_ti16"),
        *("--set", "stem_width=16", "num_groups=4", "embed_dim=24", "depth=2"),
        *("num_heads=3", "mlp_dim=40", "--image-size", "32", "64", *LENGTH, *LOG),
    )


def train_resnet(side: Side) -> None:
    side.run(
        *("train", "data/photos", "--out", "resnet", "--recipe", "bit.s"),
        *("--model", "bit_r26x1", "--set", "stem_width=16", "num_groups=4"),
        *("--image-size", "32", "48", *LENGTH, *LOG, "--lr", "0.03"),
    )


def train_ranks(side: Side) -> None:
    module = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    side.run(
        *("train", "data/photos", "--out", "ranks", "--recipe", "small.scratch"),
        *("--model", "vit_mu8", "--set", "depth=2", "drop_rate=0.1", *PATCHES),
        *(*LENGTH, *LOG, "--mixup", "0.2", "--accumulate", "2"),
        launcher=module,
    )


def train_again(side: Side) -> None:
    """Kill a run as soon as it has a checkpoint, and resume it."""
    words = (
        *("train", "data/photos", "--out", "resume", "--recipe", "small.scratch"),
        *("--model", "vit_mu8", "--set", "depth=3", "drop_rate=0.1", *PATCHES),
        *("--steps", "160", "--batch-size", "12", "--warmup", "2"),
        *("--eval-every", "40", "--checkpoint-every", "20", "--log-every", "10"),
    )
    run = side.folder / "resume"
    process = side.start(*words)
    deadline = time.monotonic() + SECONDS
    while not list(run.glob("checkpoints/*/manifest.json")):
        if process.poll() is not None or time.monotonic() > deadline:
            break
        time.sleep(0.01)
    process.kill()
    _, errors = process.communicate()
    if process.returncode != -signal.SIGKILL:
        raise JobError(describe_failure(words, process.returncode, errors))
    side.run(*words, "--resume")
    forget_notes(run)


def forget_notes(run: Path) -> None:
    """Leave out what tells at which step a run was killed."""
    (run / "log.txt").unlink()
    metrics = run / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)
    rest = [line for line in lines if json.loads(line)["event"] != "note"]
    metrics.write_text("".join(rest))


def train_students(side: Side) -> None:
    side.run(
        *("self-train", "data/photos", "data/more", "--out", "students"),
        *("--teacher", "scratch", "--rounds", "2", "--threshold", "0.34"),
        *("--ratio", "1", "--per-class", "5", "--recipe", "small.scratch"),
        *("--model", "vit_mu8", "--set", "depth=2", "drop_rate=0.1", *PATCHES),
        *("--steps", "8", "--batch-size", "12", "--warmup", "1", "--flip", "0.5"),
    )
