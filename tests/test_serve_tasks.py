"""The server of a task that it has never heard of: a number with its interval.

The task is a package beside the server, found by its entry point, as in the field.
"""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import browser
from server_process import (
    CLASSES,
    SOURCE,
    Server,
    jpeg,
    request,
    serving,
    tiny_model,
    wait_for,
)
from vitral.data.images import Size
from vitral.serve.http.accept import choose_media_type
from vitral.serve.worker.description import describe_display, describe_task
from vitral.tasks import Presentation, get_task

PACKAGE = '''
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from vitral.tasks import Answer, Display, Labels, Presentation, Task


@dataclass(frozen=True)
class Weight(Answer):
    value: float
    height: int

    def row(self):
        return {"grams": self.value, "low": self.value - 1, "high": self.value + 1}

    def files(self):
        content = io.BytesIO()
        Image.new("L", (3, 2), 7).save(content, "PNG")
        files = {".png": content.getvalue(), ".txt": b"not in the description"}
        if self.height < 100:
            files[".overlay.webp"] = b"of low pictures only"
        return files

    def draw(self, picture):
        ImageDraw.Draw(picture).rectangle((0, 0, 9, 9), fill=(255, 0, 0))
        return picture


class WeightTask(Task):
    name = "weight"
    objectives = ()
    metadata_keys = {"scale": 1.0}

    def labels_of(self, dataset):
        return Labels(names=("grams",))

    def describe(self, labels):
        return "1 number"

    def build_objective(self, settings, model, context):
        raise NotImplementedError

    def decode(self, outputs, context):
        scale = context.metadata["scale"]
        rows = zip(outputs[:, 0].tolist(), context.sizes, strict=True)
        return [Weight(scale * value, size.height) for value, size in rows]

    def row_types(self, labels):
        return {"grams": float, "low": float, "high": float}

    def present(self, labels, stored):
        plain = super().present(labels, stored)
        return Presentation(
            fields=plain.fields,
            facts=plain.facts,
            files={".png": "a mask", ".overlay.webp": "of low pictures"},
            draws=True,
            display=Display(
                title="grams", interval=("low", "high"), interval_name="1 g around"
            ),
        )

    def metric(self, labels):
        raise NotImplementedError

    def score(self, outputs, target, labels):
        return np.ones(len(outputs))


class PlainTask(WeightTask):
    """Says nothing about the server."""

    name = "plain"

    def present(self, labels, stored):
        return Task.present(self, labels, stored)


WEIGHT, PLAIN = WeightTask(), PlainTask()
'''
CONTENT = jpeg(1)


@pytest.fixture(scope="module")
def packages(tmp_path_factory) -> Path:
    """A folder as pip leaves it: the module, and the entry points beside it."""
    folder = tmp_path_factory.mktemp("packages")
    (folder / "weighing.py").write_text(PACKAGE)
    info = folder / "weighing-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: weighing\nVersion: 1\n"
    )
    (info / "entry_points.txt").write_text(
        "[vitral.tasks]\nweight = weighing:WEIGHT\nplain = weighing:PLAIN\n"
    )
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weight") / "model"
    return tiny_model(folder, ("grams",), task="weight", scale=3.0)


@pytest.fixture(scope="module")
def server(folder: Path, packages: Path):
    with serving(folder, packages=packages) as opened:
        yield opened


def outputs_of(folder: Path, content: bytes) -> float:
    """The output of the model, whose task this process has not got."""
    from vitral.weights import load

    loaded = load(folder)
    with torch.no_grad():
        pixels = loaded.preprocess.load(content)[None]
        return float(loaded.model.eval()(pixels)[0, 0])


def test_a_number_is_answered(server: Server, folder: Path):
    output = outputs_of(folder, CONTENT)
    for query in ("outputs=1", "logits=1", "outputs=1&map=0"):
        said = server.ask(request(CONTENT, f"/predict?{query}")).json
        assert said["outputs"] == [pytest.approx(output, abs=1e-4)]
        assert said["grams"] == pytest.approx(3 * output, abs=1e-3)
        assert said["high"] - said["low"] == pytest.approx(2)
        assert set(said) == {
            *("grams", "low", "high", "outputs"),
            *("notes", "model", "timing", "request_id"),
        }


