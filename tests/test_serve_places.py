"""Places of connections, foreign pages, two lengths, at a real server."""

import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from server_process import Client, Server, form, jpeg, request, serving, tiny_model
from vitral.serve.http.admission import RESERVE, Admission
from vitral.serve.http.origin import OriginCheck
from vitral.serve.listener import bind_socket, refuse_new_connections
from vitral.serve.settings import Settings

FORM = {"content-type": "multipart/form-data; boundary=xx-boundary"}
PLACES = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("places") / "model")


@pytest.fixture(scope="module")
def server(folder) -> Iterator[Server]:
    flags = ["--max-connections", str(PLACES), "--head-timeout", "60"]
    flags += ["--keep-alive", "60", "--timeout", "60", "--allow-hosts", "our.example"]
    with serving(folder, *flags) as found:
        yield found


@contextmanager
def opened(server: Server, number: int, content: bytes) -> Iterator[list[Client]]:
    """Connections that have sent no more than this."""
    with ExitStack() as stack:
        clients = []
        for _ in range(number):
            client = stack.enter_context(Client(server.port))
            client.send(content)
            clients.append(client)
        time.sleep(0.2)
        yield clients


SLOW_BODY = request(b"", headers={"content-length": "100000"})


@pytest.mark.parametrize("content", [b"", b"GET /health HTTP/1.1\r\nHost: localho"])
def test_waiting_connections_make_room(server: Server, content):
    with opened(server, 10 * PLACES, content) as clients:
        for _ in range(5):
            assert server.get("/health").status == 200
            assert server.get("/ready").status == 200
            assert server.ask(request(jpeg(1))).status == 200
        # Those beyond the share of one client are told why.
        reply = clients[-1].read()
        assert reply is not None
        assert (reply.status, reply.json["code"]) == (503, "too_many_connections")
        # The first one made room for the first image.
        reply = clients[0].read()
        assert reply is None or reply.status == 503


