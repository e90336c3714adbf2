"""Requests that are small and ask for much, or are made to confuse."""

import io
import json
import socket
import time

import numpy as np
import PIL.Image
import pytest

from tests.unified_reward.serve.brightness import Brightness
from tests.unified_reward.serve.requests import b64, encoded, grey, item, request
from tests.unified_reward.serve.running import serving, until
from unified_reward import media
from unified_reward.core.samples import Image
from unified_reward.serve.media import _digest


@pytest.fixture(scope="module")
def url():
    with serving({"light": Brightness()}, max_queue=200, body_timeout_s=0.3) as url:
        yield url


def score(url, *items, **fields):
    return request(f"{url}/v1/score", {"items": items, **fields})


def reasons(response):
    assert response.status_code == 200, response.content
    rows = response.json()["results"]["light"]
    assert all(row["value"] is None for row in rows)
    return [row["reason"] for row in rows]


def animation(n):
    buffer = io.BytesIO()
    first, *others = (PIL.Image.new("RGB", (8, 8), (i % 256, i // 256, 0)) for i in range(n))
    first.save(buffer, "WEBP", save_all=True, append_images=others, lossless=True)
    return buffer.getvalue()


def gif(n):
    """A GIF of one pixel, n times."""
    frame = b"\x2c" + bytes(4) + b"\1\0\1\0\0\2\2\x44\1\0"
    return b"GIF89a\1\0\1\0\x80\0\0" + bytes(6) + frame * n + b"\x3b"


def progressive(n_scans):
    file = encoded(np.zeros((64, 64)), "JPEG", progressive=True)
    last = file[file.rindex(b"\xff\xda") : -2]
    return file[:-2] + last * n_scans + file[-2:]


def movie(n_samples):
    """An MP4 whose index states this number of frames."""
    file = bytearray(media.encode_mp4(np.zeros((2, 16, 16, 3), np.uint8), 8))
    place = file.index(b"stsz")
    file[place + 8 : place + 16] = (1).to_bytes(4) + n_samples.to_bytes(4)
    return bytes(file)


def npy_of(header):
    file = header.encode().ljust(116) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(file).to_bytes(2, "little") + file + b"abc"


NPY = "{'descr': '|u1', 'fortran_order': False, 'shape': %s}"
BOMBS = {
    "more than 1024 frames": {"image": b64(gif(1100))},
    "1100 frames": {"video": b64(animation(1100))},
    "306 scans": {"image": b64(progressive(300))},
    "1000000000 samples": {"video": b64(movie(10**9))},
    "(-1, -1, 3)": {"npy": b64(npy_of(NPY % "(-1, -1, 3)")), "layout": "HWC"},
    "EOF in multi-line": {"npy": b64(npy_of("{'descr': (")), "layout": "HWC"},
    "not a .npy file": {"npy": b64(npy_of("-" * 9000 + "1")), "layout": "HWC"},
}


@pytest.mark.parametrize("reason", BOMBS)
def test_a_small_file_that_would_take_much_fails_alone(url, reason):
    start = time.process_time()
    (given,) = reasons(score(url, {"prompt": "a", "candidates": [BOMBS[reason]]}))
    assert reason in given
    assert time.process_time() - start < 1


def test_decoded_media_of_all_requests_are_bounded():
    """An image of 16 megapixels is sent in 34 bytes."""
    judge = Brightness()
    with serving({"light": judge}, max_decoded_bytes=1000) as url:
        answer = score(url, *(item(value) for value in range(8)))
        rows = answer.json()["results"]["light"]
        assert [row["status"] for row in rows].count("scored") == 5
        assert "send fewer at once" in str(rows)
        frames = {"frames": [b64(grey(value)) for value in range(6)]}
        assert "send fewer" in reasons(score(url, {"prompt": "a", "candidates": [frames]}))[0]
        assert score(url, item(9)).json()["results"]["light"][0]["value"] == 9


def test_samples_are_counted_before_they_are_made(url):
    candidates = [{"text": "a"}] * 64
    items = [{"prompt": "a", "candidates": candidates}] * 1024
    start = time.process_time()
    answer = request(f"{url}/v1/group", {"items": items})
    assert (answer.status_code, answer.json()["error"]["type"]) == (413, "too_many")
    assert time.process_time() - start < 2


def test_wrong_fields_without_end_are_not_described_one_by_one(url):
    wrong = {**item(1), **dict.fromkeys(map(str, range(2000)), 1)}
    assert reasons(score(url, wrong)) == ["item: 2000 fields are wrong"]
    body = b'{"items": [' + b"[]," * 1_000_000 + b"[]]}"
    assert "more than 1000000 values" in request(f"{url}/v1/score", body).text


def test_a_long_id_is_not_repeated_in_every_row(url):
    answer = score(url, item(1, id="x" * 257))
    assert "at most 256" in reasons(answer)[0]
    assert "xx" not in answer.text


def exchange(url, *parts):
    """All that a server answers to bytes on one connection, until it closes or is silent."""
    host, port = url.removeprefix("http://").split(":")
    answer = b""
    with socket.create_connection((host, int(port)), timeout=1) as client:
        for part in parts:
            client.sendall(part)
        while True:
            try:
                received = client.recv(65536)
            except TimeoutError:
                return answer + b"open"
            if not received:
                return answer + b"closed"
            answer += received
    return answer


BODY = json.dumps({"items": [{"prompt": "a", "candidates": [{"text": "a"}]}]}).encode()
HEAD = b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\n"


def test_a_body_of_two_lengths_is_refused(url):
    chunked = b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"
    answer = exchange(url, HEAD + b"Connection: close\r\n" + chunked % (len(BODY), BODY))
    assert answer.startswith((b"HTTP/1.1 411", b"HTTP/1.1 400"))


def test_a_refused_client_that_may_leave_out_its_body_is_not_taken_for_it(url):
    head = HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % 2**40
    answer = exchange(url, head)
    assert answer.startswith(b"HTTP/1.1 413")
    assert answer.endswith(b"closed")


def test_a_body_that_does_not_arrive_frees_its_place(url):
    answer = exchange(url, HEAD + b"Content-Length: 100\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 408")
    assert answer.endswith(b"closed")


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://evil.example", 403), ("null", 403), ("http://localhost:1", 403), (None, 200)],
)
def test_pages_of_others_do_not_use_a_local_server(url, origin, status):
    headers = {"Origin": origin or url, "Content-Type": "text/plain"}
    assert request(f"{url}/v1/score", BODY, **headers).status_code == status


def test_a_client_that_leaves_within_its_body_is_no_failure_of_the_server(url, caplog):
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
    until(lambda: 'path="/v1/score",status="499"' in request(f"{url}/metrics").text)
    assert "ERROR" not in [record.levelname for record in caplog.records]


def test_a_part_that_is_not_unicode_is_refused(url):
    body = b'--cut\r\nContent-Disposition: form-data; name="request"\r\n\r\n\\ud800\r\n--cut--\r\n'
    kind = "multipart/form-data; charset=unicode_escape; boundary=cut"
    assert request(f"{url}/v1/score", body, Content_Type=kind).status_code == 400


def test_errors_of_the_router_are_like_all_others(url):
    assert request(f"{url}/nothing").json()["error"]["type"] == "no_route"
    answer = request(f"{url}/v1/score")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("host", ["[::1]", "LOCALHOST", "127.0.0.1:80"])
def test_names_of_loopback_are_its_own(url, host):
    assert request(f"{url}/health", Host=host).status_code == 200


def test_frames_and_a_file_of_their_hashes_are_different_questions(url):
    """Nothing that is no video has the score of one."""
    frames = {"frames": [b64(grey(40)), b64(grey(50))]}
    assert score(url, {"prompt": "a", "candidates": [frames]}).json()["results"]["light"][0][
        "value"
    ]
    forged = {"video": b64(_digest(Image(grey(40))) + _digest(Image(grey(50))))}
    assert reasons(score(url, {"prompt": "a", "candidates": [forged]}))
