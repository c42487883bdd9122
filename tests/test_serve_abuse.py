"""Strangers who misuse HTTP, beside a client who does not.

The bound here is loose, as a test must be on a machine that others use;
`benchmarks/serving.py abuse` holds every kind to twice the undisturbed answer.
"""

import time

import numpy as np
import pytest
import torch

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from server_process import (
    Client,
    Server,
    abused,
    jpeg,
    logits_of_api,
    probe,
    request,
    serving,
    tiny_model,
    wait_for,
)

CHUNKED = {"content-length": "", "transfer-encoding": "chunked"}
HARD = ("tiny_chunks", "many_headers", "pipelining", "never_reads", "almost_boundaries")
"""Those that cost a server the most: a second an answer before portions and turns."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("abuse") / "model")


@pytest.fixture(scope="module")
def server(folder):
    with serving(folder, "--timeout", "60", "--queue-seconds", "60") as found:
        yield found


def test_others_are_answered_as_before(server: Server):
    probe(server.port, 0.5)
    alone = np.median(probe(server.port, 1))
    for kind in HARD:
        with abused(server.port, kind, 30):
            beside = np.median(probe(server.port, 1))
        assert beside <= 2 * alone + 150, (kind, alone)
    wait_for(lambda: server.metric("vitral_buffered_bytes") == 0)
    assert server.metric("vitral_worker_restarts_total") == 0


def test_an_image_in_chunks_of_one_byte(server: Server, folder):
    """Read in portions, with a second request behind it, and nothing is lost."""
    contents = [jpeg(1), jpeg(2)]
    wanted = logits_of_api(folder, contents)
    path = "/predict?logits=1"
    whole = b""
    for content in contents:
        crumbs = b"".join(b"1\r\n%c\r\n" % byte for byte in content)
        whole += request(crumbs + b"0\r\n\r\n", path, headers=CHUNKED)
    assert len(whole) > 2 * 6 * 500
    with Client(server.port) as client:
        client.send(whole)
        for row in wanted:
            reply = client.read()
            assert reply is not None
            assert reply.status == 200
            said = torch.tensor(reply.json["logits"])
            torch.testing.assert_close(said, row, atol=1e-4, rtol=0)


def test_requests_one_behind_the_other_are_answered_in_order(server: Server):
    names = [f"n{number}" for number in range(80)]
    asked = [
        request(jpeg(1), headers={"x-request-id": name})
        if number % 3 == 0
        else request(path="/health", method="GET", headers={"x-request-id": name})
        for number, name in enumerate(names)
    ]
    with Client(server.port) as client:
        client.send(b"".join(asked))
        replies = [client.read() for _ in names]
    assert [reply.headers["x-request-id"] for reply in replies if reply] == names
    assert {reply.status for reply in replies if reply} == {200}


@pytest.mark.parametrize(("number", "status"), [(100, 200), (101, 400), (1000, 400)])
@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
def test_a_hundred_headers(server: Server, number, status, end):
    """One is `host`; in one write, and in two, of which the second ends the head."""
    lines = [b"GET /health HTTP/1.1", b"host: a"]
    lines += [b"x-%d: 1" % n for n in range(number - 1)]
    head = end.join(lines) + end
    for parts in ([head + end], [head, end], [head + end + head + end]):
        with Client(server.port) as client:
            for part in parts:
                client.send(part)
                time.sleep(0.02)
            reply = client.read()
            assert reply is not None
            assert reply.status == status
            if status == 400:
                assert "more than 100 headers" in reply.json["message"]


def test_the_lines_of_a_body_are_no_headers(server: Server):
    reply = server.ask(request(b"\n" * 5000))
    assert (reply.status, reply.json["code"]) == (415, "unsupported_image")
    bare = (
        b"POST /predict HTTP/1.1\nhost: localhost\ncontent-length: 300\n\n"
        + b"\n" * 300
    )
    assert server.ask(bare).status == 415
