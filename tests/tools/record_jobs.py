"""The jobs of the record: commands of the package in a folder of their own.

A job is a function that gets a `Side` and leaves files in the folder of its own name
(or takes the pairs of files and answers apart itself). Jobs know the command line and
files, and nothing of the package's modules.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

PACKAGE = "vitral"
SECONDS = 600
"""After which a command counts as hung."""


class JobError(Exception):
    """A command that did not end as it should; the text says which and how."""


@dataclass
class Side:
    """One state of the source, and the folder that its commands run in."""

    name: str
    source: Path
    folder: Path
    words: dict[str, str] = field(default_factory=dict)
    """What this side calls a setting that the jobs call otherwise."""

    def environment(self) -> dict[str, str]:
        own = {
            "PYTHONPATH": str(self.source),
            "PYTHONSAFEPATH": "1",
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "MPLCONFIGDIR": str(self.folder.parent / "matplotlib"),
            "CUDA_VISIBLE_DEVICES": "",
            "HF_HUB_OFFLINE": "1",
        }
        return os.environ | own

    def spell(self, word: str) -> str:
        """A word of a command as this side writes it: --some-flag or field=value."""
        if word.startswith("--"):
            name = word[2:].replace("-", "_")
            return (
                f"--{self.words[name].replace('_', '-')}"
                if name in self.words
                else word
            )
        name, equal, value = word.partition("=")
        return f"{self.words.get(name, name)}={value}" if equal else word

    def start(self, *words: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen:
        command = [sys.executable, *launcher, "-m", PACKAGE]
        return subprocess.Popen(
            [*command, *map(self.spell, words)],
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        *words: str,
        code: int = 0,
        keep: str = "",
        launcher: tuple[str, ...] = (),
    ) -> None:
        """Run a command to its end; `keep` names a file for what it prints."""
        process = self.start(*words, launcher=launcher)
        try:
            said, errors = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            said, errors = process.communicate()
        if process.returncode != code:
            raise JobError(describe_failure(words, process.returncode, errors))
        if keep:
            self.write(keep, said)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace(str(self.folder), "."))


def describe_failure(words: tuple[str, ...], code: int | None, errors: str) -> str:
    last = "\n".join(f"    {line}" for line in errors.strip().splitlines()[-8:])
    return f"`{PACKAGE} {' '.join(words)}` ended with {code}:\n{last}"


LENGTH = ("--steps", "12", "--batch-size", "12", "--warmup", "2", "--eval-every", "6")
LOG = ("--checkpoint-every", "6", "--log-every", "3")
PATCHES = ("--image-size", "24", "32")
GEOMETRY = ("--grid", "3", "4", "--num-heads", "2")
"""What a file in some layouts cannot tell."""
TOKEN = ("class_token=true", "global_pool=token", "position=learned_1d")


# training


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
        *("patch_size=8", "num_frames=4", "sampling.clips=2"),
        *("--image-size", "16", "24", *LENGTH, *LOG, "--batch-size", "6"),
    )


def train_tnt(side: Side) -> None:
    side.run(
        *("train", "data/photos", "--out", "tnt", "--model", "tnt_ti16"),
        *("--set", "embed_dim=24", "depth=2", "num_heads=3", "mlp_dim=40"),
        *("patch_size=8", "inner_dim=10", "inner_num_heads=2", "inner_mlp_dim=14"),
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
    late = time.monotonic() + SECONDS
    while not list(run.glob("checkpoints/*/manifest.json")):
        if process.poll() is not None or time.monotonic() > late:
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
    kept = [line for line in lines if json.loads(line)["event"] != "note"]
    metrics.write_text("".join(kept))


def train_students(side: Side) -> None:
    side.run(
        *("self-train", "data/photos", "data/more", "--out", "students"),
        *("--teacher", "scratch", "--rounds", "2", "--threshold", "0.34"),
        *("--ratio", "1", "--per-class", "5", "--recipe", "small.scratch"),
        *("--model", "vit_mu8", "--set", "depth=2", "drop_rate=0.1", *PATCHES),
        *("--steps", "8", "--batch-size", "12", "--warmup", "1", "--flip", "0.5"),
    )


# what is asked of a run


def measure(side: Side) -> None:
    side.run("eval", "scratch", "--out", "eval/own", "--json", keep="eval/own.json")
    side.run("eval", "scratch", "data/photos", "--split", "train", "--out", "eval/more")
    side.run("eval", "labels", "--out", "eval/labels")
    side.run("eval", "clips", "--views", "1x1", "--out", "eval/clips")
    for protocol in ("knn", "fewshot"):
        words = ("--protocol", protocol, "--shots", "2", "5", "--k", "3")
        words = words if protocol == "fewshot" else (*words[:2], *words[-2:])
        side.run("eval", "mae", "data/photos", *words, "--out", f"eval/{protocol}")
    side.run("compare", "scratch", "distill", "--json", keep="eval/compare.json")


def predict(side: Side) -> None:
    for ending in ("csv", "jsonl", "parquet"):
        out = f"predict/answers.{ending}"
        side.run("predict", "scratch", "data/more", "--out", out, "--top", "2", code=3)
    words = ("data/more/green", "--format", "csv")
    side.run("predict", "labels", *words, keep="predict/labels.csv")
    words = ("data/clips/test/left", "--merge", "0")
    side.run("predict", "clips", *words, keep="predict/clips.jsonl")
    words = ("data/photos/test", "--merge", "2")
    side.run("predict", "scratch", *words, keep="predict/merged.jsonl")


def inspect(side: Side) -> None:
    pictures = [f"data/photos/test/{name}/0.png" for name in ("green", "red 2")]
    side.run("inspect", "scratch", *pictures, "--out", "inspect/all")
    words = (*pictures, "--what", "words", "--out", "inspect/words")
    side.run("inspect", "tnt", *words)
    clip = "data/clips/test/left/1.npz"
    words = ("--what", "relevance", "--out", "inspect/clips")
    side.run("inspect", "clips", clip, *words)


def report(side: Side) -> None:
    """Several runs in one page; a copy of the first gets it."""
    shutil.copytree(side.folder / "scratch", side.folder / "report" / "scratch")
    side.run("report", "report/scratch", "finetune", "distill")
    page = side.folder / "report" / "scratch" / "report.html"
    page.rename(side.folder / "report" / "report.html")
    shutil.rmtree(side.folder / "report" / "scratch")


def export(side: Side) -> None:
    (side.folder / "export").mkdir()
    pictures = ("predict", "export/scratch.onnx", "data/photos/test")
    side.run("export", "scratch", "export/scratch.onnx", "--to", "onnx")
    side.run(*pictures, keep="export/onnx.jsonl")
    words = ("--to", "openvino", "--int8", "--max-drop", "100")
    side.run("export", "finetune", "export/int8", *words)
    side.run("predict", "export/int8", "data/photos/test", keep="export/int8.jsonl")


def convert(side: Side) -> None:
    """From one layout into the next, and back."""
    (side.folder / "convert").mkdir()
    source = "scratch"
    for name in (
        "huggingface",
        "google.npz",
        "timm",
        "big_vision.npz",
        "native",
    ):
        layout, target = name.partition(".")[0], f"convert/{name}"
        words = GEOMETRY if "." in source else ()
        keep = f"convert/{layout}.txt"
        side.run("convert", source, target, "--to", layout, *words, keep=keep)
        source = target
    words = ("convert", "convert/google.npz", "--explain", *GEOMETRY)
    side.run(*words, keep="convert/explain.txt")
    side.run("convert", "tnt", "convert/tnt", "--to", "tnt")
    side.run("convert", "clips", "convert/clips", "--to", "timesformer")


def list_tables(side: Side) -> None:
    """Sizes of all models, the recipes, the audit and the split of a data set."""
    side.run("models", keep="tables/models.txt")
    side.run("train", "--recipe", keep="tables/recipes.txt")
    side.run("data", "check", "data/leaves", keep="tables/check.txt")
    words = (
        "--val",
        "0.2",
        "--test",
        "0.3",
        "--seed",
        "5",
        "--out",
        "tables/split.csv",
    )
    side.run("data", "split", "data/leaves", *words)


# the server


def serve(side: Side) -> None:
    """Answers to two pictures and one that is none, then what it says of itself."""
    process = side.start("serve", "scratch", "--port", "0", "--threads", "1")
    late = threading.Timer(SECONDS, process.kill)
    late.start()
    try:
        assert process.stdout is not None
        found = re.search(r"http://[^ ]+:\d+", process.stdout.readline())
        if found:
            ask_server(side, found[0])
    finally:
        process.terminate()
        _, errors = process.communicate()
        late.cancel()
    if not found or process.returncode:
        words = ("serve", "scratch")
        raise JobError(describe_failure(words, process.returncode, errors))


def ask_server(side: Side, address: str) -> None:
    test = side.folder / "data" / "photos" / "test"
    body, kind = make_form((test / "green" / "0.png").read_bytes())
    everything = f"{address}/predict?top=2&map=1&embedding=1&logits=1"
    requests = {
        "form": urllib.request.Request(f"{address}/predict", body, kind),
        "body": urllib.request.Request(
            everything,
            (test / "red 2" / "2.jpg").read_bytes(),
            {"Content-Type": "image/jpeg"},
        ),
        "broken": urllib.request.Request(
            f"{address}/predict", b"no picture", {"Content-Type": "image/png"}
        ),
        "model": urllib.request.Request(f"{address}/model"),
        "openapi": urllib.request.Request(f"{address}/openapi.json"),
    }
    for name, request in requests.items():
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                status, text = reply.status, reply.read()
        except urllib.error.HTTPError as refused:
            status, text = refused.code, refused.read()
        answer = {"status": status, "answer": json.loads(text)}
        side.write(f"serve/{name}-answer.json", json.dumps(answer))


def make_form(picture: bytes) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of a form with one picture."""
    line = "--between-the-parts"
    head = (
        f'{line}\r\nContent-Disposition: form-data; name="image"; '
        'filename="picture.png"\r\nContent-Type: image/png\r\n\r\n'
    )
    body = head.encode() + picture + f"\r\n{line}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={line[2:]}"}