def test_the_facts_are_the_task_s(server: Server):
    facts = server.get("/model").json
    assert facts["task"] == "weight"
    assert facts["outputs"] == ["grams"]
    assert facts["scale"] == 3.0
    assert not {"classes", "multi_label", "temperature"} & set(facts)
    assert facts["display"]["title"] == "grams"
    assert facts["display"]["interval"] == ["low", "high"]


def test_the_description_says_what_is_answered(server: Server):
    described = server.get("/openapi.json").json
    parts = described["components"]["schemas"]
    reply = server.ask(request(CONTENT, "/predict?map=1&embedding=1&outputs=1")).json
    assert set(reply) == set(parts["Answer"]["properties"])
    assert parts["Answer"]["properties"]["grams"] == {
        "type": "number",
        "title": "Grams",
    }
    assert {"grams", "low", "high", "notes"} <= set(parts["Answer"]["required"])
    assert set(server.get("/model").json) == set(parts["Facts"]["properties"])
    operation = described["paths"]["/predict"]["post"]
    assert operation["summary"] == "The answer for one image"
    asked = {item["name"]: item for item in operation["parameters"]}
    assert set(asked) == {"map", "embedding", "outputs"}
    assert asked["outputs"]["description"] == "what the model computes"
    content = operation["responses"]["200"]["content"]
    kinds = {"application/json", "image/png", "image/webp", "image/jpeg"}
    assert set(content) == kinds
    assert content["image/png"]["schema"]["description"] == "a mask"


def accepting(accept: str, content: bytes = CONTENT) -> bytes:
    return request(content, headers={"accept": accept})


def test_files_are_answered_by_media_type(server: Server):
    reply = server.ask(accepting("image/png"))
    assert (reply.status, reply.headers["content-type"]) == (200, "image/png")
    mask = Image.open(io.BytesIO(reply.body))
    assert (mask.size, mask.getpixel((0, 0))) == ((3, 2), 7)
    # What lists both gives the row unless the file is liked more.
    for accept in ("", "*/*", "application/json", "application/*, image/png;q=0.9"):
        assert server.ask(accepting(accept)).headers["content-type"] == (
            "application/json"
        )
    picture = server.ask(accepting("application/json;q=0.2, image/*"))
    assert picture.headers["content-type"] == "image/png"


def test_the_answer_is_drawn_on_the_upright_picture(server: Server):
    content, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.new("RGB", (60, 40), (0, 0, 255)).save(content, "JPEG", exif=exif)
    reply = server.ask(accepting("image/jpeg", content.getvalue()))
    assert (reply.status, reply.headers["content-type"]) == (200, "image/jpeg")
    drawn = np.asarray(Image.open(io.BytesIO(reply.body))).astype(int)
    assert drawn.shape == (60, 40, 3)
    assert np.abs(drawn[2, 2] - (254, 0, 0)).max() < 30
    assert np.abs(drawn[40, 30] - (0, 0, 254)).max() < 30


def test_files_of_a_batch_are_not_swapped(server: Server):
    """Rows and files of one frame: each picture gets its own, of its own kind."""
    from concurrent.futures import ThreadPoolExecutor

    def ask(number: int) -> bool:
        content = io.BytesIO()
        shade = 10 * number
        Image.new("RGB", (32, 40 + number), (shade,) * 3).save(content, "PNG")
        kind = ("image/jpeg", "application/json", "image/png")[number % 3]
        reply = server.ask(accepting(kind, content.getvalue()))
        assert reply.headers["content-type"] == kind
        if kind != "image/jpeg":
            return True
        drawn = Image.open(io.BytesIO(reply.body))
        middle = drawn.getpixel((20, 20))[1]
        return drawn.size == (32, 40 + number) and abs(middle - shade) < 3

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(24)))


