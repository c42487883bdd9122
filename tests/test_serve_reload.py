"""A new model for a running server: the old one answers until it has proved itself."""

import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from helpers import TINY, randomise
from server_process import (
    CLASSES,
    SOURCE,
    Client,
    Reply,
    Server,
    jpeg,
    logits_of_api,
    request,
    serving,
    tiny_model,
    wait_for,
)
from vitral.cli import main
from vitral.data import Preprocess, Sampling
from vitral.models import TimeSformer, TimeSformerConfig, ViT, ViTConfig
from vitral.weights import save

OTHERS = ("ash", "elm", "fir", "oak", "yew")
CONTENT = jpeg(1)
ASKED = request(CONTENT, "/predict?logits=1&top=9")
TAKEN, REFUSED = "vitral_models_taken_total", "vitral_models_refused_total"


def point(link: Path, folder: Path) -> None:
    """`link` leads to another folder, at once."""
    fresh = link.with_name("fresh")
    fresh.symlink_to(folder)
    fresh.replace(link)


def exchange(server: Server, name: str = TAKEN) -> None:
    """Ask for the model anew and wait until it was taken, or refused."""
    before = server.metric(name)
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: server.metric(name) == before + 1)


def test_models_are_exchanged_under_load(tmp_path: Path):
    """Every answer is 200, and whole: names, logits and hash of one of the two."""
    names = {"a": CLASSES, "b": OTHERS}
    for seed, (name, classes) in enumerate(names.items()):
        tiny_model(tmp_path / name, classes, seed=seed)
    point(tmp_path / "current", tmp_path / "a")
    wanted = {n: logits_of_api(tmp_path / n, [CONTENT])[0].numpy() for n in names}
    replies: list[Reply] = []
    ended = threading.Event()
    with serving(tmp_path / "current", log=tmp_path / "log") as server:
        hashes = {server.get("/model").json["hash"]: "a"}

        def ask() -> None:
            with Client(server.port) as client:
                while not ended.is_set():
                    reply = client.ask(ASKED)
                    assert reply is not None
                    replies.append(reply)

        clients = [threading.Thread(target=ask) for _ in range(3)]
        for client in clients:
            client.start()
        try:
            for name in "bab":
                point(tmp_path / "current", tmp_path / name)
                exchange(server)
                facts = server.get("/model").json
                assert facts["classes"] == list(names[name])
                hashes[facts["hash"]] = name
                before = len(replies)
                wait_for(lambda b=before: len(replies) > b + 10)
        finally:
            ended.set()
            for client in clients:
                client.join(60)
        assert server.metric("vitral_worker_restarts_total") == 0
    assert {reply.status for reply in replies} == {200}
    seen = [hashes[reply.json["model"]["hash"]] for reply in replies]
    assert set(seen) == {"a", "b"}
    for name, reply in zip(seen, replies, strict=True):
        said = reply.json
        assert set(said["probabilities"]) == set(names[name])
        assert said["label"] == names[name][int(wanted[name].argmax())]
        assert np.abs(np.array(said["logits"]) - wanted[name]).max() < 1e-4
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 3
    assert "current (5 classes, 48 x 80 pixels, weights " in lines[0]


def not_finite(folder: Path) -> None:
    model = ViT(ViTConfig(**TINY))
    randomise(model)
    with torch.no_grad():
        model.head.weight.fill_(3e38)
    save(folder, model, Preprocess(image_size=(48, 80)))


def of_clips(folder: Path) -> None:
    model = TimeSformer(TimeSformerConfig(**{**TINY, "num_frames": 4}))
    randomise(model)
    sampling = Sampling(frames=4)
    save(folder, model, Preprocess(image_size=(48, 80), sampling=sampling))


def headless(folder: Path) -> None:
    model = ViT(ViTConfig(**{**TINY, "num_classes": 0}))
    randomise(model)
    save(folder, model, Preprocess(image_size=(48, 80)))


def with_other_names(folder: Path) -> None:
    tiny_model(folder)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"kind g"', '"kind g", "kind h"'))


