"""The server's beginning, its end, and what happens when the model process ends."""

import os
import random
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from helpers import TINY, randomise
from server_process import (
    SOURCE,
    Client,
    Load,
    Server,
    jpeg,
    mutated,
    request,
    serving,
    tiny_model,
    wait_for,
)
from vitral.cli import main
from vitral.data import Preprocess
from vitral.models import ViT, ViTConfig
from vitral.weights import save

CONTENT = jpeg(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("life") / "model")


@pytest.fixture(scope="module")
def server(folder):
    flags = ["--timeout", "4", "--worker-timeout", "300", "--queue", "3"]
    with serving(folder, "--max-batch", "2", *flags, "--token", "s3cret") as found:
        yield found


TOKEN = {"authorization": "Bearer s3cret"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_under_load_loses_nothing(folder, number):
    with serving(folder) as server:
        load = Load(server.port, 4)
        while len(load.answered) < 20:
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.2))
        assert server.stop(number) == 0
        load.join()
    # Every request that was sent on a connection has an answer; what came after the
    # signal has 503, or no connection.
    assert set(load.sent) == set(load.answered)
    assert set(load.answered.values()) <= {200, 503}
    assert list(load.answered.values()).count(200) >= 20


def test_a_second_signal_ends_it_at_once(folder):
    with serving(folder, "--timeout", "200", "--grace", "200") as server:
        worker = server.worker()
        os.kill(worker, signal.SIGSTOP)
        with Client(server.port) as waiting, Client(server.port) as other:
            waiting.send(request(CONTENT))
            wait_for(lambda: server.metric("vitral_in_flight_requests") == 1)
            server.process.send_signal(signal.SIGTERM)
            # Readiness goes first, new images are refused, the old one is kept.
            wait_for(lambda: server.get("/ready").status == 503)
            reply = other.ask(request(CONTENT))
            assert reply is not None
            assert (reply.status, reply.json["code"]) == (503, "stopping")
            assert reply.headers["connection"] == "close"
            assert server.get("/health").status == 200
            assert server.process.poll() is None
            assert server.stop(signal.SIGTERM) == 143


def test_the_grace_is_the_longest_wait(folder):
    with serving(folder, "--timeout", "200", "--grace", "1") as server:
        os.kill(server.worker(), signal.SIGSTOP)
        with Client(server.port) as waiting:
            waiting.send(request(CONTENT))
            wait_for(lambda: server.metric("vitral_in_flight_requests") == 1)
            assert server.stop() == 0
            reply = waiting.read()
            assert reply is not None
            assert (reply.status, reply.json["code"]) == (503, "stopping")


def test_a_killed_model_process_is_started_again_until_it_is_too_often(folder):
    with serving(folder, "--timeout", "200") as server:
        for time_ in range(3):
            worker = server.worker()
            os.kill(worker, signal.SIGSTOP)
            with Client(server.port) as waiting:
                waiting.send(request(CONTENT))
                wait_for(lambda: server.metric("vitral_in_flight_requests") == 1)
                os.kill(worker, signal.SIGKILL)
                reply = waiting.read()
                assert reply is not None
                assert (reply.status, reply.json["code"]) == (503, "worker_died")
                assert reply.headers["retry-after"] == "1"
            if time_ < 2:
                wait_for(lambda: server.get("/ready").status == 200)
                assert server.worker() != worker
                assert server.ask(request(CONTENT)).status == 200
                assert server.metric("vitral_worker_restarts_total") == time_ + 1
        assert server.process.wait(60) == 8


def test_a_hung_model_process_is_ended(folder):
    flags = ["--timeout", "200", "--worker-timeout", "1.5"]
    with serving(folder, *flags) as server:
        os.kill(server.worker(), signal.SIGSTOP)
        reply = server.ask(request(CONTENT))
        assert (reply.status, reply.json["code"]) == (503, "worker_died")
        wait_for(lambda: server.get("/ready").status == 200)
        assert server.ask(request(CONTENT)).status == 200
        # One that hangs while nobody asks is found by the pulse.
        os.kill(server.worker(), signal.SIGSTOP)
        wait_for(lambda: server.metric("vitral_worker_restarts_total") == 2)
        wait_for(lambda: server.get("/ready").status == 200)


def test_a_full_queue_says_429_and_a_late_answer_504(server: Server):
    """Two in the model, three that wait, the sixth is refused; after four seconds the
    others get 504, and those that waited are never computed."""
    worker = server.worker()
    dropped = metric(server, "vitral_dropped_total")
    batches = metric(server, "vitral_batch_images_count")
    os.kill(worker, signal.SIGSTOP)
    clients = [Client(server.port) for _ in range(6)]
    try:
        clients[0].send(request(CONTENT, headers=TOKEN))
        wait_for(lambda: metric(server, "vitral_in_flight_requests") == 1)
        time.sleep(0.3)
        for number, client in enumerate(clients[1:4]):
            client.send(request(CONTENT, headers=TOKEN))
            wait_for(lambda n=number: metric(server, "vitral_queue_images") == n + 1)
        reply = clients[4].ask(request(CONTENT, headers=TOKEN))
        assert reply is not None
        assert (reply.status, reply.json["code"]) == (429, "queue_full")
        assert int(reply.headers["retry-after"]) >= 1
        for client in clients[:4]:
            late = client.read()
            assert late is not None
            assert (late.status, late.json["code"]) == (504, "deadline")
    finally:
        for client in clients:
            client.socket.close()
        os.kill(worker, signal.SIGCONT)
    wait_for(lambda: metric(server, "vitral_dropped_total") == dropped + 3)
    assert metric(server, "vitral_queue_images") == 0
    assert metric(server, "vitral_queue_most_images") == 3
    assert server.ask(request(CONTENT, headers=TOKEN)).status == 200
    assert metric(server, "vitral_batch_images_count") == batches + 2
    assert metric(server, "vitral_worker_restarts_total") == 0


