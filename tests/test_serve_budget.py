"""The worker decodes no more pixels at a time than one image may have."""

import io
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from photos import photo
from server_process import request, serving, tiny_model, wait_for
from vitral.data.images import count_pixels
from vitral.serve.worker.pixel_budget import PixelBudget


def test_an_image_waits_until_it_fits():
    budget, order = PixelBudget(100), []
    first_in, let_go = threading.Event(), threading.Event()

    def large() -> None:
        with budget.hold(70):
            order.append("large")
            first_in.set()
            assert let_go.wait(30)
            order.append("large is done")

    def second() -> None:
        with budget.hold(60):
            order.append("second")

    def small() -> None:
        with budget.hold(30):
            order.append("small")

    threads = [threading.Thread(target=large)]
    threads[0].start()
    assert first_in.wait(30)
    threads += [threading.Thread(target=second), threading.Thread(target=small)]
    for thread in threads[1:]:
        thread.start()
    wait_for(lambda: "small" in order)
    assert "second" not in order
    let_go.set()
    for thread in threads:
        thread.join(30)
    assert order == ["large", "small", "large is done", "second"]


def test_what_never_fits_goes_alone_and_an_error_frees_its_part():
    budget = PixelBudget(100)
    with budget.hold(500):
        pass
    with pytest.raises(ValueError, match="broken"), budget.hold(80):
        raise ValueError("broken")
    with budget.hold(100):
        pass


def test_the_pixels_of_a_header(recwarn):
    content = io.BytesIO()
    photo(0, 1).save(content, "PNG")
    assert count_pixels(content.getvalue(), 7) == np.prod(photo(0, 1).size)
    assert count_pixels(b"no image", 7) == 7
    large = io.BytesIO()
    Image.new("1", (10_000, 9_900)).save(large, "PNG")
    assert count_pixels(large.getvalue(), 7) == 99_000_000
    assert not recwarn.list  # Pillow warns from 89 million pixels on


def test_many_threads_take_the_memory_of_one(tmp_path: Path):
    content = io.BytesIO()
    pixels = np.arange(3000 * 4000, dtype=np.uint16).reshape(3000, 4000)
    Image.fromarray(pixels).save(content, "PNG")
    asked = request(content.getvalue(), headers={"content-type": "image/png"})
    limits = ["--max-pixels", "12000000", "--timeout", "90", "--queue-seconds", "90"]
    limits += ["--threads", "8", "--worker-timeout", "90"]
    with serving(tiny_model(tmp_path / "model"), *limits) as server:

        def peak() -> int:
            text = Path(f"/proc/{server.worker()}/status").read_text()
            return int(re.findall(r"VmHWM:\s+(\d+) kB", text)[0]) // 1024

        assert server.ask(asked).status == 200
        alone = peak()
        with ThreadPoolExecutor(8) as clients:
            replies = list(clients.map(lambda _: server.ask(asked), range(8)))
        assert [reply.status for reply in replies] == [200] * 8
        # Without the limit each thread adds 200 MB.
        assert peak() < alone + 450