BAD = {
    not_finite: "gives logits that are not finite",
    of_clips: "takes clips, and the server answers for images",
    headless: "has no head and answers no classes",
    with_other_names: "has a head of 7 classes and names of 8",
}


def test_a_bad_model_leaves_the_old_one(tmp_path: Path):
    old = tiny_model(tmp_path / "old")
    wanted = logits_of_api(old, [CONTENT])[0]
    link = tmp_path / "current"
    point(link, old)

    def refused(server: Server, sentence: str) -> None:
        exchange(server, REFUSED)
        assert server.get("/ready").status == 200
        assert sentence in server.get("/model").json["refused"]
        lines = (tmp_path / "log").read_text().splitlines()
        assert len(lines) == server.metric(REFUSED)
        assert "the new model was refused, weights" in lines[-1]
        assert sentence in lines[-1]
        said = torch.tensor(server.ask(ASKED).json["logits"])
        torch.testing.assert_close(said, wanted, atol=1e-4, rtol=0)

    with serving(link, log=tmp_path / "log") as server:
        for make, sentence in BAD.items():
            make(tmp_path / make.__name__)
            point(link, tmp_path / make.__name__)
            refused(server, sentence)
        point(link, tmp_path / "nowhere")
        refused(server, "holds no trained model")
        # Written over in place, which the old model must not feel.
        point(link, old)
        weights = old / "model.safetensors"
        size = weights.stat().st_size
        with weights.open("r+b") as file:
            file.write(os.urandom(size))
        refused(server, "model.safetensors")
        with weights.open("r+b") as file:
            file.truncate(100)
        refused(server, "model.safetensors")
        assert server.metric("vitral_worker_restarts_total") == 0
        point(link, tiny_model(tmp_path / "new", OTHERS))
        exchange(server)
        facts = server.get("/model").json
        assert (facts["classes"], facts["refused"]) == (list(OTHERS), "")


def test_a_model_process_that_dies_meanwhile(tmp_path: Path):
    """Whoever comes first brings the new model; the other does not start a third."""
    folder = tiny_model(tmp_path / "model")
    with serving(folder) as server:
        worker = server.worker()
        server.process.send_signal(signal.SIGHUP)
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: server.metric(TAKEN) == 1)
        wait_for(lambda: server.ask(ASKED).status == 200)
        assert server.worker() != worker
        # Two at once are at least one; the last of the files is what answers.
        for _ in range(5):
            server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: server.metric(TAKEN) >= 2)
        assert server.ask(ASKED).status == 200
        assert server.stop() == 0


@pytest.mark.parametrize("ignored", [False, True])
def test_a_closed_terminal_is_a_stop_and_no_new_model(tmp_path: Path, ignored):
    folder = tiny_model(tmp_path / "model")
    words = [sys.executable, "-m", "vitral", "serve", str(folder), "--port", "0"]
    main_end, its_end = pty.openpty()
    start = "import fcntl, os, signal, sys, termios; os.setsid(); "
    start += "fcntl.ioctl(int(sys.argv[1]), termios.TIOCSCTTY, 0); "
    # The tests themselves may have been started by nohup.
    handler = "SIG_IGN" if ignored else "SIG_DFL"
    start += f"signal.signal(signal.SIGHUP, signal.{handler}); "
    start += "os.execv(sys.argv[2], sys.argv[2:])"
    process = subprocess.Popen(
        [sys.executable, "-c", start, str(its_end), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=[its_end],
        text=True,
        env=os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"},
    )
    os.close(its_end)
    assert process.stdout is not None
    try:
        assert "serving model" in process.stdout.readline()
        os.close(main_end)
        if ignored:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(2)
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        assert process.stderr is not None
        process.stderr.close()


def test_names_that_are_not_those_of_the_head(tmp_path: Path, capsys):
    with_other_names(tmp_path / "model")
    assert main(["predict", str(tmp_path / "model"), "x.jpg"]) == 4
    assert "a head of 7 classes and names of 8" in capsys.readouterr().err