def test_what_is_not_there_gets_406(server: Server):
    refused = server.ask(accepting("text/html, image/gif"))
    assert (refused.status, refused.json["code"]) == (406, "not_acceptable")
    assert refused.json["message"] == (
        "Accept is 'text/html, image/gif', and this model's answers are "
        "application/json or image/png or image/webp or image/jpeg: name one of these, "
        "or leave the header out."
    )
    # One that the task makes for some pictures only.
    low, high = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (30, 50)).save(low, "PNG")
    Image.new("RGB", (30, 150)).save(high, "PNG")
    taken = server.ask(accepting("image/webp", low.getvalue()))
    assert (taken.status, taken.body) == (200, b"of low pictures only")
    refused = server.ask(accepting("image/webp", high.getvalue()))
    assert (refused.status, refused.json["code"]) == (406, "not_acceptable")
    assert refused.json["message"] == (
        "The answer for this image has no image/webp: ask for application/json."
    )
    # 406 is no reason to close the connection, and the next request is answered.
    assert server.ask(request(CONTENT)).status == 200


def test_a_model_of_another_task_takes_over(
    folder: Path, packages: Path, tmp_path: Path
):
    """The description, the facts and the log follow the model."""
    shutil.copytree(folder, tmp_path / "first")
    tiny_model(tmp_path / "second", temperature=1.7)
    link = tmp_path / "current"
    link.symlink_to("first")
    with serving(link, packages=packages, log=tmp_path / "log") as server:
        before = server.get("/openapi.json").json
        assert server.ask(accepting("image/png")).status == 200
        fresh = tmp_path / "fresh"
        fresh.symlink_to("second")
        fresh.replace(link)
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: server.metric("vitral_models_taken_total") == 1)
        facts = server.get("/model").json
        assert facts["task"] == "classification"
        assert facts["classes"] == list(CLASSES)
        assert facts["temperature"] == 1.7
        after = server.get("/openapi.json").json["components"]["schemas"]
        said = server.ask(request(CONTENT, "/predict?top=2&logits=1")).json
        assert len(said["probabilities"]) == 2
        assert set(said) <= set(after["Answer"]["properties"])
        assert "grams" not in after["Answer"]["properties"]
        assert "grams" in before["components"]["schemas"]["Answer"]["properties"]
        assert server.ask(accepting("image/png")).status == 406
    log = (tmp_path / "log").read_text()
    assert "current (7 classes, 48 x 80 pixels, weights " in log


