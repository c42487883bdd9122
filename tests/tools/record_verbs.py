"""Jobs of the record that ask something of runs: numbers, answers, maps, files.

As those that train, they know the command line and files alone.
"""

import json
import re
import shutil
import threading
import urllib.error
import urllib.request

from record_side import SECONDS, JobError, Side, describe_failure

GEOMETRY = ("--grid", "3", "4", "--num-heads", "2")
"""What a file in some layouts cannot tell."""


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
    side.run("convert", "tnt", "convert/tnt.safetensors", "--to", "tnt")
    target = "convert/clips.safetensors"
    side.run("convert", "clips", target, "--to", "timesformer")


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


def serve(side: Side) -> None:
    """Answers to two pictures and one that is none, then what it says of itself."""
    process = side.start("serve", "scratch", "--port", "0", "--threads", "1")
    clock = threading.Timer(SECONDS, process.kill)
    clock.start()
    address = None
    try:
        assert process.stdout is not None
        address = re.search(r"http://[^ ]+:\d+", process.stdout.readline())
        if address:
            ask_server(side, address[0])
    finally:
        process.terminate()
        _, errors = process.communicate()
        clock.cancel()
    if not address or process.returncode:
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
        except urllib.error.HTTPError as refusal:
            status, text = refusal.code, refusal.read()
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
