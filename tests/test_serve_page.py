"""The page in a real browser: drop, choose, keyboard, errors, and nobody else asked."""

import io

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import browser
from server_process import CLASSES, request, serving, tiny_model

if not browser.program():
    pytest.skip("no browser is installed", allow_module_level=True)

BIG = 150_000


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tiny_model(tmp_path_factory.mktemp("page") / "model")
    with serving(folder, "--max-bytes", str(BIG)) as found:
        yield found


@pytest.fixture(scope="module")
def token_server(tmp_path_factory):
    folder = tiny_model(tmp_path_factory.mktemp("page") / "model")
    with serving(folder, "--token", "s3cret") as found:
        yield found


@pytest.fixture
def page(server):
    with browser.Browser() as opened:
        opened.open(f"http://127.0.0.1:{server.port}/")
        opened.wait("document.getElementById('facts').textContent !== ''")
        yield opened


@pytest.fixture
def photo(tmp_path):
    rng = np.random.default_rng(3)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 6, 3)).astype(np.uint8))
    file = tmp_path / "a photo.png"
    coarse.resize((300, 200), Image.Resampling.BICUBIC).save(file)
    return file


ANSWERED = "!document.getElementById('answer').hidden"
PROBLEM = "!document.getElementById('problem').hidden"
TEXT = "document.getElementById('{}').textContent"
BARS = """[...document.querySelectorAll('#bars li')].map(one => [
    one.querySelector('.name').textContent,
    one.querySelector('.share').textContent,
    one.querySelector('.fill').getBoundingClientRect().width
      / one.querySelector('.track').getBoundingClientRect().width])"""


def test_a_dropped_file_gets_its_answer_and_its_map(server, page, photo):
    page.drop(photo, "#drop")
    page.wait(ANSWERED)
    said = server.ask(request(photo.read_bytes(), "/predict?map=1")).json
    assert page.run(TEXT.format("headline")) == said["label"]
    bars = page.run(BARS)
    assert [name for name, _, _ in bars] == list(said["probabilities"])
    for (_, text, width), share in zip(
        bars, said["probabilities"].values(), strict=True
    ):
        assert float(text.removesuffix(" %").removeprefix("< ")) == pytest.approx(
            max(100 * share, 0.1), abs=0.051
        )
        assert width == pytest.approx(share, abs=0.01)
    # The picture is drawn, and the map lies over what the centre crop keeps.
    assert page.run("document.getElementById('image').width") == 300
    left, top, width, height = page.run(
        "(m => [m.offsetLeft, m.offsetTop, m.offsetWidth, m.offsetHeight].map((v, i) =>"
        " v / (i % 2 ? m.parentElement.offsetHeight : m.parentElement.offsetWidth)))"
        "(document.getElementById('map'))"
    )
    box = said["map"]["box"]
    shown = (left, top, left + width, top + height)
    assert shown == pytest.approx(box, abs=0.01)
    # The brightest place of the map is the patch with the largest value.
    values = np.array(said["map"]["values"])
    row, column = np.unravel_index(values.argmax(), values.shape)
    centres = """(() => {
        const map = document.getElementById('map');
        const all = map.getContext('2d').getImageData(0, 0, map.width, map.height).data;
        const found = [];
        for (let y = 8; y < map.height; y += 16)
            for (let x = 8; x < map.width; x += 16)
                found.push([0, 1, 2].reduce((sum, i) =>
                    sum + all[4 * (y * map.width + x) + i], 0));
        return found; })()"""
    bright = np.array(page.run(centres)).reshape(values.shape)
    assert np.unravel_index(bright.argmax(), bright.shape) == (row, column)
    assert bright.max() - bright.min() > 100
    page.collect()
    own = f"http://127.0.0.1:{server.port}/"
    others = [u for u in page.asked_for() if not u.startswith((own, "data:", "about:"))]
    assert others == []
    assert page.complaints() == []


def test_the_keyboard_is_enough(page, photo):
    """Tab reaches the file field, which shows it; Enter or space opens the dialogue
    that only a person can answer; Tab again reaches the heat map, arrows fade it."""
    page.key("Tab", 9)
    assert page.run("document.activeElement.id") == "file"
    outline = "getComputedStyle(document.getElementById('drop')).outlineStyle"
    assert page.run(outline) == "solid"
    page.do("Page.setInterceptFileChooserDialog", enabled=True)
    page.key(" ", 32, " ")
    page.collect()
    opened = [e for e in page.events if e.get("method") == "Page.fileChooserOpened"]
    assert len(opened) == 1
    node = opened[0]["params"]["backendNodeId"]
    page.do("DOM.setFileInputFiles", files=[str(photo)], backendNodeId=node)
    page.wait(ANSWERED)
    assert page.run("document.activeElement.id") == "file"
    page.key("Tab", 9)
    assert page.run("document.activeElement.id") == "strength"
    before = float(page.run("document.getElementById('map').style.opacity"))
    page.key("ArrowLeft", 37)
    assert float(page.run("document.getElementById('map').style.opacity")) < before
    # A screen reader hears the state and the errors.
    assert (
        page.run("document.getElementById('status').getAttribute('role')") == "status"
    )
    assert (
        page.run("document.getElementById('problem').getAttribute('role')") == "alert"
    )


def test_an_unreadable_file_shows_what_the_server_says(server, page, photo, tmp_path):
    page.drop(photo, "#drop")
    page.wait(ANSWERED)
    for name, content in (
        ("half.png", photo.read_bytes()[:400]),
        ("letter.txt", b"Dear Sir or Madam"),
        ("empty.png", b""),
    ):
        file = tmp_path / name
        file.write_bytes(content)
        page.drop(file, "#drop")
        said = server.ask(request(content)).json["message"]
        page.wait(f"{TEXT.format('problem')} === {said!r}")
        # The old answer is not left beside the new error.
        assert page.run(PROBLEM)
        assert not page.run(ANSWERED)
        assert page.run("document.getElementById('figure').hidden")
    page.drop(photo, "#drop")
    page.wait(ANSWERED)
    assert not page.run(PROBLEM)


def test_a_file_that_is_too_large_is_not_sent(page, tmp_path):
    rng = np.random.default_rng(0)
    content = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (300, 200, 3)).astype(np.uint8)).save(
        content, "PNG"
    )
    assert len(content.getvalue()) > BIG
    file = tmp_path / "large.png"
    file.write_bytes(content.getvalue())
    page.drop(file, "#drop")
    page.wait(PROBLEM)
    said = page.run(TEXT.format("problem"))
    assert said == (
        "large.png has 0.2 MB; the server takes at most 0.2 MB. Choose a smaller image."
    )
    page.collect()
    assert not [url for url in page.asked_for() if "predict" in url]


def test_the_token_is_asked_for(token_server, photo):
    with browser.Browser() as page:
        page.open(f"http://127.0.0.1:{token_server.port}/")
        page.wait("!document.getElementById('access').hidden")
        assert page.run("document.activeElement.id") == "token"
        page.do("Input.insertText", text="s3cret")
        page.key("Enter", 13, "\r")
        page.wait(
            "document.getElementById('facts').textContent.startsWith('7 classes')"
        )
        page.drop(photo, "#drop")
        page.wait(ANSWERED)
        assert page.run(TEXT.format("headline")) in CLASSES


@pytest.mark.parametrize("width", [360, 1100])
def test_nothing_is_wider_than_the_window(server, page, photo, width):
    page.open(f"http://127.0.0.1:{server.port}/", width, 740)
    page.drop(photo, "#drop")
    page.wait(ANSWERED)
    assert page.run("document.documentElement.scrollWidth") <= width
