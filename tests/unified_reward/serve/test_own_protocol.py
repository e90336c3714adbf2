import io

import numpy as np
import pytest

from tests.unified_reward.serve.brightness import Brightness
from tests.unified_reward.serve.requests import b64, encoded, grey, item, npy, request
from tests.unified_reward.serve.running import serving
from unified_reward import media
from unified_reward.io.verdict_rows import VERDICT_KEYS


@pytest.fixture(scope="module")
def url():
    judges = {"light": Brightness(), "first": "scripted:first", "absent": "no_such_judge"}
    with serving(judges, max_pixels=4096, max_frames=8, max_prompt_chars=100, max_items=30) as url:
        yield url


def ask(url, verb, *items, judges=("light",), **fields):
    return request(f"{url}/v1/{verb}", {"judges": judges, "items": items, **fields})


def rows(response):
    assert response.status_code == 200, response.content
    return response.json()["results"]["light"]


def medium_scores(url, *media):
    items = [{"prompt": "a photo", "candidates": [one]} for one in media]
    return rows(ask(url, "score", *items))


FRAMES = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (40, 200, 90)])
MEDIA = {
    "png": {"image": b64(grey(40))},
    "data url": {"image": "data:image/png;base64," + b64(grey(40))},
    "webp": {"image": b64(encoded(FRAMES[0], "WEBP", lossless=True))},
    "jpeg": {"image": b64(encoded(FRAMES[0], "JPEG"))},
    "HWC": {"npy": b64(npy(FRAMES[0])), "layout": "HWC"},
    "CHW": {"npy": b64(npy(FRAMES[0].transpose(2, 0, 1))), "layout": "CHW"},
    "Fortran order": {"npy": b64(npy(np.asfortranarray(FRAMES[0]))), "layout": "HWC"},
    "THWC": {"npy": b64(npy(FRAMES)), "layout": "THWC"},
    "TCHW": {"npy": b64(npy(FRAMES.transpose(0, 3, 1, 2))), "layout": "TCHW", "fps": 8},
    "frames": {"frames": [b64(encoded(frame)) for frame in FRAMES]},
    "mp4": {"video": b64(media.encode_mp4(FRAMES, 8))},
}


def test_every_form_of_a_medium_has_the_score_of_its_pixels(url):
    answers = medium_scores(url, *MEDIA.values())
    values = {name: row["value"] for name, row in zip(MEDIA, answers, strict=True)}
    assert values == dict.fromkeys(MEDIA, 40.0)


def damaged_npy(change):
    return b64(change(npy(FRAMES[0])))


def npy_header(shape):
    """A .npy file that claims pixels it does not have."""
    buffer = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


BROKEN = {
    "cut file": ({"image": b64(grey(40)[:-30])}, "broken"),
    "no image": ({"image": b64(b"hello")}, "not an image"),
    "video as image": ({"image": b64(media.encode_mp4(FRAMES, 8))}, "not an image"),
    "no base64": ({"image": "/etc/passwd"}, "paths and URLs are not opened"),
    "url": ({"image": "http://127.0.0.1/a.png"}, "paths and URLs are not opened"),
    "empty": ({"image": ""}, "empty"),
    "two keys": ({"image": b64(grey(1)), "text": "a"}, "image and text"),
    "path": ({"path": "/etc/passwd"}, "path"),
    "no layout": ({"npy": b64(npy(FRAMES[0]))}, "layout"),
    "wrong layout": ({"npy": b64(npy(FRAMES[0])), "layout": "THWC"}, "THWC"),
    "five channels": ({"npy": b64(npy(np.zeros((4, 4, 5)))), "layout": "HWC"}, "5 channels"),
    "cut array": ({"npy": damaged_npy(lambda raw: raw[:-1]), "layout": "HWC"}, "191 bytes"),
    "no npy": ({"npy": b64(b"PK\x03\x04" * 9), "layout": "HWC"}, "not a .npy file"),
    "objects": (
        {"npy": damaged_npy(lambda raw: raw.replace(b"|u1'", b"|O' ")), "layout": "HWC"},
        "uint8, not object",
    ),
    "huge array": ({"npy": b64(npy_header((10**6, 10**6, 3))), "layout": "HWC"}, "1000000x1000000"),
    "many pixels": ({"image": b64(grey(1, 65))}, "65x65 pixels"),
    "many frames": ({"npy": b64(npy(np.zeros((9, 4, 4, 3)))), "layout": "THWC"}, "9 frames"),
    "many frames of a file": (
        {"video": b64(media.encode_mp4(np.zeros((9, 8, 8, 3), np.uint8), 8))},
        "more than 8 frames",
    ),
    "missing part": ({"image": "part:photo"}, "no part 'photo'"),
}


