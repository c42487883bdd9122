"""Downloads against a server with the faults of real networks."""

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from hub_server import FAULTS, closed_port, run_hub
from network_settings import use_own_network
from vitral.errors import WeightsError
from vitral.weights import zoo
from vitral.weights.zoo import hub as hub_protocol
from vitral.weights.zoo.connection import connect
from vitral.weights.zoo.download import RemoteFile, download

CONTENT = random.Random(0).randbytes(300_000)
FILE = "tiny/photos/model.safetensors"
SENTENCES = (
    "cannot be fetched:",
    "It was fetched twice from",
)


@pytest.fixture(autouse=True)
def network(monkeypatch, tmp_path):
    use_own_network(monkeypatch, tmp_path)


def remote(url: str, **facts: object) -> RemoteFile:
    known = {"size": len(CONTENT), "checksum": f"sha256:{digest(CONTENT)}"} | facts
    return RemoteFile(url=url, label="tiny", limit=1_000_000, **known)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def fetch(url: str, target: Path, **facts: object) -> None:
    with connect() as client:
        download(remote(url, **facts), target, client)


def refusal_of(url: str, target: Path) -> str:
    """The sentence of a download that was refused; empty where it came."""
    try:
        fetch(url, target)
    except WeightsError as error:
        return str(error)
    return ""


def test_two_hundred_scenarios_end_with_the_right_bytes_or_one_sentence(tmp_path):
    dice = random.Random(7)
    ends = {"right": 0, "refused": 0}
    with run_hub({FILE: CONTENT}) as hub:
        for scenario in range(200):
            hub.faults = dice.choices(FAULTS, k=dice.randrange(1, 9))
            if hub.faults.count("stall") > 1:  # each takes its time
                hub.faults = [it for it in hub.faults if it != "stall"]
            hub.at = dice.random()
            target, asked = (
                tmp_path / str(scenario) / "model.safetensors",
                hub.faults[:],
            )
            sentence = refusal_of(f"{hub.url}/{FILE}", target)
            if sentence:
                ends["refused"] += 1
                assert any(it in sentence for it in SENTENCES), (asked, sentence)
                assert not target.exists(), asked
                continue
            ends["right"] += 1
            assert target.read_bytes() == CONTENT, asked
            assert not list(target.parent.glob(".*.part*")), asked
    assert min(ends.values()) >= 40, ends


@pytest.mark.parametrize("fault", ["cut", "stall", "503", "429"])
def test_a_download_goes_on_where_it_was_cut(tmp_path, fault):
    with run_hub({FILE: CONTENT}, faults=[fault]) as hub:
        fetch(f"{hub.url}/{FILE}", tmp_path / "it")
        begun = "bytes=150000-" if fault in ("cut", "stall") else ""
        assert [part for _, part in hub.gets()] == ["", begun]
    assert (tmp_path / "it").read_bytes() == CONTENT


def test_bytes_of_a_command_that_ended_are_used_by_the_next(tmp_path):
    with run_hub({FILE: CONTENT}, faults=["cut", "401"]) as hub:
        with pytest.raises(WeightsError, match="refuses access"):
            fetch(f"{hub.url}/{FILE}", tmp_path / "it")
        assert (tmp_path / ".it.part").stat().st_size == 150_000
        fetch(f"{hub.url}/{FILE}", tmp_path / "it")
        assert hub.gets()[-1][1] == "bytes=150000-"
    assert (tmp_path / "it").read_bytes() == CONTENT


def test_a_file_that_changed_between_two_requests_starts_anew(tmp_path):
    other = CONTENT[::-1]
    with run_hub({FILE: CONTENT}, faults=["cut", "404"]) as hub:
        with pytest.raises(WeightsError, match="no such file, repository or revision"):
            fetch(f"{hub.url}/{FILE}", tmp_path / "it", checksum="")
        hub.files[FILE] = other
        fetch(f"{hub.url}/{FILE}", tmp_path / "it", checksum="")
    assert (tmp_path / "it").read_bytes() == other


def test_wrong_bytes_are_never_kept(tmp_path):
    with run_hub({FILE: CONTENT}, faults=["wrong bytes"] * 2) as hub:
        sentence = refusal_of(f"{hub.url}/{FILE}", tmp_path / "it")
    assert f"sha256 of its bytes is {digest(bytes(len(CONTENT)))}, " in sentence
    assert f"{digest(CONTENT)} was expected" in sentence
    assert [it.name for it in tmp_path.iterdir()] == [".it.lock"]


