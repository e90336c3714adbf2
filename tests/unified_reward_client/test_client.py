"""The client: what it asks again and what it never does, and that no failure becomes a number."""

import asyncio
import json
import threading
import time

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fake_server import Reply
from tests.unified_reward.serve.brightness import Brightness
from tests.unified_reward.serve.running import serving
from tests.unified_reward_client.fakes import HANGS_UP, fake, row, rows
from unified_reward_client import AsyncRewardClient, Image, Item, RewardClient, ServerError, Video


def items(n):
    return [Item(str(i), ["an answer"]) for i in range(n)]


def error(status, **reply):
    body = json.dumps({"error": {"type": "a", "message": f"no: {status}"}}).encode()
    return Reply(status, body, **reply)


@pytest.fixture(autouse=True)
def connect(monkeypatch):
    """Makes clients that do not wait long, and closes them."""
    monkeypatch.setattr(RewardClient, "backoff_s", 0.001)
    clients = []

    def connect(url, **options):
        clients.append(RewardClient(url, **options))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


@pytest.fixture(scope="module")
def served():
    with serving({"brightness": Brightness(), "lost": "table:/nowhere.csv"}) as url:
        yield url


@pytest.fixture(scope="module")
def echo():
    """A client whose rewards are the prompts as numbers."""
    with fake(lambda _, body: rows(body)) as (url, _), RewardClient(url, concurrency=4) as client:
        yield client


NOW = {"Retry-After": "0"}


@pytest.mark.parametrize(
    "failure",
    [
        HANGS_UP,
        error(429, headers=NOW),
        error(503, headers=NOW),
        Reply(body=b"1234", send_frac=0.5),
    ],
    ids=["hangs up", "429", "503", "breaks off"],
)
def test_a_passing_failure_is_asked_again(connect, failure):
    with fake(lambda n, body: failure if n < 2 else rows(body)) as (url, requests):
        [reward] = connect(url).score("a", [Item("7", ["b"])])
    assert (reward.value, reward.reason, len(requests)) == (7.0, "", 3)


@pytest.mark.parametrize("status", [400, 401, 404, 422, 302])
def test_a_refusal_is_not_asked_again_and_says_why(connect, status):
    with (
        fake(lambda *_: error(status)) as (url, requests),
        pytest.raises(ServerError, match=f"status {status}: no: {status}") as caught,
    ):
        connect(url).score("a", items(1))
    assert (len(requests), caught.value.status) == (1, status)


def test_a_judge_that_could_not_be_loaded_is_not_waited_for(connect):
    body = json.dumps({"error": {"type": "failed", "message": "no weights"}}).encode()
    with (
        fake(lambda *_: Reply(503, body)) as (url, requests),
        pytest.raises(ServerError, match="no weights") as caught,
    ):
        connect(url).score("a", items(1))
    assert (len(requests), caught.value.status) == (1, 503)


def test_a_server_that_is_not_there_is_an_error_after_a_few_tries(connect):
    with fake(rows) as (url, _):
        pass
    client = connect(url, retries=3, concurrency=2)
    with pytest.raises(ServerError, match=r"4 connections lost.*Connection refused"):
        client.score("a", items(200))


def test_a_server_that_dies_is_tried_as_often_as_requests_run_at_a_time(connect):
    with fake(lambda n, body: rows(body) if n < 3 else HANGS_UP) as (url, requests):
        client = connect(url, retries=1, concurrency=2)
        rewards = client.score("a", items(2000))
    answered = [reward for reward in rewards if reward.value is not None]
    assert len(answered) == 3 * 16
    assert len(requests) <= 24  # of 122 requests
    assert all("connections lost" in reward.reason for reward in rewards[-1000:])


def test_a_deadline_is_kept_while_an_answer_drips(connect):
    done = threading.Event()

    def slow(_, body):
        done.wait(10)
        return rows(body)

    with fake(slow) as (url, _):
        start = time.monotonic()
        with pytest.raises(ServerError, match=r"within 0\.2 s"):
            connect(url, timeout_s=0.2).score("a", items(1))
        assert time.monotonic() - start < 2
        done.set()


def test_waiting_longer_than_the_deadline_is_not_begun(connect):
    with (
        fake(lambda *_: error(429, headers={"Retry-After": "3600"})) as (url, requests),
        pytest.raises(ServerError, match="no: 429"),
    ):
        connect(url).score("a", items(1))
    assert len(requests) == 1


