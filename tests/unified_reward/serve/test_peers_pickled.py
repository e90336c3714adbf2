"""The wires of pickles, by clients that send and read as those of the trainers do."""

import io
import os
import pickle

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.unified_reward.serve.grey_level import GreyLevel, grey
from tests.unified_reward.serve.running import serving
from unified_reward.core.errors import ConfigError
from unified_reward.serve.config import ServeConfig
from unified_reward.serve.plain_pickle import loads


TOKEN = "a-token"  # noqa: S105


class FlowGrpo:
    """JPEG of Pillow's own quality, 64 a request; repeats status 500 alone, looks at no status."""

    def __init__(self, url):
        self.url = url
        self.statuses = []

    def post(self, data):
        for _ in range(1000):
            answer = httpx.post(self.url, content=pickle.dumps(data), timeout=120)
            self.statuses.append(answer.status_code)
            if answer.status_code != 500:
                break
        return loads(answer.content)

    def score(self, images, prompts=None, key="outputs"):
        """Images of shape (n, height, width, 3), uint8."""
        scores = []
        for batch in np.array_split(np.arange(len(images)), np.ceil(len(images) / 64)):
            data = {"images": [self.jpeg(images[i]) for i in batch]}
            if prompts is not None:
                data["prompts"] = prompts[batch[0] : batch[-1] + 1]
            scores += self.post(data)[key]
        return scores

    @staticmethod
    def jpeg(pixels):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG")
        return buffer.getvalue()


def pixels(*levels):
    return np.stack([np.full((16, 16, 3), round(level * 25.5), np.uint8) for level in levels])


@pytest.fixture(scope="module")
def url():
    with serving({"grey": GreyLevel()}, accept_pickle=True) as url:
        yield url


@pytest.mark.parametrize("prompts", [list, np.array], ids=["flow_grpo", "TempFlow-GRPO"])
def test_flow_grpo_gets_outputs_in_order(url, prompts):
    levels = [i % 10 for i in range(70)]
    client = FlowGrpo(url)
    found = client.score(pixels(*levels), prompts([f"a square {i}" for i in levels]))
    assert found == pytest.approx(levels, abs=0.05)
    assert client.statuses == [200, 200]


def test_geneval_gets_its_five_lists(url):
    tag = {"tag": "colors", "prompt": "a grey square"}
    request = {"images": [grey(4), grey(6)], "meta_datas": [tag, tag], "only_strict": False}
    answer = FlowGrpo(url).post(request)
    for key in ("scores", "rewards", "strict_rewards"):
        assert answer[key] == pytest.approx([4, 6], abs=0.02)
    assert answer["group_rewards"] == answer["group_strict_rewards"] == {}


def test_a_request_without_prompts_needs_the_prompt_in_the_url(url):
    client = FlowGrpo(url)
    with pytest.raises(KeyError, match="outputs"):
        client.score(pixels(5))
    assert client.statuses == [422]
    assert FlowGrpo(f"{url}/j/grey?prompt=").score(pixels(5)) == pytest.approx([5], abs=0.05)


def test_deepgen_gets_scores_of_images_and_edits(url):
    payload = {"images": [grey(3, "JPEG")], "prompts": ["a"], "metadata": {}}
    assert FlowGrpo(url).post(payload)["scores"] == pytest.approx([3], abs=0.05)
    payload["images"] = {"source": [grey(2)], "edited": [grey(9)]}
    assert FlowGrpo(url).post(payload)["scores"] == pytest.approx([7], abs=0.05)


def verl_omni(url, image, prompt):
    """One JPEG a request; repeats 408, 429 and 5xx, else raises with the reason."""
    payload = {"images": [FlowGrpo.jpeg(image)], "prompts": [prompt], "metadata": {}}
    answer = httpx.post(url, content=pickle.dumps(payload), timeout=120)
    content = loads(answer.content)
    if answer.status_code != 200:
        is_repeated = answer.status_code in (408, 429) or answer.status_code >= 500
        raise RuntimeError("again" if is_repeated else content["error"])
    return float(content["scores"][0])


def test_verl_omni_gets_a_score_or_the_reason(url):
    (image,) = pixels(7)
    assert verl_omni(url, image, "a square") == pytest.approx(7, abs=0.05)
    with pytest.raises(RuntimeError, match="item 0: the answer is unreadable"):
        verl_omni(url, image, "unreadable")


def test_editscore_is_refused_with_images_of_pillow_and_served_with_bytes(url):
    request = {
        "input_images": [[Image.new("RGB", (4, 4))]],
        "output_image": [Image.new("RGB", (4, 4))],
        "meta_datas": ['{"instruction": "make it bright"}'],
        "server_type": "vlm",
    }
    client = FlowGrpo(url)
    assert "PIL.Image.Image is not built" in client.post(request)["error"]
    answer = client.post(request | {"input_images": [[grey(1)]], "output_image": [grey(9)]})
    assert client.statuses == [422, 200]
    assert answer["scores"] == pytest.approx([8], abs=0.02)
    assert answer["meta_data"] == request["meta_datas"]
    assert len(answer["reasoning"]) == 1


class Poison:
    def __reduce__(self):
        return os.mkdir, ("poisoned",)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ({"images": [Poison()], "prompts": ["a"]}, "posix.mkdir is not built"),
        ([b"x"], "a dict with images and prompts"),
        ({"images": [grey(1)], "prompts": ["a", "b"]}, "2 prompts for 1 images"),
        ({"images": ["/etc/passwd"], "prompts": ["a"]}, "bytes of PNG"),
        ({"images": [grey(1)], "prompts": [3]}, "prompts are texts"),
        ({"images": {"edited": [grey(1)]}, "prompts": ["a"]}, "images['source'] is a list"),
        ({"images": [b"\xff\xd8noise"], "prompts": ["a"]}, "1 of 1 items have no reward: item 0"),
        ({"images": [grey(1)], "prompts": ["broken"]}, "item 0: the model gave nan"),
    ],
)
def test_what_fails_is_a_422_with_a_pickled_reason_and_no_number(
    url, payload, reason, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    client = FlowGrpo(url)
    answer = client.post(payload)
    assert answer.keys() == {"error"}
    assert client.statuses == [422]
    assert reason in answer["error"]
    assert not [*tmp_path.iterdir()]


def test_bytes_that_are_no_pickle_are_refused(url):
    answer = httpx.post(url, content=b'{"images": []}')
    assert answer.status_code == 422
    assert "opcode" in loads(answer.content)["error"]


def test_pickles_need_the_option_and_a_loopback_address():
    with serving({"grey": GreyLevel()}) as url:
        for path in ("", "/j/grey"):
            answer = httpx.post(url + path, content=pickle.dumps({}))
            assert answer.status_code in (404, 405)
            assert "--accept-pickle" in answer.json()["error"]["message"]
    with pytest.raises(ConfigError, match="loopback"):
        ServeConfig(host="::", token=TOKEN, accept_pickle=True)


def test_a_token_is_needed_for_pickles_too():
    with serving({"grey": GreyLevel()}, accept_pickle=True, token=TOKEN) as url:
        body = pickle.dumps({"images": [grey(2)], "prompts": ["a"]})
        assert httpx.post(url, content=body).status_code == 401
        header = {"Authorization": f"Bearer {TOKEN}"}
        assert httpx.post(url, content=body, headers=header).status_code == 200