def test_a_broken_medium_fails_alone_with_its_reason_and_no_number(url):
    good = {"image": b64(grey(7))}
    answers = medium_scores(url, good, *(medium for medium, _ in BROKEN.values()), good)
    assert [answers[0]["value"], answers[-1]["value"]] == [7.0, 7.0]
    for row, (name, (_, reason)) in zip(answers[1:-1], BROKEN.items(), strict=True):
        assert row["status"] == "failed", name
        assert reason in row["reason"], name
        assert row["value"] is row["normalized"] is row["probability"] is None, name


def test_a_row_has_every_key_and_the_id_of_its_item(url):
    answers = rows(ask(url, "score", item(10, id="x"), item(20), item(30, id=7)))
    assert [(row["id"], row["value"]) for row in answers] == [("x", 10), ("1", 20), ("7", 30)]
    assert all(tuple(row) == VERDICT_KEYS for row in answers)
    assert answers[0]["judge"] == "light"
    assert answers[0]["scale"] == [0, 255]


def test_compare_and_rank_and_group_agree(url):
    (compared,) = rows(ask(url, "compare", item(50, 100)))
    assert compared["winner"] == "second"
    (ranked,) = rows(ask(url, "rank", item(50, 100, 20)))
    assert (ranked["order"], ranked["scores"]) == ([1, 0, 2], [50, 100, 20])
    (by_pairs,) = rows(ask(url, "rank", item(50, 100, 20), by="pairs"))
    (group,) = rows(ask(url, "group", item(50, 100, 20)))
    assert by_pairs["order"] == group["order"] == [1, 0, 2]
    assert by_pairs["scores"] == group["win_rates"] == group["scores"]
    assert [row["value"] for row in group["candidates"]] == [50, 100, 20]
    assert [(row["a"], row["b"]) for row in group["pairs"]] == [(0, 1), (0, 2), (1, 2)]
    assert group["pairs"][0]["probability"] == compared["probability"]


def test_a_broken_candidate_leaves_the_rest_of_its_group(url):
    given = item(50, 100)
    given["candidates"].append({"image": b64(b"broken")})
    (group,) = rows(ask(url, "group", given))
    assert group["order"] == [1, 0]
    assert group["win_rates"][2] is None
    assert [row["status"] for row in group["candidates"]] == ["scored", "scored", "failed"]


