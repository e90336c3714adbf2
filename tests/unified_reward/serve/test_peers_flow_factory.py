"""Flow-Factory's wire, by a client that sends and reads as Flow-Factory's does."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.unified_reward.serve.brightness import Brightness
from tests.unified_reward.serve.grey_level import GreyLevel, grey_b64
from tests.unified_reward.serve.running import serving, until
from unified_reward.core.errors import ConfigError


TOKEN = "of-a-trainer"  # noqa: S105


class Client:
    """Checks the server once; three tries without a pause, then an error."""

    def __init__(self, url):
        self.url = url
        self.n_tries = 0
        assert httpx.get(f"{url}/health", timeout=5).is_success

    def compute(self, prompt, path="", **media):
        names = ("image", "video", "condition_images", "condition_videos", "kwargs")
        payload = {"prompt": prompt, **{name: media.get(name) for name in names}}
        for _ in range(3):
            self.n_tries += 1
            answer = httpx.post(f"{self.url}{path}/compute", json=payload, timeout=60)
            if answer.is_success:
                return answer.json()["rewards"]
        raise RuntimeError(answer.status_code, answer.json()["error"])


@pytest.fixture(scope="module")
def client():
    with serving({"a b/c": GreyLevel()}) as url:
        yield Client(url)


def test_images_clips_and_edits_get_a_reward_each(client):
    images = [grey_b64(2), grey_b64(8)]
    two, eight = client.compute(["a", "b"], image=images)
    assert [two, eight] == pytest.approx([2, 8], abs=0.02)
    assert client.compute(["a"], video=[images]) == pytest.approx([5], abs=0.02)
    edit = {"image": [grey_b64(8)], "condition_images": [[grey_b64(2)]]}
    assert client.compute(["a"], **edit) == pytest.approx([6], abs=0.02)


def test_a_judge_is_named_by_the_path(client):
    named = client.compute(["a"], "/j/a%20b/c", image=[grey_b64(3)])
    assert named == pytest.approx([3], abs=0.02)
    with pytest.raises(RuntimeError, match="there is no judge 'b'; served: a b/c"):
        client.compute(["a"], "/j/b", image=[grey_b64(3)])


def test_several_judges_are_told_apart_by_the_path_alone():
    with serving({"a": GreyLevel(), "b": GreyLevel(aspects_alone=True)}) as url:
        client = Client(url)
        assert client.compute(["x"], "/j/b", image=[grey_b64(5)]) == pytest.approx([0.5], abs=0.02)
        with pytest.raises(RuntimeError, match="name a judge: a, b"):
            client.compute(["x"], image=[grey_b64(5)])


def test_one_failed_item_ends_the_request_with_its_reason(client):
    prompts = ["a", "unreadable", "broken"]
    images = [grey_b64(5), grey_b64(5), grey_b64(5)]
    with pytest.raises(RuntimeError) as caught:
        client.compute(prompts, image=images)
    status, reason = caught.value.args
    assert status == 422
    assert reason.startswith("2 of 3 items have no reward: item 1: the answer is unreadable")
    assert "item 2: the model gave nan" in reason


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"prompt": ["a", "b"], "image": ["x"]}, "1 entries of image for 2 prompts"),
        ({"prompt": ["a"]}, "give image or video"),
        ({"prompt": "a", "image": ["x"]}, "prompt"),
        ({"prompt": ["a"], "image": ["/etc/passwd"]}, "paths and URLs are not opened"),
        ({"prompt": ["a"], "image": ["x"], "condition_videos": [["y"]]}, "condition_videos"),
    ],
)
def test_a_request_that_is_wrong_is_refused_with_a_reason(client, fields, reason):
    answer = httpx.post(f"{client.url}/compute", json=fields)
    assert answer.status_code == 422
    assert reason in answer.json()["error"]


def test_a_full_queue_is_a_429_and_a_later_request_is_answered():
    judge = Brightness()
    judge.gate.clear()
    body = {"prompt": ["a"], "image": [grey_b64(5)]}
    with serving({"slow": judge}, max_queue=1) as url, ThreadPoolExecutor(1) as threads:
        first = threads.submit(httpx.post, f"{url}/compute", json=body)
        until(lambda: judge.batches)
        refused = httpx.post(f"{url}/compute", json=body)
        judge.gate.set()
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        assert "slow has 1 samples to judge" in refused.json()["error"]
        assert first.result().json()["rewards"] == pytest.approx([127], abs=1)


def test_clients_that_know_no_tokens_give_it_in_the_url():
    with serving({"a": GreyLevel()}, token=TOKEN) as url:
        client = Client(url.replace("//", f"//trainer:{TOKEN}@"))
        assert client.compute(["x"], image=[grey_b64(5)]) == pytest.approx([5], abs=0.02)
        with pytest.raises(RuntimeError, match="401"):
            Client(url.replace("//", "//trainer:wrong@")).compute(["x"], image=[grey_b64(5)])


@pytest.mark.parametrize("scales", [{"a": "pickscore"}, {"b": "raw"}])
def test_a_scale_names_a_judge_and_a_preset(scales):
    with (
        pytest.raises(ConfigError, match="there is no"),
        serving({"a": GreyLevel()}, scales=scales),
    ):
        pass
