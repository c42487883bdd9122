"""One answer to a file, whichever way it is asked for.

The same JPEG files through the Python API, the command, both exported models and the
server: the class, the logits and the calibrated probabilities of all are those that
torch's own operations give.
"""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

import vitral as vt
from server_process import CLASSES, request, serving, tiny_model
from vitral.cli import main

TEMPERATURE = 1.7
ORIENTATION = 0x0112


def photo(number: int, size: tuple[int, int], mode: str = "RGB", turned: int = 1):
    """JPEG bytes of a smooth picture that is another one for every number."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8))
    picture = coarse.resize(size, Image.Resampling.BICUBIC).convert(mode)
    exif = picture.getexif()
    exif[ORIENTATION] = turned
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=90, exif=exif)
    return content.getvalue()


PHOTOS = {
    "of the model's size": photo(0, (80, 48)),
    "large": photo(1, (331, 227)),
    "on its side": photo(2, (64, 121), turned=6),
    "grey": photo(3, (97, 52), "L"),
    "small and high": photo(4, (23, 61)),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A run, the files, and the run exported for both runtimes."""
    root = tmp_path_factory.mktemp("one")
    tiny_model(root / "run" / "model", temperature=TEMPERATURE)
    (root / "files").mkdir()
    for number, content in enumerate(PHOTOS.values()):
        (root / "files" / f"{number}.jpg").write_bytes(content)
    for number, name in enumerate(CLASSES):
        (root / "data" / name).mkdir(parents=True)
        (root / "data" / name / "a.jpg").write_bytes(photo(10 + number, (90, 70)))
    options = vt.export.ExportOptions(data=str(root / "data"))
    vt.export.onnx(root / "run", root / "m.onnx", options)
    vt.export.openvino(root / "run", root / "m_openvino", options)
    return root


def by_hand(content: bytes) -> torch.Tensor:
    """What the model should see: upright, three channels, its middle, normalised."""
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    return vt.data.Preprocess(image_size=(48, 80), resize="crop", crop_fraction=0.875)(
        upright.convert("RGB")
    )


def of_python(place, files):
    """Logits, and the probabilities and label that `Run.predict` says."""
    run = vt.open(place)
    assert run.metadata["temperature"] == TEMPERATURE
    with torch.no_grad():
        logits = [run.model(run.preprocess(file)[None])[0].numpy() for file in files]
    answers = run.predict(files)
    return logits, [(one.label, one.probabilities) for one in answers]


def of_command(place, files):
    out = place.parent / "answers.jsonl"
    words = ["predict", str(place), *map(str, files), "--out", str(out), "--top", "7"]
    assert main([*words, "--format", "jsonl"]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["path"] for row in rows] == list(map(str, files))
    return None, [(row["label"], row["probabilities"]) for row in rows]


def of_server(place, files):
    asked = "/predict?top=7&logits=1"
    with serving(place) as server:
        assert server.get("/model").json["temperature"] == TEMPERATURE
        replies = [server.ask(request(file.read_bytes(), asked)) for file in files]
    assert {reply.status for reply in replies} == {200}
    rows = [reply.json for reply in replies]
    answers = [(row["label"], row["probabilities"]) for row in rows]
    return [np.array(row["logits"]) for row in rows], answers


WAYS = {
    "python": (of_python, "run"),
    "command": (of_command, "run"),
    "onnx": (of_python, "m.onnx"),
    "openvino": (of_python, "m_openvino"),
    "http": (of_server, "run"),
}


def test_the_files_would_show_a_difference():
    """Turned or not is another image, and so is each of the files."""
    side = PHOTOS["on its side"]
    assert Image.open(io.BytesIO(PHOTOS["grey"])).mode == "L"
    lying = np.array(Image.open(io.BytesIO(side)))
    assert lying.shape == (121, 64, 3)
    assert by_hand(side).shape == (3, 48, 80)
    seen = [by_hand(content) for content in PHOTOS.values()]
    seen.append(by_hand(photo(2, (64, 121))))
    gaps = torch.cdist(*[torch.stack(seen).flatten(1)] * 2)
    assert (gaps + 99 * torch.eye(len(seen))).min() > 5


@pytest.mark.parametrize("way", list(WAYS))
def test_one_answer(way, places, capsys):
    ask, place = WAYS[way]
    files = sorted((places / "files").iterdir())
    logits, answers = ask(places / place, files)
    capsys.readouterr()
    model = vt.load(places / "run" / "model").model.eval()
    with torch.no_grad():
        wanted = model(torch.stack(list(map(by_hand, PHOTOS.values())))).double()
    assert wanted.std(dim=1).min() > 0.05
    if logits is not None:
        assert np.abs(np.array(logits) - wanted.numpy()).max() < 1e-4
    for (label, shares), row in zip(answers, wanted, strict=True):
        assert label == CLASSES[int(row.argmax())] == max(shares, key=shares.get)
        found = np.log([shares[name] for name in CLASSES])
        assert np.abs(found - (row / TEMPERATURE).log_softmax(0).numpy()).max() < 1e-4
        # The temperature that this way used, from the spread of what it said.
        spread = (row - row.mean()).numpy()
        used = (spread @ spread) / (spread @ (found - found.mean()))
        assert used == pytest.approx(TEMPERATURE, rel=1e-3)
