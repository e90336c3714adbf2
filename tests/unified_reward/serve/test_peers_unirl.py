"""UniRL's wire, by a client that sends and reads as UniRL's does."""

import base64
import math

import httpx
import numpy as np
import pytest

from tests.unified_reward.serve.grey_level import GreyLevel, grey_b64
from tests.unified_reward.serve.running import serving
from unified_reward.media.encode import encode_mp4


IDENTITY = {
    "sample_id": "s",
    "group_id": "g",
    "source_rank": 0,
    "policy_version": 3,
    "scorer_version": None,
}


class Client:
    """Checks the roster once, sends JPEG, and takes a sample without a finite number as failed."""

    def __init__(self, url, *rewards):
        self.rewards = list(rewards)
        self.url = url
        assert {*rewards} <= httpx.get(f"{url}/health").json()["rewards"].keys()

    def score(self, *histories):
        requests = [
            {
                "history": history,
                "required_rewards": self.rewards,
                "metadata": None,
                "request_id": str(i),
                "idempotency_key": f"k{i}",
                **IDENTITY,
            }
            for i, history in enumerate(histories)
        ]
        answer = httpx.post(
            f"{self.url}/score",
            json={"protocol_version": "1", "requests": requests},
            trust_env=False,
        )
        answer.raise_for_status()
        content = answer.json()
        assert content["protocol_version"] == "1"
        for sent, echoed in zip(requests, content["identities"], strict=True):
            assert echoed.items() <= sent.items()
        rows = zip(content["results"], content["errors"], strict=True)
        return [[self.read(name, *row) for name in self.rewards] for row in rows]

    def read(self, name, result, errors):
        values = [*result.get(name, {}).values()]
        if not values:
            return errors[name]
        assert all(type(value) is float and math.isfinite(value) for value in values)
        return values[0]


def turn(level, text="a grey square"):
    return {"text": text, "image_b64": grey_b64(level, "JPEG", quality=95)}


@pytest.fixture(scope="module")
def url():
    judges = {"grey": GreyLevel(), "aspects": GreyLevel(aspects_alone=True)}
    with serving(judges | {"lost": "/no/such/folder"}, scales={"grey": "unifiedreward/5"}) as url:
        yield url


def test_images_and_edits_get_the_rewards_they_ask_for(url):
    client = Client(url, "grey", "aspects")
    generated, edited = client.score([turn(5)], [turn(2), turn(8)])
    assert generated == pytest.approx([1.0, 0.5], abs=0.02)  # 5 / 5; the mean of aspects on [0, 1]
    assert edited == pytest.approx([6 / 5, 0.6], abs=0.02)
    assert sorted(httpx.get(f"{url}/rewards").json()["rewards"]) == ["aspects", "grey"]


def test_a_clip_comes_as_the_bytes_of_its_file(url):
    clip = np.full((8, 32, 32, 3), 102, np.uint8)
    content = base64.b64encode(encode_mp4(clip, 8)).decode()
    found = Client(url, "grey").score([{"text": "a grey clip", "video_b64": content}])
    assert found == [pytest.approx([4 / 5], abs=0.05)]


def test_a_sample_that_fails_has_a_reason_and_the_others_a_reward(url):
    noise = {"text": "a cat", "image_b64": base64.b64encode(b"no image").decode()}
    found = Client(url, "grey").score([turn(5)], [turn(5, "unreadable")], [noise])
    assert found[0] == pytest.approx([1.0], abs=0.02)
    assert found[1] == ["the answer is unreadable: no score in the answer"]
    assert "image" in found[2][0]


def test_a_reward_that_could_not_be_loaded_is_not_on_the_roster_and_fails_alone(url):
    with pytest.raises(AssertionError):
        Client(url, "grey", "lost")
    client = Client(url, "grey")
    client.rewards.append("lost")
    ((light, lost),) = client.score([turn(5)])
    assert light == pytest.approx(1.0, abs=0.02)
    assert lost == "lost could not be loaded; /v1/judges says why"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"history": [{"text": "a", "video_path": "/etc/passwd"}]}, "no path of the server"),
        ({"history": [{"text": "a", "image_ipc": "x"}]}, "no memory of the client"),
        ({"history": [{"text": "a"}]}, "either image_b64 or video_b64"),
        ({"history": []}, "history"),
        ({"history": [turn(1)] * 3}, "history"),
        ({"required_rewards": ["pickscore"]}, "unknown reward 'pickscore'; available: "),
        ({"scorer_version": "2"}, "scorer_version"),
    ],
)
def test_a_request_that_is_wrong_is_refused_at_once(url, change, reason):
    row = {"history": [turn(1)], "required_rewards": ["grey"]} | change
    answer = httpx.post(f"{url}/score", json={"requests": [row]})
    assert answer.status_code == 400
    assert reason in answer.json()["detail"]


def test_a_body_that_is_no_json_is_refused(url):
    answer = httpx.post(f"{url}/score", content=b"\x80\x04K\x01.")
    assert answer.status_code == 400
    assert "not JSON" in answer.json()["detail"]
