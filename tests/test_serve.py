"""The server's answers: equal to the API's, each image its own, every status by table.

One server of a tiny random model answers all tests of this file over plain sockets.
"""

import io
import json
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from server_process import (
    CLASSES,
    FORM,
    Client,
    Server,
    form,
    jpeg,
    logits_of_api,
    request,
    serving,
    tiny_model,
    wait_for,
)
from vitral.inspection import rollout
from vitral.models import set_merge
from vitral.workflows import open_run

LIMITS = ["--max-bytes", "60000", "--max-pixels", "40000", "--max-batch", "4"]
LIMITS += ["--head-timeout", "1.5", "--body-timeout", "1.5", "--keep-alive", "30"]
LIMITS += ["--timeout", "60", "--worker-timeout", "60", "--max-connections", "40"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("serve") / "model")


@pytest.fixture(scope="module")
def server(folder):
    with serving(folder, *LIMITS) as found:
        yield found


def test_the_same_logits_as_the_python_api(server: Server, folder: Path):
    kinds = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"]
    contents = [jpeg(number, kind=kind) for number, kind in enumerate(kinds)]
    expected = logits_of_api(folder, contents)
    for content, row in zip(contents, expected, strict=True):
        reply = server.ask(request(content, "/predict?logits=1&top=7"))
        assert reply.status == 200
        got = torch.tensor(reply.json["logits"])
        torch.testing.assert_close(got, row, atol=1e-4, rtol=0)
        # Calibrated: the softmax of logits over the temperature, by hand.
        shares = np.exp(row.numpy() / 1.7 - (row.numpy() / 1.7).max())
        shares /= shares.sum()
        said = [reply.json["probabilities"][name] for name in CLASSES]
        np.testing.assert_allclose(said, shares, atol=1e-5)
        assert reply.json["label"] == CLASSES[int(row.argmax())]
        assert list(reply.json["probabilities"].values()) == sorted(said, reverse=True)


def test_a_form_and_a_body_have_the_same_answer(server: Server):
    content = jpeg(3)
    one = server.ask(request(content, "/predict?logits=1")).json
    two = server.ask(
        request(form(("image", content)), "/predict?logits=1", headers=FORM)
    ).json
    assert one["logits"] == two["logits"]
    chunked = b"".join(
        b"%x\r\n%s\r\n" % (len(content[at : at + 700]), content[at : at + 700])
        for at in range(0, len(content), 700)
    )
    headers = {"content-length": "", "transfer-encoding": "chunked"}
    three = server.ask(
        request(chunked + b"0\r\n\r\n", "/predict?logits=1", headers=headers)
    )
    assert three.json["logits"] == one["logits"]


def test_answers_are_not_swapped(server: Server, folder: Path):
    """Eight connections at a time, images of different sizes, good and bad: batches
    mix them, and each gets what the API says about it alone."""
    contents = [jpeg(number) for number in range(120)]
    expected = logits_of_api(folder, contents)
    distances = torch.cdist(expected, expected) + 1e9 * torch.eye(len(expected))
    assert distances.min() > 1e-3  # no two images could pass for each other

    def some(part: int) -> list[str]:
        wrong = []
        with Client(server.port) as client:
            for number in range(part, len(contents), 8):
                bad = number % 5 == 4
                content = contents[number][:-200] if bad else contents[number]
                reply = client.ask(
                    request(
                        content,
                        "/predict?logits=1",
                        headers={"x-request-id": f"image-{number}"},
                    )
                )
                assert reply is not None
                said = reply.json
                if said["request_id"] != f"image-{number}":
                    wrong.append(f"{number}: the id of {said['request_id']}")
                if bad:
                    if (reply.status, said["code"]) != (422, "unreadable_image"):
                        wrong.append(f"{number}: {reply.status}")
                elif not torch.allclose(
                    torch.tensor(said["logits"]), expected[number], atol=1e-4
                ):
                    wrong.append(f"{number}: another's answer")
        return wrong

    before = server.metric("vitral_batch_images_count")
    with ThreadPoolExecutor(8) as pool:
        assert [wrong for part in pool.map(some, range(8)) for wrong in part] == []
    assert (
        server.metric("vitral_batch_images_count") - before < 120
    )  # batches were made