def results(*answers, judge="a"):
    return json.dumps({"results": {judge: answers}}).encode()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"results": {"a": [{"id": "0", "status": "scored", "value": NaN}]}}', "NaN is not"),
        (results(), "{'a': 0} rows for 1 items"),
        (results(row("0"), row("1")), "{'a': 2} rows for 1 items"),
        (results(row("0"), judge="b"), "KeyError"),
        (b'{"results": 5}', "TypeError"),
        (results(row("9")), "id '9' for '0'"),
        (results(row("0", True)), "value is True, not a number"),
        (results(row("0", "4")), "value is '4', not a number"),
        (results(row("0", None)), "no overall value"),
        (results(row("0", sigma=[])), "sigma is [], not a number"),
        (results(row("0", aspects={"style": False})), "style is False"),
        (results(row("0", status="good")), "status 'good'"),
        (results(row("0", status="unparsed", reason="no score")), "unparsed: no score"),
        (results({"id": "0"}), "KeyError('status')"),
        (results(5), "TypeError"),
    ],
)
def test_an_answer_that_is_not_as_it_must_be_is_no_number(connect, body, reason):
    good = Item("1", ["b"], id="x" * 5000)  # in a request of its own, and answered
    with fake(
        lambda _, sent: rows(sent) if sent["items"][0]["id"] != "0" else Reply(body=body)
    ) as (
        url,
        requests,
    ):
        bad, other = connect(url).score("a", [*items(1), good])
    assert bad.value is None
    assert reason in bad.reason
    assert other.value == 1.0
    assert len(requests) == 2


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(40)))
def test_the_order_of_many_parallel_requests_is_kept(echo, order):
    questions = [Item(str(i), ["b"]) for i in order]
    rewards = echo.score("a", questions)
    assert [reward.value for reward in rewards] == [float(i) for i in order]


def test_connections_are_kept_and_a_stale_one_is_replaced_at_once(connect):
    addresses = set()

    def respond(n, body):
        return Reply(body=rows(body).body, hangs_up=n == 1)

    with fake(respond) as (url, requests):
        client = connect(url)
        for _ in range(4):
            assert client.score("a", items(1))[0].value == 0.0
            addresses.add(
                client._thread.connection.sock and client._thread.connection.sock.getsockname()
            )
    assert len(requests) == 4
    assert len(addresses) == 2


def test_a_large_call_is_cut_by_bytes_and_by_items(connect, monkeypatch):
    monkeypatch.setattr(RewardClient, "max_bytes", 4000)
    with fake(lambda _, body: rows(body)) as (url, requests):
        client = connect(url, concurrency=1)
        large = [Item(str(i), ["b" * 1000]) for i in range(20)]
        assert [one.value for one in client.score("a", large)] == [float(i) for i in range(20)]
    sizes = [len(body["items"]) for _, _, body in requests]
    assert sum(sizes) == 20
    assert max(sizes) <= 3