@pytest.mark.slow
def test_two_thousand_idle_connections_lock_nobody_out(folder):
    """At the limits that a server has by itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip("a process here may not open 2,000 sockets")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    try:
        with serving(folder) as server, opened(server, 2000, b""):
            for number in range(20):
                started = time.monotonic()
                assert server.get("/health").status == 200
                assert server.get("/ready").status == 200
                assert server.ask(request(jpeg(number))).status == 200
                assert time.monotonic() - started < 3
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_health_has_places_of_its_own(server: Server):
    """All places are busy with slow bodies: nobody waits, so nobody makes room."""
    with opened(server, PLACES // 2, SLOW_BODY) as busy:
        assert server.get("/health").status == 200
        assert server.get("/ready").status == 200
        refused = server.ask(request(jpeg(1)))
        assert refused.status == 503
        assert refused.json["code"] == "too_many_connections"
        assert refused.headers["connection"] == "close"
        # Idle ones in the reserve make room for each other.
        with opened(server, 4 * RESERVE, b""):
            assert server.get("/health").status == 200
        del busy
    assert server.ask(request(jpeg(1))).status == 200


def test_another_client_has_a_share(server: Server):
    with opened(server, 2 * PLACES, SLOW_BODY):
        other = socket.create_connection(
            ("127.0.0.1", server.port), 60, source_address=("127.0.0.2", 0)
        )
        with Client(server.port) as client:
            client.socket.close()
            client.socket = other
            reply = client.ask(request(jpeg(1)))
        assert reply is not None
        assert reply.status == 200


class Place:
    def __init__(self, host: str, port: int) -> None:
        self.client = (host, port)
        self.evicted = False

    def evict(self) -> None:
        self.evicted = True


def test_who_makes_room():
    places = Admission(limit=4, client_limit=3)
    many = [Place("a", port) for port in range(4)]
    assert all(places.admit(place) for place in many)
    # The share is 3: the fourth waits in the reserve, until it has a request.
    assert [places.is_reserved(place.client) for place in many] == [False] * 3 + [True]
    assert places.promote(many[3].client)
    assert [place.evicted for place in many] == [True, False, False, False]
    b, c, d = Place("b", 1), Place("c", 1), Place("d", 1)
    assert all(places.admit(place) for place in (b, c, d))
    assert not places.is_reserved(b.client)
    # All 4 are taken: the client with most has to give one.
    assert places.promote(c.client)
    assert [place.evicted for place in (*many, b)] == [True, True, False, False, False]
    for place in (many[2], many[3], b, c):
        places.set_waiting(place, False)
    assert not places.promote(d.client)
    # A head that grows keeps its place in line; an answered one goes to the end.
    places.set_waiting(c, True)
    places.set_waiting(many[2], True)
    places.set_waiting(c, True)
    assert places.promote(d.client)
    assert (c.evicted, many[2].evicted) == (False, True)
    places.remove(d)
    late = [Place("e", port) for port in range(RESERVE + 5)]
    assert all(places.admit(place) for place in late)
    assert [place.evicted for place in late].count(True) in (2, 3, 4)
    assert Settings(run="x", max_connections=9).client_limit == 4


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:8000"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"host": "our.example"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": "192.168.0.7"}, 403),
    ],
)
def test_names_of_the_server(server: Server, headers, status):
    with Client(server.port) as client:
        reply = client.ask(request(path="/model", method="GET", headers=headers))
    assert reply is not None
    assert reply.status == status
    if status == 403:
        assert reply.json["code"] == "foreign"
        assert "--allow-hosts" in reply.json["message"]
    assert server.get("/health", **headers).status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site", "origin": "http://localhost:1"}, 403),
        ({"sec-fetch-site": "cross-site", "origin": "https://our.example"}, 200),
        ({"sec-fetch-site": "same-origin", "origin": "http://x.localhost"}, 200),
        ({"host": "localhost:9", "origin": "http://localhost:9"}, 200),
        ({"sec-fetch-site": "none"}, 200),
    ],
)
def test_pages_of_other_sites_cannot_post(server: Server, headers, status):
    assert server.ask(request(jpeg(1), headers=headers)).status == status
    # A form of a page is the same.
    parts = form(("image", jpeg(1)))
    assert server.ask(request(parts, headers=FORM | headers)).status == status


def test_a_public_address_is_known_by_any_name_unless_names_are_given():
    foreign = {"host": "evil.example"}
    assert OriginCheck("0.0.0.0", ()).refusal("GET", "/model", foreign) == ""
    named = OriginCheck("0.0.0.0", ("our.example",))
    assert "not known as 'evil.example'" in named.refusal("GET", "/model", foreign)
    for host in ("our.example:80", "10.0.0.3:8000", "[fd00::1]:8000"):
        assert named.refusal("GET", "/model", {"host": host}) == ""
    assert "posts" in named.refusal("POST", "/predict", {"origin": "http://e.example"})


def test_two_lengths_are_refused_and_the_connection_ends(server: Server):
    second = request(path="/model", method="GET")
    for first in (
        {"content-length": "60", "transfer-encoding": "chunked"},
        {"transfer-encoding": "chunked", "content-length": "5"},
    ):
        with Client(server.port) as client:
            head = request(b"", headers=first)
            client.send(head + b"0\r\n\r\n" + second)
            reply = client.read()
            assert reply is not None
            assert (reply.status, reply.json["code"]) == (400, "two_lengths")
            assert reply.headers["connection"] == "close"
            assert client.read() is None


@pytest.mark.parametrize(
    ("disposition", "is_image"),
    [
        (b'form-data; filename="; name=image"; name="other"', False),
        (b'form-data; filename="a\\"; name=image; x=\\""; name="other"', False),
        (b'form-data; filename="; name=image', False),
        (b'form-data; filename="; name=other"; name="image"', True),
        (b"form-data; NAME=image; filename=; x=1", True),
        (b'form-data; name="image"; name="other"', True),
    ],
)
def test_the_name_of_a_field(server: Server, disposition, is_image):
    body = b"--xx-boundary\r\nContent-Disposition: " + disposition + b"\r\n\r\n"
    body += jpeg(1) + b"\r\n--xx-boundary--\r\n"
    assert server.ask(request(body, headers=FORM)).status == (200 if is_image else 400)


@pytest.mark.skipif(sys.platform != "linux", reason="filters packets on Linux only")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_listener_that_ends_keeps_what_has_begun(host):
    with bind_socket(host, 0) as listener:
        listener.listen(2)
        address = listener.getsockname()[:2]
        waiting = [socket.create_connection(address, 5) for _ in range(3)]
        refuse_new_connections(listener)
        with pytest.raises(TimeoutError):  # its first packet is dropped
            socket.create_connection(address, 0.3)
        for client in waiting:
            client.sendall(b"late")
            with listener.accept()[0] as accepted:
                assert accepted.recv(4) == b"late"
            client.close()
        threading.Timer(0.3, listener.close).start()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, 5)


def test_no_connection_is_reset_by_a_stop(folder):
    """Clients connect without a pause while the server stops: an answer, or refused."""
    outcomes: list[str] = []

    def connect(port: int) -> None:
        while True:
            try:
                with Client(port, 10) as client:
                    reply = client.ask(request(path="/health", method="GET"))
            except ConnectionRefusedError:
                return
            except OSError as error:
                outcomes.append(type(error).__name__)
                continue
            outcomes.append(str(reply.status) if reply else "closed")

    with serving(folder) as server:
        args = (server.port,)
        threads = [threading.Thread(target=connect, args=args) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        assert server.stop(signal.SIGTERM) == 0
        for thread in threads:
            thread.join(30)
    assert outcomes.count("200") == len(outcomes) > 100, set(outcomes)
