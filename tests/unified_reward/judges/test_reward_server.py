"""A judge of a reward server gives the verdicts of the judge that is served, or says why not."""

import json
import threading
from contextlib import ExitStack

import numpy as np
import PIL.Image
import pytest

import unified_reward as ur
from tests.tolerance import near
from tests.unified_reward.media.made import grey_steps, noise
from tests.unified_reward.scorers import twins
from tests.unified_reward.serve.running import serving
from tests.verdicts import Says
from unified_reward.core.errors import ConfigError, MediaError, ModelError, ServerError
from unified_reward.judges import reward_server
from unified_reward.judges.card import Card
from unified_reward.judges.files import judge_files
from unified_reward.judges.generative import GenerativeJudge
from unified_reward.judges.registry import JudgeOptions
from unified_reward.media import encode_mp4, encode_png, open_image
from unified_reward.serve import hosts


@pytest.fixture(scope="module")
def pickscore(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pickscore")
    twins.pickscore(folder)
    return ur.open_judge(f"pickscore:{folder}", device="cpu")


def aspects_judge():
    """A judge of three aspects without an overall score; it looks at the brightness."""

    def say(request):
        alignment = 1 + round(np.asarray(request.parts[0]).mean() / 255 * 4, 3)
        return f"Alignment Score (1-5): {alignment}\nCoherence Score (1-5): 2\nStyle Score (1-5): 4"

    return GenerativeJudge(Says(say), Card("aspects"))


@pytest.fixture(scope="module")
def served(tiny, pickscore):
    judges = {"tiny": tiny, "org/pick score": pickscore, "aspects": aspects_judge()}
    with serving(judges) as url:
        yield url


def remote(url, name="", **options):
    return ur.open_judge(f"reward+{url}/{name}", **options)


@pytest.fixture
def samples(tmp_path):
    """All tasks, both forms and media of every kind; the second and fourth cannot be read."""
    pixels = noise(6, 24, 30, 3)
    file, broken, clip = (tmp_path / name for name in ("a.png", "broken.png", "a.mp4"))
    file.write_bytes(encode_png(open_image(ur.Image(pixels[0], "HWC"))))
    broken.write_bytes(file.read_bytes()[:60])
    clip.write_bytes(encode_mp4(grey_steps(3), 8))
    clear = PIL.Image.fromarray(np.concatenate([pixels[1], pixels[2, ..., :1]], -1), "RGBA")
    array, floats = (
        ur.Image(pixels[3], "HWC"),
        ur.Image((pixels[4] / 255).transpose(2, 0, 1), "CHW"),
    )
    frames = ur.Video(tuple(ur.Image(file) for _ in range(2)), fps=2.0)
    image = ur.Task.IMAGE_GENERATION
    return [
        ur.Sample(image, "a red cube", (ur.Image(file),)),
        ur.Sample(image, "a red cube", (ur.Image(broken),)),
        ur.Sample(image, "a red cube", (ur.Image(file.read_bytes()), ur.Image(clear))),
        ur.Sample(image, "a red cube", (ur.Image(tmp_path / "none.png"),)),
        ur.Sample(image, "ein roter Würfel", (array, floats)),
        ur.Sample(image, "a half \ud800", (array,)),
        ur.Sample(ur.Task.IMAGE_EDITING, "make it red", (array,), (ur.Image(file),)),
        ur.Sample(ur.Task.VIDEO_GENERATION, "a ball", (ur.Video(clip), frames)),
        ur.Sample(ur.Task.VIDEO_GENERATION, "a ball", (ur.Video(pixels, "THWC", fps=8.0),)),
        ur.Sample(ur.Task.IMAGE_UNDERSTANDING, "How many?", ("two", "three"), (array,)),
        ur.Sample(ur.Task.VIDEO_UNDERSTANDING, "When?", ("never",), (ur.Video(clip),)),
    ]


def numbers(verdict):
    if isinstance(verdict, ur.Preferred):
        return verdict.p_first, verdict.p_tie, verdict.p_second
    return verdict.score.value, verdict.score.sigma or 0.0


@pytest.mark.numeric
@pytest.mark.parametrize("orders", [1, 2])
def test_verdicts_are_those_of_the_judge_itself_in_order_and_a_broken_file_fails_alone(
    tiny, served, samples, orders
):
    done = []
    answered = remote(served, "tiny").ask(samples, orders=orders, on_progress=done.append)
    readable = [i for i in range(len(samples)) if i not in (1, 3, 5)]
    expected = tiny.ask([samples[i] for i in readable], orders=orders)
    for i, wanted in zip(readable, expected, strict=True):
        assert type(answered[i]) is type(wanted)
        assert numbers(answered[i]) == near(numbers(wanted))
        if samples[i].form == "compare":
            assert len(answered[i].orders) == len(wanted.orders)
            assert answered[i].consistent == wanted.consistent
    for i, words in {1: "broken", 3: "none.png: cannot be opened", 5: "UTF-8"}.items():
        assert isinstance(answered[i], ur.Failed)
        assert words in answered[i].error
    assert isinstance(answered[3].cause, MediaError)
    assert sum(done) == len(samples)


@pytest.mark.numeric
def test_a_scorer_scores_compares_and_ranks_as_in_process(pickscore, served):
    judge = remote(served, "org/pick%20score")
    images = [PIL.Image.fromarray(picture) for picture in noise(4, 40, 50, 3)]
    assert judge.score("a cat", image=images[0]).score.value == near(
        pickscore.score("a cat", image=images[0]).score.value
    )
    for by in ("score", "pairs"):
        ranked, wanted = (one.rank("a cat", images=images, by=by) for one in (judge, pickscore))
        assert ranked.order == wanted.order
        assert ranked.scores == near(wanted.scores)
    with pytest.raises(ModelError, match=r"pickscore scores image_generation.*given: video"):
        judge.score("a ball", video=ur.Video(noise(2, 9, 9, 3), "THWC"))
    assert judge.order_free


def test_aspects_keep_the_scales_of_the_roster_so_that_they_rank(served):
    judge = remote(served, "aspects")
    images = [ur.Image(np.full((8, 8, 3), grey, np.uint8), "HWC") for grey in (20, 200, 90)]
    ranked, wanted = (one.rank("x", images=images) for one in (judge, aspects_judge()))
    assert ranked.order == wanted.order == (1, 2, 0)
    assert ranked.scores == pytest.approx(wanted.scores)


def test_a_judge_is_described_as_on_its_server(served, tiny):
    judge = remote(served, "tiny")
    described = json.loads(json.dumps(judge.describe(), allow_nan=False))
    assert described["name"] == judge.name == f"tiny at {served}"
    assert described["tasks"] == tiny.describe()["tasks"]
    assert described["revision"] == tiny.describe()["revision"]
    assert not described.keys() & {"state", "reason"}
    assert judge.family == "compact"
    assert judge_files(f"reward+{served}/tiny", JudgeOptions()) == {}


def test_a_server_that_ends_meanwhile_fails_the_rest_without_numbers():
    sample = ur.Sample(ur.Task.IMAGE_GENERATION, "x", (ur.Image(noise(9, 9, 3), "HWC"),))
    with ExitStack() as running:
        judge = remote(running.enter_context(serving({"tie": ur.open_judge("scripted:tie")})))
        judge.client.retries, judge.window = 0, 2
        verdicts = judge.ask([sample] * 6, on_progress=lambda _: running.close())
    assert [type(one) for one in verdicts] == [ur.Scored] * 2 + [ur.Failed] * 4
    assert all(isinstance(one.cause, ServerError) for one in verdicts[2:])
    with pytest.raises(ServerError, match="no answer from"):
        judge.score("x", image=noise_image())


def noise_image():
    return PIL.Image.fromarray(noise(9, 9, 3))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "name one of the judges of http.*: tiny, org/pick score, aspects"),
        ("tony", "there is no judge 'tony' at http.*: tiny, org/pick score"),
        ("tiny?x=1", "is not a URL such as reward"),
    ],
)
def test_an_unknown_judge_is_refused_with_those_that_there_are(served, name, message):
    with pytest.raises(ConfigError, match=message):
        remote(served, name)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("reward+http://", "is not a URL such as reward"),
        ("reward+https://localhost:port/x", "is not a URL such as reward"),
        ("reward+http://me:secret@localhost/x", "must not carry a login"),
    ],
)
def test_a_url_that_is_none_is_refused(reference, message):
    with pytest.raises(ConfigError, match=message) as caught:
        ur.open_judge(reference)
    assert "secret" not in str(caught.value)