@pytest.mark.parametrize(
    ("verb", "given", "reason"),
    [
        ("score", item(1, 2), "score takes 1 candidate, not 2"),
        ("compare", item(1), "compare takes 2 candidates, not 1"),
        ("score", {"prompt": "a", "candidates": []}, "candidates"),
        ("score", {"candidates": [MEDIA["png"]]}, "prompt"),
        ("score", item(1, prompt="a" * 101), "101 characters"),
        ("score", item(1, task="painting"), "task"),
        ("score", item(1, seed=1), "seed"),
        ("score", "a photo", "item"),
        ("score", item(1, task="image_understanding"), "answer in words"),
        ("compare", {"prompt": "a", "candidates": [MEDIA["png"], {"text": "a"}]}, "one kind"),
        ("score", item(1, context=[{"text": "a"}]), "context is images and videos"),
    ],
)
def test_an_item_that_is_wrong_fails_alone(url, verb, given, reason):
    good = item(9) if verb == "score" else item(9, 9)
    answers = rows(ask(url, verb, given, good))
    assert answers[0]["status"] == "failed"
    assert reason in answers[0]["reason"]
    assert answers[1]["status"] != "failed"


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b"{", 400, "unreadable"),
        (b"\xff\xfe", 400, "unreadable"),
        ({"judges": ["light"]}, 400, "unreadable"),
        ({"judges": ["light"], "items": [], "order": 1}, 400, "unreadable"),
        ({"judges": ["light"], "items": [{}] * 31}, 400, "unreadable"),
        (b'{"judges": ["light"], "items": [], "timeout_s": NaN}', 400, "unreadable"),
        ({"judges": ["dark"], "items": []}, 404, "unknown_judge"),
        ({"items": []}, 400, "no_judge"),
        ({"judges": ["absent"], "items": []}, 503, "failed"),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused_in_words(url, body, status, kind):
    response = request(f"{url}/v1/score", body)
    assert (response.status_code, response.json()["error"]["type"]) == (status, kind)
    assert "Traceback" not in response.json()["error"]["message"]


def test_a_judge_that_did_not_load_fails_beside_one_that_answers(url):
    response = ask(url, "score", item(3), judges=["light", "absent"])
    assert rows(response)[0]["value"] == 3
    (row,) = response.json()["results"]["absent"]
    assert (row["status"], row["value"]) == ("failed", None)


def test_what_the_judge_cannot_number_is_null(url):
    answers = rows(ask(url, "score", item(1, prompt="nan"), item(2), item(3, prompt="raise")))
    assert [row["value"] for row in answers] == [None, 2, None]
    assert "not a finite number" in answers[0]["reason"]
    assert "out of memory" in answers[2]["reason"]


def test_parts_of_a_multipart_request_are_media(url):
    body = (
        b'--cut\r\nContent-Disposition: form-data; name="request"\r\n\r\n'
        b'{"judges": ["light"], "items": [{"prompt": "a", "candidates": [{"image": "part:p"}]}]}'
        b'\r\n--cut\r\nContent-Disposition: form-data; name="p"; filename="p.png"\r\n\r\n'
        + grey(70)
        + b"\r\n--cut--\r\n"
    )
    response = request(f"{url}/v1/score", body, Content_Type="multipart/form-data; boundary=cut")
    assert rows(response)[0]["value"] == 70
    response = request(
        f"{url}/v1/score", body[:90], Content_Type="multipart/form-data; boundary=cut"
    )
    assert response.status_code == 400


def test_the_roster_names_the_judge_that_could_not_be_loaded(url):
    judges = {one["name"]: one for one in request(f"{url}/v1/judges").json()["judges"]}
    assert {name: one["state"] for name, one in judges.items()} == {
        "light": "ready",
        "first": "ready",
        "absent": "failed",
    }
    assert "no_such_judge" in judges["absent"]["reason"]
    assert request(f"{url}/health").json()["status"] == "ok"


def test_figures_count_requests_and_verdicts(url):
    rows(ask(url, "score", item(11), item(1, prompt="nan")))
    text = request(f"{url}/metrics").text
    assert 'unified_reward_requests_total{path="/v1/score",status="200"}' in text
    assert 'unified_reward_verdicts_total{judge="light",status="failed"}' in text
    assert 'unified_reward_pending_samples{judge="light"} 0.0' in text


def test_the_documented_request_is_the_one_that_is_read(url):
    paths = request(f"{url}/openapi.json").json()["paths"]
    assert "$defs" not in str(paths)
    schema = paths["/v1/score"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"judges", "items", "orders", "by", "timeout_s"} == set(schema["properties"])
    documented = request(f"{url}/docs").text
    assert all(f"<code>{path}</code>" in documented for path in paths)
    assert "http" not in documented