def test_a_client_that_leaves_the_queue_is_not_computed(server: Server):
    worker = server.worker()
    gone = metric(server, "vitral_clients_gone_total")
    dropped = metric(server, "vitral_dropped_total")
    os.kill(worker, signal.SIGSTOP)
    try:
        with Client(server.port) as first, Client(server.port) as second:
            first.send(request(CONTENT, headers=TOKEN))
            wait_for(lambda: metric(server, "vitral_in_flight_requests") == 1)
            time.sleep(0.3)
            second.send(request(CONTENT, headers=TOKEN))
            wait_for(lambda: metric(server, "vitral_queue_images") == 1)
        wait_for(lambda: metric(server, "vitral_clients_gone_total") == gone + 2)
    finally:
        os.kill(worker, signal.SIGCONT)
    wait_for(lambda: metric(server, "vitral_dropped_total") == dropped + 1)


@pytest.mark.parametrize(
    "given",
    [
        "",
        "Bearer",
        "Bearer s3cre",
        "Bearer s3cret0",
        "Basic s3cret",
        "Bearer s\xe9cret",
    ],
)
def test_the_token(server: Server, given):
    for content in (
        request(CONTENT, headers={"authorization": given}),
        request(path="/metrics", method="GET", headers={"authorization": given}),
        request(path="/model", method="GET", headers={"authorization": given}),
    ):
        reply = server.ask(content)
        assert (reply.status, reply.json["code"]) == (401, "unauthorized")
        assert reply.headers["www-authenticate"] == "Bearer"
        assert "s3cret" not in reply.body.decode()
    for path in ("/health", "/ready", "/"):
        assert server.get(path).status == 200
    assert server.ask(request(CONTENT, headers=TOKEN)).status == 200


def test_the_schema_says_who_wants_the_token(server: Server):
    described = server.get("/openapi.json").json
    scheme = {"token": {"type": "http", "scheme": "bearer"}}
    assert described["components"]["securitySchemes"] == scheme
    asks = {
        path
        for path, methods in described["paths"].items()
        for operation in methods.values()
        if operation.get("security") == [{"token": []}]
    }
    assert asks == {"/predict", "/model", "/metrics"}


def test_mutated_bodies(server: Server):
    """Whatever comes, the answer is one of those that say whose fault it is."""
    rng = np.random.default_rng(7)
    seen: dict[int, int] = {}
    for _ in range(400):
        content = mutated(rng).replace(
            b"\r\n", b"\r\nauthorization: Bearer s3cret\r\n", 1
        )
        reply = server.ask(content)
        seen[reply.status] = seen.get(reply.status, 0) + 1
    assert set(seen) <= {200, 400, 415, 422}
    assert len(seen) == 4
    assert metric(server, "vitral_worker_restarts_total") == 0


def test_a_port_in_use(folder, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", str(folder), "--port", str(port)]) == 8
    said = capsys.readouterr().err
    assert f"Port {port} of 127.0.0.1 cannot be used: Address already in use." in said
    assert "give another `--port`" in said
    assert main(["serve", str(folder), "--host", "203.0.113.9"]) == 8
    assert main(["serve", str(folder), "--host", "no.such.host.invalid"]) == 8


@pytest.mark.parametrize("fault", ["missing", "cut", "huge", "headless"])
def test_a_bad_model_is_refused_before_the_port_is_bound(tmp_path, fault):
    folder = tmp_path / "model"
    code, sentence = 4, ""
    if fault == "missing":
        sentence = "holds no trained model"
    elif fault == "headless":
        model = ViT(ViTConfig(**{**TINY, "num_classes": 0}))
        save(folder, model, Preprocess(image_size=(48, 80)))
        code, sentence = 2, "has no head and answers no classes"
    else:
        tiny_model(folder)
        if fault == "cut":
            weights = folder / "model.safetensors"
            weights.write_bytes(weights.read_bytes()[:-100])
            sentence = "model.safetensors"
        else:
            model = ViT(ViTConfig(**TINY))
            randomise(model)
            with torch.no_grad():
                model.head.weight.fill_(3e38)
            save(folder, model, Preprocess(image_size=(48, 80)))
            sentence = "logits that are not finite for a grey image"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = subprocess.run(
        [sys.executable, "-m", "vitral", "serve", str(folder), "--port", str(port)],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == code, done.stderr
    assert sentence in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def metric(server: Server, name: str) -> float:
    reply = server.get("/metrics", **TOKEN)
    for line in reply.body.decode().splitlines():
        if line.rsplit(" ", 1)[0] == name:
            return float(line.rsplit(" ", 1)[1])
    return 0.0