def test_options_of_other_judges_are_refused(served):
    with pytest.raises(ConfigError, match="device='cpu' is for local checkpoints"):
        remote(served, "tiny", device="cpu")


def test_a_token_is_taken_from_the_option_or_the_environment(monkeypatch):
    with serving({"tie": ur.open_judge("scripted:tie")}, token="s3cret") as url:  # noqa: S106
        with pytest.raises(ServerError, match="401"):
            remote(url)
        assert remote(url, api_key="s3cret").score("x", image=noise_image()).score.value == 3
        monkeypatch.setenv("UNIFIED_REWARD_TOKEN", "s3cret")
        assert remote(url, "tie").name == f"tie at {url}"
        with pytest.raises(ConfigError, match="characters that are invalid"):
            remote(url, api_key="ü")


def test_a_judge_that_is_loading_is_waited_for_and_a_failed_one_is_named(monkeypatch):
    monkeypatch.setattr(reward_server, "_POLL_S", 0.01)
    seen, open_reference = threading.Event(), hosts.open_reference

    def open_later(reference, options):
        seen.wait(10)
        return open_reference(reference, options)

    roster = reward_server.RewardClient.judges

    def first_seen(client):
        entries = roster(client)
        seen.set()
        return entries

    monkeypatch.setattr(hosts, "open_reference", open_later)
    monkeypatch.setattr(reward_server.RewardClient, "judges", first_seen)
    with serving({"tie": "scripted:tie", "bad": "scripted:bad"}, waits=False) as url:
        assert remote(url, "tie").score("x", image=noise_image()).score.value == 3
        with pytest.raises(ServerError, match=r"bad at .* could not be loaded: there is no"):
            remote(url, "bad")


def test_a_judge_that_loads_too_long_and_what_is_no_reward_server_are_named(monkeypatch, served):
    monkeypatch.setattr(reward_server, "_LOADING_S", -1.0)
    entry = {"name": "big", "state": "loading"}
    monkeypatch.setattr(reward_server.RewardClient, "judges", lambda _: [entry])
    with pytest.raises(ServerError, match=r"big at http.* is still loading after"):
        remote(served)
    monkeypatch.setattr(reward_server.RewardClient, "judges", lambda _: ["tiny"])
    with pytest.raises(ServerError, match="is not a reward server"):
        remote(served, "tiny")