def test_the_token_is_sent_and_no_proxy_is_used(connect, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("UNIFIED_REWARD_TOKEN", "of the environment")
    with fake(lambda _, body: rows(body)) as (url, requests):
        connect(url).score("a", items(1))
        connect(url, token="given\n").score("a", items(1))  # noqa: S106
    tokens = [headers["Authorization"] for _, headers, _ in requests]
    assert tokens == ["Bearer of the environment", "Bearer given"]


@pytest.mark.parametrize(
    "arguments",
    [("ftp://a",), ("127.0.0.1:8100",), ("http://a", "webp")],
)
def test_settings_that_make_no_sense_are_refused(arguments):
    with pytest.raises(ValueError, match="not '"):
        RewardClient(arguments[0], image_format=(*arguments, "auto")[1])


def test_the_url_decides_how_pixels_are_sent(connect):
    formats = [connect(url).image_format for url in ("http://127.0.0.2:1", "https://a:1/x")]
    assert formats == ["npy", "png"]


def test_every_kind_of_image_gets_its_number_from_the_real_server(connect, served, tmp_path):
    grey = np.full((8, 6, 3), 100, np.uint8)
    PIL.Image.fromarray(grey).save(tmp_path / "a.png")
    sources = [grey, grey.transpose(2, 0, 1) / 255, PIL.Image.fromarray(grey), tmp_path / "a.png"]
    sources += [(tmp_path / "a.png").read_bytes(), [grey, grey], Video(np.stack([grey] * 3), fps=4)]
    for image_format in ("npy", "png", "jpeg"):
        client = connect(served, image_format=image_format)
        rewards = client.score("brightness", [Item("a photo", [source]) for source in sources])
        assert [reward.value for reward in rewards] == [100.0] * len(sources)
        note = "note: pixels were sent as JPEG of quality 95" if image_format == "jpeg" else ""
        assert {reward.reason for reward in rewards} == {note}
        assert rewards[0].normalized == pytest.approx(100 / 255)


def test_a_lazy_pil_image_is_shared_by_all_requests_of_a_call(connect, served, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    PIL.Image.fromarray(noise).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    client = connect(served)
    for _ in range(5):
        with (
            PIL.Image.open(tmp_path / "a.png") as image,
            PIL.Image.open(tmp_path / "cut.png") as cut,
        ):
            rewards = client.score("brightness", [Item("a", [image])] * 8 + [Item("a", [cut])])
        assert [reward.value for reward in rewards] == [noise.mean()] * 8 + [None]
        assert "the PIL image cannot be loaded" in rewards[8].reason


def test_an_item_that_cannot_be_sent_or_judged_fails_alone(connect, served):
    questions = [
        Item("a photo", [np.full((4, 5, 3), 30, np.uint8)]),
        Item("a photo", [np.full((4, 5, 3), np.nan)]),
        Item("nan", [np.full((4, 5, 3), 30, np.uint8)]),
        Item("a photo", [b"no image"]),
        Item("\ud800", [np.full((4, 5, 3), 30, np.uint8)]),
    ]
    rewards = connect(served, concurrency=1).score("brightness", questions)
    assert [reward.value for reward in rewards] == [30.0, None, None, None, None]
    assert [bool(reward.reason) for reward in rewards] == [False, True, True, True, True]
    assert "NaN" in rewards[1].reason


def test_candidates_are_compared_ranked_and_grouped(connect, served):
    dark, mean, light = (np.full((4, 5, 3), value, np.uint8) for value in (0, 100, 255))
    client = connect(served)
    [reward] = client.compare("brightness", [Item("a", [light, dark])])
    assert reward.value == pytest.approx(1 / (1 + np.exp(-1)))  # temperature 255
    [ranked] = client.rank("brightness", [Item("a", [dark, light, mean])])
    assert [each.value for each in ranked] == [0.0, 255.0, 100.0]
    [rates] = client.group("brightness", [Item("a", [dark, light, mean])])
    low, high, middle = (each.value for each in rates)
    assert low < middle < high
    assert low + middle + high == pytest.approx(1.5)  # half of each of three pairs
    [broken] = client.group("brightness", [Item("a", [dark, b"no image"])])
    assert [each.value for each in broken] == [None, None]
    [[alone]] = client.group("brightness", [Item("a", [dark])])
    assert (alone.value, alone.reason) == (None, "there is no other candidate to compare with")
    [[kept, lost]] = client.rank("brightness", [Item("a", [dark, b"no image"])])
    assert (kept.value, kept.reason, lost.value) == (0.0, "", None)
    assert "not an image" in lost.reason


def test_the_roster_and_the_state_are_read(connect, served):
    client = connect(served)
    client.wait_ready(5)
    assert client.health()["judges"] == {"brightness": "ready", "lost": "failed"}
    assert {judge["name"] for judge in client.judges()} == {"brightness", "lost"}
    with pytest.raises(ServerError, match="no judge 'absent'"):
        client.score("absent", items(1))
    with pytest.raises(ServerError, match=r"nowhere\.csv"):
        client.score("lost", items(1))
    both = client.ask("score", ["brightness", "lost"], [Item("a", [Image(np.zeros((4, 4, 3)))])])
    assert [both[name][0].value for name in both] == [0.0, None]


def test_waiting_ends_when_the_judges_have_loaded_or_failed_or_time_is_over(connect):
    def health(status):
        body = json.dumps({"status": status, "judges": {}}).encode()
        return Reply(200 if status == "ok" else 503, body)

    with fake(lambda n, _: health("loading" if n < 2 else "ok")) as (url, requests):
        connect(url).wait_ready(5)
        assert len(requests) == 3
    with pytest.raises(ServerError, match="refused"):
        connect(url).wait_ready(0.1)
    with fake(lambda *_: health("failed")) as (url, _), pytest.raises(ServerError, match="failed"):
        connect(url).wait_ready(5)


def test_coroutines_of_one_client_run_beside_each_other(connect, served):
    async def ask_all(client):
        grey = np.full((4, 5, 3), 30, np.uint8)
        calls = [client.score("brightness", [Item("a", [grey + i])]) for i in range(20)]
        calls += [client.rank("brightness", [Item("a", [grey])], by="score")]
        return await asyncio.gather(*calls)

    with connect(served) as client:
        *scores, [[ranked]] = asyncio.run(ask_all(AsyncRewardClient(client)))
    assert [reward.value for [reward] in scores] == [30.0 + i for i in range(20)]
    assert ranked.value == 30.0