@pytest.mark.parametrize(
    ("fault", "sentence", "requests"),
    [
        ("401", r"refuses access \(401\). Ask for it at .* and set HF_TOKEN", 1),
        ("403", r"refuses access \(403\)", 1),
        ("404", r"has no such file, repository or revision \(404", 1),
        ("429", r"had too many requests from here \(429\). Wait some minutes", 6),
        ("503", r"cannot answer now \(503\), after several attempts", 6),
        ("page", r"a web page \(Content-Type text/html\) came in place of the", 1),
        ("stall", "did not answer in time. Try again; VITRAL_TIMEOUT=60", 6),
        ("promise more", "the server offers 301,000 bytes, the file has 300,000", 6),
        ("dead end", "there is no way to 127.0.0.1:", 6),
        ("other range", None, 1),
    ],
)
def test_each_cause_has_its_sentence(tmp_path, fault, sentence, requests):
    with run_hub({FILE: CONTENT}, faults=[fault] * 6, at=0.0) as hub:
        if sentence is None:
            fetch(f"{hub.url}/{FILE}", tmp_path / "it")
        else:
            with pytest.raises(WeightsError, match=sentence):
                fetch(f"{hub.url}/{FILE}", tmp_path / "it")
        assert len(hub.gets()) == requests


def test_no_route_no_name_and_a_refused_proxy_are_told_apart(tmp_path, monkeypatch):
    with pytest.raises(WeightsError, match=r"there is no way to 127\.0\.0\.1"):
        fetch(f"http://127.0.0.1:{closed_port()}/x", tmp_path / "it")
    with pytest.raises(WeightsError, match=r"the name nowhere\.invalid is not known"):
        fetch("http://nowhere.invalid/x", tmp_path / "it")
    with run_hub({}) as hub:
        monkeypatch.setenv("HTTPS_PROXY", hub.url)
        monkeypatch.setenv("NO_PROXY", "")
        with pytest.raises(
            WeightsError, match=r"the proxy refused the way to any\.site"
        ):
            fetch("https://any.site/x", tmp_path / "it")


def test_a_certificate_that_nobody_signed(tmp_path):
    import http.server
    import ssl
    import threading

    pem = tmp_path / "own.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    made = subprocess.run(
        [*command.split(), "-keyout", str(pem), "-out", str(tmp_path / "c.pem")],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("openssl is not on this machine")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "c.pem", pem)
    server = http.server.HTTPServer(
        ("127.0.0.1", 0), http.server.BaseHTTPRequestHandler
    )
    server.handle_error = lambda *args: None  # type: ignore[method-assign]
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(WeightsError, match=r"is not trusted here.*SSL_CERT_FILE"):
            fetch(f"https://localhost:{server.server_port}/x", tmp_path / "it")
    finally:
        server.shutdown()
        server.server_close()


def test_a_full_disk_is_said_before_a_byte_is_asked_for(tmp_path, small_disk):
    with run_hub({FILE: CONTENT}) as hub:
        sentence = refusal_of(f"{hub.url}/{FILE}", small_disk / "it")
    assert f"tiny needs 0 MB in {small_disk}, and 2 MB are free on that dis" in sentence
    assert not (small_disk / "it").exists()


def test_a_file_without_a_size_has_a_limit(tmp_path):
    limit = pytest.raises(WeightsError, match="at most 1,000,000 are taken")
    with run_hub({FILE: CONTENT * 4}) as hub, limit:
        fetch(f"{hub.url}/{FILE}", tmp_path / "it", size=0, checksum="")


def test_a_token_goes_to_the_hub_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with (
        run_hub({FILE: CONTENT}) as store,
        run_hub({FILE: b""}, faults=["moved"]) as hub,
    ):
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        with connect() as client:
            found = hub_protocol.find_file(client, "tiny/photos", "", FILE[12:])
        assert found is not None
        assert hub.headers[0]["Authorization"] == "Bearer hf_secret"
        assert "hf_secret" not in repr(found)
        assert store.headers == []


def test_two_processes_fetch_once(tmp_path):
    script = "from vitral.weights import zoo; print(zoo.fetch('tiny/photos'))"
    with run_hub({FILE: CONTENT}, faults=["stall"]) as hub:
        env = {
            **os.environ,
            "HF_ENDPOINT": hub.url,
            "VITRAL_TIMEOUT": "2",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        children = [
            subprocess.Popen(
                [sys.executable, "-c", script],
                env=env,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        lines = [child.communicate(timeout=60)[0] for child in children]
        assert [child.returncode for child in children] == [0, 0]
        tensors = [path for path, _ in hub.gets() if path.endswith("safetensors")]
    assert lines[0] == lines[1]
    assert len(tensors) == 2  # the stall, and its rest
    folder = Path(lines[0].strip())
    assert (folder / "model.safetensors").read_bytes() == CONTENT
    assert zoo.verify_folder(folder) == []
