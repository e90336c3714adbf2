"""The wires of OpenRLHF and slime, by clients that send and read as theirs do, with media added."""

import httpx
import pytest

from tests.unified_reward.serve.grey_level import GreyLevel, grey_b64
from tests.unified_reward.serve.running import serving


@pytest.fixture(scope="module")
def judge():
    return GreyLevel()


@pytest.fixture(scope="module")
def url(judge):
    with serving({"grey": judge}) as url:
        yield url


def get_reward(url, **fields):
    """Post lists, and expect a reward for each query, as OpenRLHF does."""
    answer = httpx.post(f"{url}/get_reward", json=fields, timeout=180)
    answer.raise_for_status()
    content = answer.json()
    assert {"rewards", "scores", "extra_logs"} <= content.keys()
    assert len(content["rewards"]) == len(content["scores"]) == len(fields["query"])
    return content


def remote_rm(url, **fields):
    """Post one sample, and take the reward by its key, as slime does."""
    answer = httpx.post(f"{url}/rm", json={"label": None, **fields}, timeout=120)
    answer.raise_for_status()
    return answer.json()["score"]


def test_responses_about_images_are_judged_without_their_prompts(url, judge):
    prompt = "Is it dark?"
    content = get_reward(
        url,
        query=[f"{prompt}Yes, it is.", f"{prompt}No."],
        prompts=[prompt] * 2,
        labels=["", ""],
        images=[grey_b64(1), [grey_b64(2), grey_b64(3)]],
    )
    assert content["rewards"] == pytest.approx([1.1, 0.3])
    assert [len(sample.context) for sample in judge.asked_samples[-2:]] == [1, 2]
    assert judge.asked_samples[-1].prompt == prompt


def test_media_without_a_response_are_judged_themselves(url):
    content = get_reward(
        url,
        query=["a square", "a clip"],
        images=[grey_b64(4), None],
        videos=[None, [grey_b64(6)] * 2],
    )
    assert content["rewards"] == content["scores"] == pytest.approx([4, 6], abs=0.02)
    assert content["extra_logs"]["light"] == pytest.approx([4, 6], abs=0.02)


def test_a_sample_of_slime_gets_one_reward(url):
    chat = [{"role": "user", "content": [{"type": "text", "text": "Is it dark?"}]}]
    image = grey_b64(5)
    assert remote_rm(url, prompt=chat, response="Yes.", images=image) == pytest.approx(0.4)
    assert remote_rm(url, prompt="a square", response="", images=[image]) == pytest.approx(
        5, abs=0.1
    )


@pytest.mark.parametrize(
    ("path", "fields", "status", "reason"),
    [
        ("get_reward", {"query": ["a"], "prompts": []}, 400, "0 entries of prompts for 1 queries"),
        ("get_reward", {"query": ["a"], "prompts": ["b"]}, 400, "query 0 does not begin"),
        ("get_reward", {"query": ["broken"], "images": [grey_b64(1)]}, 422, "item 0: the model"),
        ("rm", {"prompt": [{"role": "user", "content": [{"type": "image"}]}]}, 400, "send media"),
        ("rm", {"prompt": "a", "images": "file:///etc/passwd"}, 422, "not opened"),
        ("j/lost/rm", {"prompt": "a"}, 404, "no judge 'lost'"),
    ],
)
def test_what_fails_has_a_reason_and_no_reward(url, path, fields, status, reason):
    answer = httpx.post(f"{url}/{path}", json=fields)
    assert answer.status_code == status
    assert reason in answer.json()["error"]
