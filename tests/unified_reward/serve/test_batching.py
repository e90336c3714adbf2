import socket
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.unified_reward.serve.brightness import Brightness
from tests.unified_reward.serve.requests import item, request
from tests.unified_reward.serve.running import serving, until
from unified_reward.core.samples import Image, Sample, Task
from unified_reward.core.verdicts import Preferred, Scale, Score, Scored
from unified_reward.serve.batching import BatchQueue
from unified_reward.serve.config import ServeConfig
from unified_reward.serve.media import CheckedSample
from unified_reward.serve.metrics import Metrics


def score(url, *items, **fields):
    return request(f"{url}/v1/score", {"items": items, **fields})


def values(response):
    return [row["value"] for row in next(iter(response.json()["results"].values()))]


@pytest.fixture
def judge():
    return Brightness()


@pytest.fixture
def pool():
    with ThreadPoolExecutor(16) as pool:
        yield pool


def pending(url):
    text = request(f"{url}/metrics").text
    line = next((one for one in text.splitlines() if "pending_samples{" in one), "0")
    return float(line.split()[-1])


def held_back(judge, url, pool):
    """Let the judge begin a batch that does not end before its gate opens."""
    judge.gate.clear()
    first = pool.submit(score, url, item(0, prompt="first"))
    until(lambda: judge.batches)
    return first


def test_requests_that_wait_make_one_batch(judge, pool):
    with serving({"light": judge}, max_wait_ms=10_000) as url:
        first = held_back(judge, url, pool)
        others = [pool.submit(score, url, item(i, prompt=f"p{i}")) for i in range(8)]
        until(lambda: pending(url) == 9)
        judge.gate.set()
        assert values(first.result()) == [0]
        assert [values(other.result()) for other in others] == [[i] for i in range(8)]
    assert judge.batches[0] == ["first"]
    assert sorted(judge.batches[1]) == [f"p{i}" for i in range(8)]


def test_a_batch_is_no_larger_than_it_may_be(judge):
    with serving({"light": judge}, max_batch=4) as url:
        assert values(score(url, *(item(i, prompt=f"p{i}") for i in range(10)))) == list(range(10))
    assert max(map(len, judge.batches)) <= 4


def test_a_sample_waits_only_while_others_are_on_their_way(judge):
    with serving({"light": judge}, max_wait_ms=3_600_000) as url:
        assert values(score(url, item(1), item(2))) == [1, 2]


def test_equal_questions_are_asked_once(judge):
    with serving({"light": judge}) as url:
        assert values(score(url, item(5), item(5), item(6))) == [5, 5, 6]
        assert values(score(url, item(6), item(7))) == [6, 7]
    assert sum(map(len, judge.batches)) == 3


def test_a_failure_is_asked_again(judge):
    with serving({"light": judge}) as url:
        score(url, item(5, prompt="nan"))
        score(url, item(5, prompt="nan"))
    assert judge.batches == [["nan"], ["nan"]]


def test_a_full_queue_refuses_and_says_when_to_come_back(judge, pool):
    with serving({"light": judge}, max_queue=3) as url:
        first = held_back(judge, url, pool)
        second = pool.submit(score, url, item(1), item(2))
        until(lambda: pending(url) == 3)
        refused = score(url, item(3))
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "queue_full")
        assert int(refused.headers["retry-after"]) >= 1
        judge.gate.set()
        assert values(first.result()) + values(second.result()) == [0, 1, 2]
        assert values(score(url, item(3))) == [3]
        never = score(url, *(item(i) for i in range(4)))
        assert (never.status_code, "at most 3" in never.json()["error"]["message"]) == (413, True)


def test_a_client_that_hangs_up_frees_its_place(judge, pool):
    with serving({"light": judge}) as url:
        first = held_back(judge, url, pool)
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as leaving:
            body = b'{"items": [{"prompt": "gone", "candidates": [{"text": "a"}]}]}'
            leaving.sendall(
                b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s"
                % (len(body), body)
            )
            until(lambda: pending(url) == 2)
        until(lambda: pending(url) == 1)
        judge.gate.set()
        assert values(first.result()) == [0]
        assert values(score(url, item(4))) == [4]
    assert not any("gone" in batch for batch in judge.batches)


def test_an_item_without_a_verdict_in_time_fails(judge, pool):
    with serving({"light": judge}) as url:
        first = held_back(judge, url, pool)
        late = score(url, item(1), timeout_s=0.05)
        assert values(late) == [None]
        assert "no verdict within 0.05 s" in late.text
        judge.gate.set()
        assert values(first.result()) == [0]


def test_a_batch_in_which_the_judge_raises_fails_the_item_alone(judge):
    with serving({"light": judge}) as url:
        answer = score(url, item(1), item(2, prompt="raise"), item(3))
    assert values(answer) == [1, None, 3]


def test_a_server_that_is_stopped_answers_what_it_has(judge, pool):
    with serving({"light": judge}) as url:
        first = held_back(judge, url, pool)
        threading.Timer(0.2, judge.gate.set).start()
    assert values(first.result()) == [0]


def test_samples_that_nobody_waits_for_take_no_memory(judge):
    queue = BatchQueue("light", judge, ServeConfig(), Metrics())
    judge.gate.clear()
    first, second = (Sample(Task.IMAGE_GENERATION, name, (Image(name),)) for name in "ab")
    job = queue.submit([[CheckedSample(first, b"1")]], 2)
    until(lambda: judge.batches)
    left = queue.submit([[CheckedSample(second, b"2")]], 2)
    gone = weakref.ref(second)
    del second
    queue.withdraw(left)
    assert gone() is None
    judge.gate.set()
    assert len(job.done.result(30)) == 1
    queue.close()


class Wrong(Brightness):
    """Answers what is no verdict on the question; the prompt chooses."""

    ANSWERS = {  # noqa: RUF012
        "nothing": None,
        "text": "9",
        "comparison": Preferred(1, 0, 0),
        "numpy": Scored(Score(np.float32(9), Scale(0, 10))),
    }

    def ask(self, samples, *, orders=2, on_progress=None):
        prompts = [sample.prompt for sample in samples]
        if "exit" in prompts:
            raise SystemExit(1)
        if "too few" in prompts:
            return []
        fine = Scored(Score(1, Scale(0, 10)))
        return [self.ANSWERS.get(prompt, fine) for prompt in prompts]


def test_what_is_no_verdict_fails_the_item_alone_and_the_judge_goes_on():
    with serving({"light": Wrong()}) as url:
        wrong = [item(1, prompt=name) for name in (*Wrong.ANSWERS, "exit", "too few")]
        answer = score(url, *wrong, item(1))
        assert values(answer) == [None] * len(wrong) + [1]
        assert all(row["reason"] for row in answer.json()["results"]["light"][:-1])


def test_a_group_of_a_single_broken_candidate_has_no_order(judge):
    broken = {"prompt": "a", "candidates": [{"image": "AAAA"}]}
    with serving({"light": judge}) as url:
        answer = request(f"{url}/v1/group", {"items": [broken]})
    (row,) = answer.json()["results"]["light"]
    assert (row["status"], row["order"], row["win_rates"]) == ("failed", [], [None])
