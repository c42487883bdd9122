"""Parts of the server alone: batches, limits, forms, settings, the lazy import."""

import asyncio
import random
import subprocess
import sys

import pytest

from server_process import FORM, SOURCE, form
from vitral.cli import main
from vitral.errors import ConfigError, MissingExtraError
from vitral.serve import Settings, serve
from vitral.serve.batching import Batcher, Item, WorkerDied
from vitral.serve.errors import HTTPError
from vitral.serve.http import multipart
from vitral.serve.http.limits import Budget, ClientGone, is_image, read_body
from vitral.serve.metrics import Histogram, Metrics


def item(number: int, seconds: float = 60.0) -> Item:
    loop = asyncio.get_running_loop()
    return Item(
        content=b"%d" % number,
        wants={},
        arrival_time=loop.time(),
        deadline=loop.time() + seconds,
        future=loop.create_future(),
    )


class Model:
    """Answers with the content, when it is let."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def ask(self, items):
        self.batches.append([one.content for one in items])
        await self.gate.wait()
        return [{"is": one.content} for one in items]


async def running(settings: Settings, work) -> Model:
    model = Model()
    batcher = Batcher(settings, model.ask, Metrics())
    task = asyncio.create_task(batcher.run())
    working = asyncio.create_task(work(batcher, model))
    done, _ = await asyncio.wait(
        {task, working}, timeout=60, return_when=asyncio.FIRST_COMPLETED
    )
    assert done
    for one in (task, working):
        one.cancel()
    await asyncio.gather(task, working, return_exceptions=True)
    done.pop().result()
    return model


def test_batches_by_size_each_with_its_own_answer():
    settings = Settings(run="x", max_batch=3, max_wait_ms=50.0, queue=20)

    async def work(batcher, model):
        items = [item(number) for number in range(7)]
        for one in items:
            batcher.submit(one)
        answers = await asyncio.gather(*(one.future for one in items))
        assert [answer["is"] for answer in answers] == [b"%d" % n for n in range(7)]

    model = asyncio.run(running(settings, work))
    assert list(map(len, model.batches)) == [3, 3, 1]


def test_one_image_alone_waits_no_longer_than_it_is_told():
    settings = Settings(run="x", max_batch=8, max_wait_ms=0.0)

    async def work(batcher, model):
        one = item(5)
        batcher.submit(one)
        assert (await one.future)["is"] == b"5"

    assert asyncio.run(running(settings, work)).batches == [[b"5"]]


def test_those_that_come_within_the_wait_share_a_batch():
    settings = Settings(run="x", max_batch=8, max_wait_ms=60_000.0, timeout=90.0)

    async def work(batcher, model):
        items = [item(number, 90.0) for number in range(8)]
        for one in items[:7]:
            batcher.submit(one)
            await asyncio.sleep(0.002)
        assert model.batches == []
        batcher.submit(items[7])
        await asyncio.gather(*(one.future for one in items))

    assert len(asyncio.run(running(settings, work)).batches) == 1


def test_the_late_and_the_gone_are_dropped_before_the_model():
    settings = Settings(run="x", max_batch=2, max_wait_ms=0.0, queue=9, timeout=60.0)

    async def work(batcher, model):
        model.gate.clear()
        first, late, gone, last = item(0), item(1, 0.01), item(2), item(3)
        batcher.submit(first)
        await asyncio.sleep(0.01)
        for one in (late, gone, last):
            batcher.submit(one)
        gone.is_client_gone = True
        await asyncio.sleep(0.02)
        model.gate.set()
        assert (await last.future)["is"] == b"3"
        assert batcher.metrics.dropped == 2
        assert not late.future.done()

    assert asyncio.run(running(settings, work)).batches == [[b"0"], [b"3"]]


def test_never_more_than_the_places_wait():
    """A random walk of arrivals and departures; the bound is looked at each time."""
    settings = Settings(run="x", max_batch=3, max_wait_ms=0.0, queue=5)
    draw = random.Random(3)

    async def work(batcher, model):
        refused = answered = 0
        for number in range(3000):
            if draw.random() < 0.3:
                (model.gate.set if draw.random() < 0.5 else model.gate.clear)()
                await asyncio.sleep(0)
            if len(batcher.queue) < 5:
                batcher.submit(item(number))
                answered += 1
                continue
            with pytest.raises(HTTPError, match="5 images wait already") as full:
                batcher.submit(item(number))
            assert full.value.status == 429
            assert full.value.retry_after >= 1
            refused += 1
            assert len(batcher.queue) <= 5
        assert batcher.max_queue_length == 5
        assert min(refused, answered) > 100

    model = asyncio.run(running(settings, work))
    assert max(map(len, model.batches)) == 3


def test_what_would_come_too_late_is_refused():
    settings = Settings(run="x", max_batch=2, queue=100, timeout=10.0)

    async def work(batcher, model):
        batcher.seconds_per_image = 2.5
        # 2.5, 5 and 7.5 seconds are below 8; the fourth would take 10.
        for number in range(3):
            batcher.queue.append(item(number))
        with pytest.raises(
            HTTPError, match=r"would take some 10\.0 seconds"
        ) as refused:
            batcher.submit(item(3))
        assert refused.value.status == 429
        batcher.queue.clear()
        # 0.4 and 0.8 seconds are within the second that the queue may take, and one
        # batch of two may wait in any case; the third would wait 1.2.
        batcher.seconds_per_image = 0.4
        batcher.submit(item(5))
        batcher.submit(item(6))
        with pytest.raises(HTTPError, match=r"would take some 1\.2 seconds"):
            batcher.submit(item(7))
        batcher.queue.clear()
        batcher.seconds_per_image = 100.0
        batcher.submit(item(4))

    asyncio.run(running(settings, work))


def test_after_a_death_everybody_has_an_answer_and_it_goes_on():
    settings = Settings(run="x", max_batch=1, max_wait_ms=0.0)

    async def work(batcher, model):
        async def die(items):
            batcher.fail_all(HTTPError(503, "worker_died", "It died."))
            raise WorkerDied

        batcher.ask = die
        both = [item(0), item(1)]
        for one in both:
            batcher.submit(one)
        for one in both:
            with pytest.raises(HTTPError, match="It died"):
                await one.future
        batcher.ask = model.ask
        again = item(2)
        batcher.submit(again)
        assert (await again.future)["is"] == b"2"

    asyncio.run(running(settings, work))


def pieces(*parts: bytes, ends: bool = True):
    messages = [
        {"type": "http.request", "body": part, "more_body": True} for part in parts
    ]
    if ends:
        messages[-1]["more_body"] = False

    async def receive():
        if messages:
            return messages.pop(0)
        await asyncio.sleep(60)
        return None

    return receive


def read(receive, budget: Budget, **changes) -> bytes:
    settings = {"max_bytes": 10, "seconds": 5.0} | changes
    return asyncio.run(read_body(receive, budget=budget, **settings))


def test_bodies_are_counted_while_they_come():
    budget = Budget(100)
    assert read(pieces(b"abcd", b"", b"efghij"), budget) == b"abcdefghij"
    assert budget.used == 10
    with pytest.raises(HTTPError, match="at most 10 are taken") as refused:
        read(pieces(b"abcdefgh", b"ijk", b"never read"), budget)
    assert (refused.value.status, budget.used) == (413, 10)


def test_the_bytes_of_all_bodies_are_limited_and_given_back():
    budget = Budget(12)
    budget.acquire(5)
    with pytest.raises(HTTPError, match="holds 9 bytes of requests already") as refused:
        read(pieces(b"abcd", b"efgh"), budget)
    assert (refused.value.status, refused.value.retry_after) == (503, 1)
    assert budget.used == 5


def test_a_slow_body_and_one_whose_client_left():
    budget = Budget(100)
    with pytest.raises(
        HTTPError, match=r"within 0\.05 seconds: 3 bytes came"
    ) as refused:
        read(pieces(b"abc", ends=False), budget, seconds=0.05)
    assert (refused.value.status, refused.value.close, budget.used) == (408, True, 0)

    async def gone():
        return {"type": "http.disconnect"}

    with pytest.raises(ClientGone):
        read(gone, budget)


@pytest.mark.parametrize(
    ("content", "is_one"),
    [
        (b"\xff\xd8\xff\xe0", True),
        (b"\x89PNG\r\n\x1a\n", True),
        (b"GIF89a", True),
        (b"BM", True),
        (b"II*\x00", True),
        (b"MM\x00*", True),
        (b"RIFF\x00\x00\x00\x00WEBP", True),
        (b"RIFF\x00\x00\x00\x00WAVE", False),
        (b"%PDF-1.7", False),
        (b"%!PS-Adobe", False),
        (b"\x00\x00\x00\x0cjP  ", False),
        (b"8BPS", False),
        (b"\x80\x04\x95", False),
        (b"PK\x03\x04", False),
    ],
)
def test_formats_by_their_first_bytes(content, is_one):
    assert is_image(content + b"rest") == is_one


def image_of(content: bytes, kind: str) -> bytes:
    return asyncio.run(multipart.extract_image(content, kind))


def test_a_form_by_hand():
    kind = FORM["content-type"]
    inside = b"\r\n--xx-bound is not it\r\n\r\n--xx"
    assert image_of(form(("a", b"1"), ("image", inside)), kind) == inside
    quoted = kind.replace("xx-boundary", '"xx-boundary"')
    assert image_of(b"preamble\r\n" + form(("image", b"")), quoted) == b""
    bare = b"--b\r\ncontent-disposition: form-data; name=image\r\n\r\nX\r\n--b--"
    assert image_of(bare, "multipart/form-data; boundary=b") == b"X"
    for broken, reason in (
        (b"--b\r\n\r\nX\r\n--b--", "no field `image`"),
        (b"--b junk", "not followed by a new line"),
        (b"--b\r\nname: x\r\n--b--", "no end of its headers"),
        (b"--b\r\nname: x\r\n\r\nX", "ends before its last boundary"),
        (b"nothing", "is not in the body"),
    ):
        with pytest.raises(HTTPError, match=reason) as refused:
            image_of(broken, "multipart/form-data; boundary=b")
        assert refused.value.status == 400


def test_a_boundary_over_two_stretches_is_found():
    """At every place around the end of the stretch that is searched at a time."""
    mark, kind = b"\r\n--b", "multipart/form-data; boundary=b"
    head = b"--b\r\ncontent-disposition: form-data; name=image\r\n\r\n"
    for short in range(-2, len(mark) + 3):
        inside = b"x" * (multipart._SEARCH_BYTES + len("--b") - len(head) - short)
        assert image_of(head + inside + mark + b"--", kind) == inside


def test_the_histogram_counts_a_bound_with_what_is_below():
    seconds = Histogram((0.5, 2.0))
    for value in (0.1, 0.5, 1.0, 9.0):
        seconds.observe(value)
    assert seconds.lines("t") == [
        "# TYPE t histogram",
        't_bucket{le="0.5"} 2',
        't_bucket{le="2"} 3',
        't_bucket{le="+Inf"} 4',
        "t_sum 10.6",
        "t_count 4",
    ]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"max_batch": 0}, "`max_batch` must be above 0: got 0."),
        ({"port": 70000}, "`port` must be at most 65535: got 70000."),
        ({"max_wait_ms": -1.0}, "`max_wait_ms` must be 0 or more: got -1.0."),
        ({"timeout": float("nan")}, "`timeout` must be above 0: got nan."),
        ({"max_bytes": 10**9}, "so that such a body could never be held"),
        ({"token": "two words"}, "visible ASCII characters without spaces"),
    ],
)
def test_settings_that_cannot_be(changes, sentence):
    with pytest.raises(ConfigError, match=sentence.replace("(", r"\(")):
        Settings(run="x", **changes)


def test_wrong_flags_exit_with_2(capsys):
    assert main(["serve", "runs/x", "--max-batch", "0"]) == 2
    assert "`--max-batch` must be above 0" in capsys.readouterr().err
    assert main(["serve", "runs/x", "--max-bach", "3"]) == 2
    assert "Did you mean --max-batch" in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'vitral\[serve\]'"):
        serve(Settings(run="x"))


def test_the_server_process_is_without_torch():
    code = (
        "import sys, vitral.serve.lifecycle, vitral.cli.verbs.serve; "
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(SOURCE)}, timeout=240
    )
    assert done.returncode == 0