def test_an_exported_model_answers_through_its_task(
    folder: Path, packages: Path, tmp_path: Path
):
    """The file itself says which task it is of, and what was fitted."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    for number in range(8):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{number}.jpg").write_bytes(jpeg(100 + number))
    out = tmp_path / "tiny.onnx"
    words = ["export", str(folder), str(out), "--data", str(tmp_path / "data")]
    path = os.pathsep.join((str(SOURCE), str(packages)))
    subprocess.run(
        [sys.executable, "-m", "vitral", *words],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        check=True,
    )
    with serving(out, packages=packages) as server:
        facts = server.get("/model").json
        assert (facts["task"], facts["scale"]) == ("weight", 3.0)
        said = server.ask(request(CONTENT, "/predict?outputs=1")).json
        assert said["grams"] == pytest.approx(3 * outputs_of(folder, CONTENT), abs=1e-3)
        refused = server.ask(request(CONTENT, "/predict?map=1"))
        assert refused.json["message"].startswith(
            "The server runs an exported model, which holds the way from pixels to "
            "outputs and nothing between"
        )
        assert server.ask(accepting("image/png")).headers["content-type"] == "image/png"


def test_a_task_that_is_not_installed_is_refused(folder: Path, capsys):
    from vitral.cli import main

    assert main(["serve", str(folder), "--port", "0"]) == 4
    assert "There is no task `weight`" in capsys.readouterr().err


def test_a_classifier_says_what_it_always_said(tmp_path: Path):
    """Names, types and texts of its part of the description, as clients know them."""
    task = get_task("classification")
    for multi_label in (False, True):
        labels = task.load_labels(("a", "b"), {"multi_label": multi_label})
        presentation = task.present(labels, {"temperature": 1.7})
        part = describe_task(presentation)
        assert part["Answer"] == {
            "label": {"type": "string"},
            "confidence": {"type": "number"},
            "probabilities": {
                "type": "object",
                "additionalProperties": {"type": "number"},
                "description": "calibrated, best first",
            },
        }
        assert part["Facts"] == {
            "classes": {"type": "array", "items": {"type": "string"}},
            "multi_label": {"type": "boolean"},
            "temperature": {"type": "number"},
        }
        assert part["summary"] == "Labels and calibrated probabilities of one image"
        assert part["outputs"] == {
            "name": "logits",
            "schema": {"type": "array", "items": {"type": "number"}},
            "description": "before calibration",
        }
        assert part["files"] == {}
        values = {name: fact.value for name, fact in presentation.facts.items()}
        # A sigmoid has no temperature.
        assert values == {
            "classes": ["a", "b"],
            "multi_label": multi_label,
            "temperature": 1.0 if multi_label else 1.7,
        }


@pytest.mark.parametrize(
    ("words", "names", "listed"),
    [
        ("2 classes", "ab", "a, b"),
        ("5 classes", "abcde", "a, b, c, d, …"),
        ("1 number", "a", "a"),
        # Words that are the names already are not said twice.
        ("a, b", "ab", ""),
        ("a, b, c, d, e", "abcde", ""),
    ],
)
def test_the_first_names_of_the_outputs(words: str, names: str, listed: str):
    class Words(type(get_task("classification"))):
        def describe(self, labels):
            return words

    labels = get_task("classification").load_labels(tuple(names), {})
    display = describe_display(Words(), labels, Presentation(fields={}))
    assert (display["outputs"], display["names"]) == (words, listed)


def test_a_batch_gives_the_numbers_of_its_batch(tmp_path: Path):
    """Each image's own `top` leaves the bits of its probabilities alone.

    The last bits of a sigmoid depend on where in the batch a row stands.
    """
    from vitral.serve.worker.decoded_image import DecodedInput
    from vitral.serve.worker.predictor import Predictor

    folder = tiny_model(tmp_path / "model", multi_label=True)
    predictor = Predictor(str(folder), merge=None, merge_schedule=None)
    run = predictor.run
    pixels = torch.stack([run.preprocess_input(jpeg(n)) for n in range(13)])
    rows = predictor.predict(
        [
            DecodedInput(values, Size(20, 30), (), {"top": 1 + number % 3}, None)
            for number, values in enumerate(pixels)
        ]
    )
    wanted = run.decode(run.predict_outputs(pixels))
    for number, (row, answer) in enumerate(zip(rows, wanted, strict=True)):
        every = answer.row()["probabilities"]
        best = sorted(every, key=every.__getitem__, reverse=True)[: 1 + number % 3]
        assert row["probabilities"] == {name: every[name] for name in best}


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", "a/row"),
        ("nonsense", "a/row"),
        ("*/*", "a/row"),
        ("*/*;q=0.1", "a/row"),
        ("image/*", "image/png"),
        ("IMAGE/PNG", "image/png"),
        ("image/png, */*", "image/png"),
        ("a/row, image/png", "a/row"),
        ("a/row;q=0.5, image/jpeg ; q=0.6", "image/jpeg"),
        # The closest range decides about a type, not the best one.
        ("*/*, a/row;q=0", "image/png"),
        ("image/png;q=0, image/*", "image/jpeg"),
        ("text/html", ""),
        ("a/row;q=0", ""),
        ("image/png;q=x", ""),
        ("image/png;q=nan", ""),
        ("text/html, */*;q=0.01", "a/row"),
    ],
)
def test_the_choice_of_a_media_type(accept: str, chosen: str):
    """Precedence of RFC 9110, 12.5.1, worked out by hand."""
    offered = ("a/row", "image/png", "image/jpeg")
    assert choose_media_type(accept, offered) == chosen


needs_browser = pytest.mark.skipif(
    not browser.program(), reason="no browser is installed"
)
VISIBLE = (
    "(e => !e.hidden && e.getClientRects().length > 0)(document.getElementById('{}'))"
)


def show(page: browser.Browser, server: Server, file: Path, width: int = 1100) -> None:
    file.write_bytes(CONTENT)
    page.open(f"http://127.0.0.1:{server.port}/", width, 740)
    page.wait("document.getElementById('facts').textContent !== ''")
    page.drop(file, "#drop")
    page.wait("!document.getElementById('answer').hidden")


@needs_browser
@pytest.mark.parametrize("width", [360, 1100])
def test_the_page_draws_a_number_in_its_interval(server: Server, tmp_path, width):
    said = server.ask(request(CONTENT)).json
    with browser.Browser() as page:
        show(page, server, tmp_path / "a.jpg", width)
        facts = page.run("document.getElementById('facts').textContent")
        assert facts.startswith("1 number: grams · 80 × 48 pixels · weights ")
        shown = page.run("document.getElementById('headline').textContent")
        assert float(shown) == pytest.approx(said["grams"], rel=1e-3)
        assert page.run(VISIBLE.format("interval"))
        ends = page.run(
            "[...document.querySelectorAll('#interval .row span')]"
            ".map(one => one.textContent)"
        )
        low, name, high = ends
        assert name == "1 g around"
        wanted = pytest.approx([said["low"], said["high"]], rel=1e-3)
        assert [float(low), float(high)] == wanted
        # In the middle, since the interval is symmetric.
        mark, left, right = page.run(
            "(([m, f]) => [m.left + m.width / 2, f.left, f.right])(['mark', 'fill']"
            ".map(name => document.querySelector('#interval .' + name)"
            ".getBoundingClientRect()))"
        )
        assert mark == pytest.approx((left + right) / 2, abs=1.5)
        assert page.run("document.querySelectorAll('#bars li, #fields dt').length") == 0
        assert page.run("document.documentElement.scrollWidth") <= width
        # The picture is the one that the task has drawn on.
        red, green, _, _ = page.run(
            "[...document.getElementById('image').getContext('2d')"
            ".getImageData(3, 3, 1, 1).data]"
        )
        assert red > 200
        assert green < 50
        assert page.complaints() == []


@needs_browser
def test_the_page_lists_the_fields_of_any_task(packages: Path, tmp_path: Path):
    folder = tiny_model(tmp_path / "model", ("grams",), task="plain", scale=1.0)
    with serving(folder, packages=packages) as server, browser.Browser() as page:
        said = server.ask(request(CONTENT)).json
        show(page, server, tmp_path / "a.jpg")
        terms = page.run(
            "[...document.querySelectorAll('#fields dt, #fields dd')]"
            ".map(one => one.textContent)"
        )
        assert terms[::2] == ["grams", "low", "high"]
        numbers = [float(text) for text in terms[1::2]]
        wanted = [said["grams"], said["low"], said["high"]]
        assert numbers == pytest.approx(wanted, rel=1e-3)
        assert not page.run(VISIBLE.format("headline"))
        assert not page.run(VISIBLE.format("interval"))
        assert page.complaints() == []


def test_no_word_about_labels_is_in_the_server():
    """What a task calls its answers is the task's; so is every text about them."""
    room = Path(__file__).parents[1] / "src" / "vitral" / "serve"
    words = re.compile(r"\b(class(es)?_|classes|labels?_|probabilit\w+|softmax)", re.I)
    hits = [
        f"{file.name}: {hit[0]}"
        for file in room.rglob("*")
        if file.suffix in (".py", ".js", ".html")
        for hit in words.finditer(file.read_text())
    ]
    assert hits == []