def test_map_and_embedding(server: Server, folder: Path):
    content = jpeg(5)
    reply = server.ask(request(content, "/predict?map=true&embedding=1&top=1")).json
    run = open_run(folder)
    pixels = run.preprocess_input(content)[None]
    with torch.no_grad():
        pooled = run.model.forward_pool(run.model.forward_features(pixels))[0]
    torch.testing.assert_close(
        torch.tensor(reply["embedding"]), pooled, atol=1e-4, rtol=0
    )
    heat = reply["map"]
    assert (heat["method"], heat["rows"], heat["columns"]) == ("rollout", 3, 5)
    np.testing.assert_allclose(heat["values"], rollout(run.model, pixels)[0], atol=1e-4)
    assert len(reply["probabilities"]) == 1


def test_the_box_of_a_map_is_what_the_centre_crop_keeps(server: Server):
    # 100 x 200 pixels to 54 x 108 (48 / 0.875 = 54.9, the other side 91 at least),
    # of which the middle 48 x 80 are seen: 3/54 from the top, 14/108 from the left.
    picture = io.BytesIO()
    Image.new("RGB", (200, 100), (9, 80, 200)).save(picture, "PNG")
    edges = server.ask(request(picture.getvalue(), "/predict?map=1")).json["map"]["box"]
    assert edges == pytest.approx([14 / 108, 3 / 54, 94 / 108, 51 / 54], abs=1e-5)


CONTENT = jpeg(1)
IMAGE = {"content-type": "image/png"}
CHUNKED = {"content-length": "", "transfer-encoding": "chunked"}


def big(width: int, height: int) -> bytes:
    content = io.BytesIO()
    Image.new("1", (width, height)).save(content, "PNG")
    return content.getvalue()