class Job(NamedTuple):
    run: Callable[[Side], None]
    needs: tuple[str, ...] = ()


JOBS = {
    "scratch": Job(train_scratch),
    "finetune": Job(train_finetune, ("scratch",)),
    "frozen": Job(train_frozen, ("scratch",)),
    "labels": Job(train_labels),
    "mae": Job(train_mae),
    "masked": Job(train_masked),
    "distill": Job(train_distill, ("scratch",)),
    "students": Job(train_students, ("scratch",)),
    "clips": Job(train_clips),
    "tnt": Job(train_tnt),
    "hybrid": Job(train_hybrid),
    "resnet": Job(train_resnet),
    "ranks": Job(train_ranks),
    "resume": Job(train_again),
    "eval": Job(measure, ("scratch", "labels", "clips", "mae", "distill")),
    "predict": Job(predict, ("scratch", "labels", "clips")),
    "inspect": Job(inspect, ("scratch", "tnt", "clips")),
    "report": Job(report, ("scratch", "finetune", "distill")),
    "export": Job(export, ("scratch", "finetune")),
    "convert": Job(convert, ("scratch", "tnt", "clips")),
    "serve": Job(serve, ("scratch",)),
    "tables": Job(list_tables),
}
"""In an order in which each comes after those that it needs."""