def raw(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode("latin-1")


def many(number: int) -> bytes:
    return request(form(*[("other", b"1")] * number), headers=FORM)


TABLE = {
    # What is right.
    "a JPEG": (request(CONTENT), 200, ""),
    "as bytes": (
        request(CONTENT, headers={"content-type": "application/octet-stream"}),
        200,
        "",
    ),
    "no type": (request(CONTENT, headers={"content-type": ""}), 200, ""),
    "another image type": (request(CONTENT, headers=IMAGE), 200, ""),
    "type with parameters": (
        request(CONTENT, headers={"content-type": "Image/JPEG; a=b"}),
        200,
        "",
    ),
    "identity": (request(CONTENT, headers={"content-encoding": "identity"}), 200, ""),
    "a form": (request(form(("image", CONTENT)), headers=FORM), 200, ""),
    "a form with more": (
        request(form(("a", b""), ("image", CONTENT), ("b", b"1")), headers=FORM),
        200,
        "",
    ),
    "a query": (request(CONTENT, "/predict?top=2&map=0&embedding=false"), 200, ""),
    "more classes than there are": (request(CONTENT, "/predict?top=99"), 200, ""),
    "health": (request(path="/health", method="GET"), 200, ""),
    "ready": (request(path="/ready", method="GET"), 200, ""),
    "metrics": (request(path="/metrics", method="GET"), 200, ""),
    "model": (request(path="/model", method="GET"), 200, ""),
    "schema": (request(path="/openapi.json", method="GET"), 200, ""),
    "page": (request(path="/", method="GET"), 200, ""),
    "script": (request(path="/page.js", method="GET"), 200, ""),
    "style": (request(path="/page.css", method="GET"), 200, ""),
    # 400
    "no bytes": (request(b""), 400, "empty_image"),
    "no chunk": (request(b"0\r\n\r\n", headers=CHUNKED), 400, "empty_image"),
    "an unknown query": (request(CONTENT, "/predict?colour=red"), 400, "bad_query"),
    "a known word misspelt": (request(CONTENT, "/predict?Top=2"), 400, "bad_query"),
    "a word twice": (request(CONTENT, "/predict?top=1&top=2"), 400, "bad_query"),
    "top is a word": (request(CONTENT, "/predict?top=x"), 400, "bad_query"),
    "top is 0": (request(CONTENT, "/predict?top=0"), 400, "bad_query"),
    "top is huge": (request(CONTENT, "/predict?top=" + "9" * 5000), 400, "bad_query"),
    "map is a word": (request(CONTENT, "/predict?map=perhaps"), 400, "bad_query"),
    "a form without image": (
        request(form(("picture", CONTENT)), headers=FORM),
        400,
        "bad_form",
    ),
    "a form of two images": (
        request(form(("image", CONTENT), ("image", CONTENT)), headers=FORM),
        400,
        "bad_form",
    ),
    "an empty form": (request(form(), headers=FORM), 400, "bad_form"),
    "a form without its end": (
        request(form(("image", CONTENT))[:-8], headers=FORM),
        400,
        "bad_form",
    ),
    "a form that is none": (request(CONTENT, headers=FORM), 400, "bad_form"),
    "no boundary": (
        request(CONTENT, headers={"content-type": "multipart/form-data"}),
        400,
        "bad_form",
    ),
    "another boundary": (
        request(form(("image", CONTENT), boundary="other"), headers=FORM),
        400,
        "bad_form",
    ),
    "many parts": (many(9), 400, "bad_form"),
    "a thousand parts": (many(450), 400, "bad_form"),
    "an empty field": (
        request(form(("image", b"")), headers=FORM),
        400,
        "empty_image",
    ),
    "not HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "b"),
    "no version": (raw("GET / HTTP/x\nhost: a\n\n"), 400, "bad_request"),
    "no host": (raw("GET /health HTTP/1.1\n\n"), 400, "bad_request"),
    "a space in a name": (raw("GET / HTTP/1.1\nhost: a\nx y: 1\n\n"), 400, "bad_re"),
    "two lengths": (
        raw("POST /predict HTTP/1.1\nhost: a\ncontent-length: 1, 2\n\nxx"),
        400,
        "bad_request",
    ),
    "a length below 0": (
        raw("POST /predict HTTP/1.1\nhost: a\ncontent-length: -1\n\nxx"),
        400,
        "bad_request",
    ),
    "chunks that are none": (
        request(b"zz\r\nhello\r\n", headers=CHUNKED),
        400,
        "bad_request",
    ),
    # 404, 405
    "no such path": (request(CONTENT, "/predicts"), 404, "not_found"),
    "a slash too many": (request(CONTENT, "/predict/"), 404, "not_found"),
    "documentation pages": (request(path="/docs", method="GET"), 404, "not_found"),
    "out of the folder": (
        request(path="/../../etc/passwd", method="GET"),
        404,
        "not_found",
    ),
    "model management": (request(path="/models", method="GET"), 404, "not_found"),
    "GET": (request(method="GET"), 405, "method_not_allowed"),
    "PUT": (request(CONTENT, method="PUT"), 405, "method_not_allowed"),
    "OPTIONS": (request(method="OPTIONS"), 405, "method_not_allowed"),
    "POST of health": (request(CONTENT, "/health"), 405, "method_not_allowed"),
    # 411, 413
    "no length": (request(headers={"content-length": ""}), 411, "length_required"),
    "large and says so": (request(b"\xff\xd8\xff" + bytes(60000)), 413, "too_large"),
    "large in chunks": (
        request(
            b"ffff\r\n\xff\xd8\xff" + bytes(0xFFFC) + b"\r\n0\r\n\r\n", headers=CHUNKED
        ),
        413,
        "too_large",
    ),
    # 415
    "text": (
        request(b"hello", headers={"content-type": "text/plain"}),
        415,
        "unsupported_media_type",
    ),
    "curl's type": (
        request(CONTENT, headers={"content-type": "application/x-www-form-urlencoded"}),
        415,
        "unsupported_media_type",
    ),
    "JSON": (
        request(b'{"url": "x"}', headers={"content-type": "application/json"}),
        415,
        "unsupported_media_type",
    ),
    "HTML as an image": (request(b"<html>" + bytes(50)), 415, "unsupported_image"),
    "SVG": (
        request(b"<svg/>", headers={"content-type": "image/svg+xml"}),
        415,
        "unsupported_image",
    ),
    "a file name": (request(b"/etc/passwd"), 415, "unsupported_image"),
    "RIFF that is sound": (request(b"RIFF1234WAVE"), 415, "unsupported_image"),
    "base64": (request(b"data:image/png;base64,iVBORw0KGgo="), 415, "unsupported_i"),
    "gzip": (
        request(CONTENT, headers={"content-encoding": "gzip"}),
        415,
        "unsupported_encoding",
    ),
    # 422
    "half a JPEG": (request(CONTENT[:300]), 422, "unreadable_image"),
    "three bytes of one": (request(b"\xff\xd8\xff"), 422, "unreadable_image"),
    "a PNG without pixels": (request(b"\x89PNG\r\n\x1a\n"), 422, "unreadable_image"),
    "many pixels": (request(big(400, 101)), 422, "unreadable_image"),
    "a bomb": (request(big(20000, 20000)), 422, "unreadable_image"),
}


@pytest.mark.parametrize("case", TABLE)
def test_every_status(server: Server, case: str):
    content, status, code = TABLE[case]
    reply = server.ask(content)
    assert reply.status == status, reply.body
    if status == 200:
        return
    said = reply.json
    assert set(said) == {"code", "message", "request_id"}
    assert said["code"].startswith(code)
    assert said["message"].endswith((".", "expected."))
    assert "\n" not in said["message"]
    assert said["request_id"] == reply.headers["x-request-id"]
    assert server.get("/health").status == 200


def test_the_table_is_long_enough():
    assert len(TABLE) >= 60


def test_nothing_of_a_bad_request_reaches_the_next(server: Server):
    """Errors whose body has ended leave the connection usable."""
    with Client(server.port) as client:
        for case in ("half a JPEG", "HTML as an image", "no such path", "no bytes"):
            content, status, _ = TABLE[case]
            reply = client.ask(content)
            assert reply is not None
            assert reply.status == status
        reply = client.ask(request(CONTENT))
        assert reply is not None
        assert reply.status == 200


def test_who_sends_too_much_hears_why(server: Server):
    """Also where the client looks only after its last byte: no reset comes first."""
    for headers in ({}, CHUNKED):
        body = bytes(6_000_000)
        if headers:
            body = b"5b8d80\r\n" + body + b"\r\n0\r\n\r\n"
        with Client(server.port) as client:
            client.send(request(body, headers=headers))
            reply = client.read()
            assert reply is not None
            assert (reply.status, reply.json["code"]) == (413, "too_large")
    with Client(server.port) as client:
        client.send(b"no HTTP at all\r\n\r\n" + bytes(1_000_000))
        reply = client.read()
        assert reply is not None
        assert reply.status == 400


def test_slow_bodies_and_slow_heads_get_408(server: Server):
    with Client(server.port) as body, Client(server.port) as head:
        body.send(request(CONTENT)[:-40])
        head.send(b"POST /predict HTTP/1.1\r\nhost: a\r\n")
        for client, code in ((body, "slow_body"), (head, "slow_head")):
            reply = client.read()
            assert reply is not None
            assert (reply.status, reply.json["code"]) == (408, code)
            assert reply.headers["connection"] == "close"
            assert client.read() is None


def test_headers_say_what_a_browser_may_do(server: Server):
    page = server.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    for path in ("/", "/page.js", "/page.css"):
        # No address but the server's own: the page asks nobody else.
        assert not re.search(rb"https?://", server.get(path).body)
    reply = server.ask(request(CONTENT, headers={"origin": "http://evil.example"}))
    assert not [name for name in reply.headers if name.startswith("access-control")]
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert "server" not in reply.headers


def test_metrics_are_what_happened(server: Server):
    def value() -> float:
        return server.metric('vitral_requests_total{path="/predict",status="200"}')

    before = value()
    server.ask(request(CONTENT))
    assert value() == before + 1
    text = server.get("/metrics").body.decode()
    buckets = [
        int(number)
        for number in re.findall(
            r'^vitral_predict_seconds_bucket\{le="[^"]+"\} (\d+)$', text, re.M
        )
    ]
    assert len(buckets) == 12
    assert buckets == sorted(buckets)
    assert buckets[-1] == server.metric("vitral_predict_seconds_count") > 0
    for line in text.splitlines():
        assert re.fullmatch(r'# TYPE \w+ \w+|\w+(\{(\w+="[^"]*",?)+\})? \S+', line)
    assert server.metric("vitral_queue_images") == 0
    assert server.metric("vitral_buffered_bytes") == 0
    assert server.metric("vitral_in_flight_requests") == 0


def test_the_schema_says_what_is_answered(server: Server):
    schema = server.get("/openapi.json").json
    answers = schema["paths"]["/predict"]["post"]["responses"]
    seen = {
        str(status) for content, status, _ in TABLE.values() if b"/predict" in content
    }
    # Those of the protocol come before any route.
    assert seen - {"404", "405"} <= set(answers)
    assert {"408", "429", "500", "503", "504"} <= set(answers)
    parts = schema["components"]["schemas"]
    reply = server.ask(request(CONTENT, "/predict?map=1&embedding=1&logits=1")).json
    assert set(reply) == set(parts["Answer"]["properties"])
    assert set(reply["map"]) == set(parts["HeatMap"]["properties"])
    assert set(reply["timing"]) == set(parts["Timing"]["properties"])
    assert set(server.get("/model").json) == set(parts["Facts"]["properties"])
    asked = {item["name"] for item in schema["paths"]["/predict"]["post"]["parameters"]}
    assert asked == {"top", "map", "embedding", "logits"}
    for path, methods in schema["paths"].items():
        for method in methods:
            reply = server.ask(request(path=path, method=method.upper()))
            assert reply.status != 404
            assert str(reply.status) in methods[method]["responses"]


def test_abuse_of_http_costs_little(server: Server):
    """Each of these is cut, refused or served, and others are answered meanwhile."""
    clients = [Client(server.port) for _ in range(12)]
    try:
        slow = clients[:6]
        for client in slow:
            client.send(b"GET /health HTTP/1.1\r\nx: ")
        clients[6].send(request(b"1\r\n\xff\r\n" * 3000, headers=CHUNKED)[:-1])
        clients[7].send(
            raw("GET /health HTTP/1.1\nhost: a\n")
            + b"".join(b"x-%d: 1\r\n" % number for number in range(1000))
            + b"\r\n"
        )
        clients[8].send(b"GET /health HTTP/1.1\r\nhost: a\r\nx: ")
        with_reset(clients[8], b"a" * 8_000_000)
        clients[9].send(request(path="/health", method="GET") * 50)
        clients[10].send(request(CONTENT, headers={"content-length": "100000000000"}))
        clients[11].send(request(CONTENT) + request(CONTENT))
        clients[11].socket.close()
        for _ in range(5):
            assert server.ask(request(CONTENT)).status == 200
        refused = clients[7].read()
        assert refused is None or refused.status == 400 or refused.status == 200
        large = clients[8].read()
        assert large is None or large.status == 400
        assert [
            one.status for one in (clients[9].read() for _ in range(50)) if one
        ] == [200] * 50
        lying = clients[10].read()
        assert lying is None or lying.status == 413
        for client in slow:
            reply = client.read()
            assert reply is None or reply.status == 408
    finally:
        for client in clients:
            client.socket.close()
    wait_for(lambda: server.metric("vitral_buffered_bytes") == 0)
    wait_for(lambda: server.metric("vitral_in_flight_requests") == 0)


def test_connections_are_counted(server: Server):
    clients = []
    try:
        for _ in range(60):
            clients.append(Client(server.port))
        replies = [client.read() for client in clients[45:]]
        # Those beyond the limit hear why, if they look before they are cut.
        assert {reply.status for reply in replies if reply} == {503}
    finally:
        for client in clients:
            client.socket.close()
    wait_for(lambda: ask_or_none(server) == 200)


def ask_or_none(server: Server) -> int | None:
    with Client(server.port) as client:
        reply = client.ask(request(path="/health", method="GET"))
        return reply.status if reply else None


def with_reset(client: Client, content: bytes) -> None:
    """Send what the server may not want to hear to its end."""
    try:
        client.send(content)
    except (ConnectionError, TimeoutError):
        return


def test_a_client_that_left_is_not_waited_for(server: Server):
    before = server.metric("vitral_clients_gone_total")
    client = Client(server.port)
    client.send(request(CONTENT)[:-30])
    client.socket.shutdown(socket.SHUT_RDWR)
    client.socket.close()
    wait_for(lambda: server.metric("vitral_clients_gone_total") == before + 1)


def test_the_answer_is_json_without_surprises(server: Server):
    reply = server.ask(request(CONTENT, headers={"x-request-id": "mine-7"}))
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-request-id"] == "mine-7"
    said = json.loads(reply.body, parse_constant=lambda word: pytest.fail(word))
    assert said["request_id"] == "mine-7"
    assert re.fullmatch(r"[0-9a-f]{12}", said["model"]["hash"])
    # An id that could break a log or a header is replaced.
    reply = server.ask(request(CONTENT, headers={"x-request-id": "a b<script>"}))
    assert re.fullmatch(r"[0-9a-f]{16}", reply.headers["x-request-id"])


def test_an_exported_model_is_served(folder: Path, tmp_path: Path):
    """ONNX: the logits of the run it was exported from; no maps, and it says why."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from vitral import export

    for number, name in enumerate(CLASSES):
        (tmp_path / "data" / name).mkdir(parents=True)
        for part in range(4):
            file = tmp_path / "data" / name / f"{part}.jpg"
            file.write_bytes(jpeg(100 + 4 * number + part))
    options = export.ExportOptions(data=str(tmp_path / "data"))
    export.onnx(folder, tmp_path / "tiny.onnx", options)
    contents = [jpeg(number) for number in range(4)]
    expected = logits_of_api(folder, contents)
    with serving(tmp_path / "tiny.onnx") as server:
        for content, row in zip(contents, expected, strict=True):
            said = server.ask(request(content, "/predict?logits=1")).json
            torch.testing.assert_close(
                torch.tensor(said["logits"]), row, atol=1e-4, rtol=0
            )
        for query in ("map", "embedding"):
            refused = server.ask(request(CONTENT, f"/predict?{query}=1"))
            assert (refused.status, refused.json["code"]) == (422, "no_features")
        assert server.get("/model").json["maps"] is False


def test_a_merged_model_is_served(folder: Path):
    run = open_run(folder)
    set_merge(run.model, 2)
    with torch.no_grad():
        expected = run.model(run.preprocess_input(CONTENT)[None])[0]
    plain = logits_of_api(folder, [CONTENT])[0]
    assert (expected - plain).abs().max() > 1e-3
    with serving(folder, "--merge", "2") as server:
        said = server.ask(request(CONTENT, "/predict?logits=1")).json
    torch.testing.assert_close(
        torch.tensor(said["logits"]), expected, atol=1e-4, rtol=0
    )
