"""Memory and results of asking window by window, for every kind of judge."""

import gc
import weakref
from itertools import pairwise

import numpy as np
import PIL.Image
import pytest

import unified_reward as ur
from tests.tolerance import near
from tests.verdicts import Says
from unified_reward import media
from unified_reward.core.verdicts import Failed, Preferred, Scored
from unified_reward.judges.card import Card
from unified_reward.judges.checklist import CARDS, ChecklistJudge
from unified_reward.judges.generative import GenerativeJudge
from unified_reward.judges.model_judge import windows_of
from unified_reward.media import encode_png
from unified_reward.scorers.checklists import Checklist, Question


N = 23


@pytest.fixture
def files(tmp_path):
    """Images of several sizes, the last of them broken."""
    paths = [tmp_path / f"{i}.png" for i in range(N)]
    for i, path in enumerate(paths):
        pixels = np.random.default_rng(i).integers(0, 256, (24 + i % 3 * 16, 32, 3), np.uint8)
        path.write_bytes(encode_png(PIL.Image.fromarray(pixels)))
    paths[-1].write_bytes(b"broken")
    return paths


@pytest.fixture
def opens(monkeypatch):
    """Paths of the images that were opened, in order."""
    opened = []
    open_image = media.open_image

    def counted(image):
        opened.append(image.source)
        return open_image(image)

    monkeypatch.setattr(media, "open_image", counted)
    return opened


def scores(files, prompt="a red star"):
    return [ur.Sample(ur.Task.IMAGE_GENERATION, prompt, (ur.Image(path),)) for path in files]


def pairs(files):
    return [
        ur.Sample(ur.Task.IMAGE_GENERATION, "a red star", (ur.Image(a), ur.Image(b)))
        for a, b in pairwise(files)
    ]


def numbers(verdict):
    if isinstance(verdict, Scored):
        return verdict.score.value
    assert isinstance(verdict, Preferred)
    return verdict.p_first, verdict.p_tie, verdict.p_second


@pytest.mark.numeric
@pytest.mark.parametrize("name", ["tiny_judge", "tiny_scalar"])
def test_windows_give_what_asking_everything_at_once_gives(name, files):
    judge = ur.open_judge(name, device="cpu")
    samples = scores(files) + pairs(files)
    judge.window = 7
    by_window = judge.ask(samples)
    judge.window = len(samples)
    at_once = judge.ask(samples)
    for item, other in zip(by_window, at_once, strict=True):
        if isinstance(other, Failed):
            assert item == other
        else:
            assert numbers(item) == near(numbers(other))


def test_windows_of_equal_batches_give_the_same_to_the_last_digit(files):
    judge = ur.open_judge("tiny_judge", device="cpu", batch_size=4)
    same = scores([path for i, path in enumerate(files[:-1]) if i % 3 == 0])
    judge.window = 4
    by_window = judge.ask(same)
    judge.window = 100
    assert judge.ask(same) == by_window


def alive(images):
    gc.collect()
    return sum(image() is not None for image in images)


class Peak:
    """A model that counts the decoded images that live while it answers."""

    name = "peak"

    def __init__(self):
        self.images, self.most = [], 0

    def generate(self, requests):
        self.most = max(self.most, alive(self.images))
        return Says(lambda _: "Final Score: 3").generate(requests)


@pytest.mark.slow
@pytest.mark.parametrize("breaks", [False, True])
def test_at_most_two_windows_of_images_are_in_memory(files, monkeypatch, breaks):
    model = Peak()
    open_image = media.open_image

    def tracked(image):
        opened = open_image(image)
        model.images.append(weakref.ref(opened))
        return opened

    monkeypatch.setattr(media, "open_image", tracked)
    judge = GenerativeJudge(model, Card("native"))
    judge.window = 3
    samples = scores(files)
    if breaks:  # an error that were kept with its traceback would keep its window
        samples = [s for i, s in enumerate(samples) for s in ([s, samples[-1]] if i % 2 else [s])]
    verdicts = judge.ask(samples)
    assert len(verdicts) == len(samples)
    assert len(model.images) == N - 1
    assert 3 <= model.most <= 2 * judge.window
    assert alive(model.images) == 0


def test_progress_is_the_number_of_samples_of_each_window(files):
    judge = GenerativeJudge(Says(lambda _: "Final Score: 3"), Card("native"))
    steps = []
    judge.ask(scores(files), on_progress=steps.append)
    assert steps == [16, 7]


def test_samples_about_the_same_media_stand_in_one_window(files):
    """Those of two prompts that are asked by turns, and one with more media than a window."""
    first, second, many = files[:4], files[4:8], files[8:]
    samples = [*scores(first), *scores(second), *pairs(second), *pairs(first), *pairs(many)]
    windows = windows_of(samples, 7)
    assert windows[:2] == [[0, 1, 2, 3, 11, 12, 13], [4, 5, 6, 7, 8, 9, 10]]
    assert sorted(i for window in windows for i in window) == [*range(len(samples))]
    for window in windows[2:]:
        assert len({medium for i in window for medium in samples[i].media}) <= 14
    assert windows_of(scores(files), 16) == [[*range(16)], [*range(16, 23)]]
    about_one = scores(files[:1]) * 200
    assert [len(window) for window in windows_of(about_one, 16)] == [128, 72]


def test_replies_are_in_the_order_of_the_samples(files):
    judge = GenerativeJudge(Says(lambda r: f"Final Score: {r.parts[0].height}"), Card("native"))
    judge.window = 2
    heights = [24 + i % 3 * 16 for i in range(6)]
    by_turns = [0, 3, 5, 1, 3, 0]
    replies = judge.query(scores([files[i] for i in by_turns]))
    assert [reply.text for (reply,) in replies] == [f"Final Score: {heights[i]}" for i in by_turns]


def test_an_image_of_neighbouring_samples_is_opened_once(files, opens):
    judge = GenerativeJudge(Says(lambda _: "Image 1 is better."), Card("native"))
    judge.window = 5
    judge.ask(pairs(files))
    assert sorted(opens) == sorted(files)


def test_while_media_are_cached_a_file_is_opened_once_also_a_broken_one(files, opens):
    judge = GenerativeJudge(Says(lambda _: "Final Score: 3"), Card("native"))
    with judge.cache_media():
        failures = judge.check_samples(scores(files))
        assert [failure is not None for failure in failures] == [False] * (N - 1) + [True]
        assert judge.ask(scores(files))[-1] == failures[-1]
        judge.ask(pairs(files))
    assert sorted(opens) == sorted(files)


def test_replies_are_kept_without_the_media(files):
    """Temperatures are fitted on replies; what they are about need not stay in memory."""
    judge = ur.open_judge("tiny_scalar", device="cpu")
    samples = scores(files[:-1])
    replies = judge.query(samples)
    for path in files:
        path.unlink()
    assert judge.decode(samples, replies) == judge.decode(samples, replies)
    assert all(isinstance(verdict, Scored) for verdict in judge.decode(samples, replies))


@pytest.fixture
def checklist():
    """A checklist of two questions over a model that says yes to bright images."""
    questions = [Question("Is it bright?", 2.0), Question("Is it?", 1.0)]
    model = Says(lambda r: "yes" if np.asarray(r.parts[0]).mean() > 100 else "no")
    return ChecklistJudge(Checklist(CARDS["checklist-image"], questions), model)


def test_a_checklist_asks_a_whole_window_at_once(checklist, files, monkeypatch):
    sizes = []
    generate = checklist.model.generate
    monkeypatch.setattr(checklist.model, "generate", lambda r: sizes.append(len(r)) or generate(r))
    checklist.ask(scores(files[:20]))
    assert sizes == [16 * 2, 4 * 2]


def test_a_checklist_opens_each_file_once_and_names_broken_ones_before_it_asks(
    checklist, files, opens
):
    with checklist.cache_media():
        failures = checklist.check_samples(scores(files))
        assert not checklist.model.requests
        assert failures[:-1] == [None] * (N - 1)
        assert str(files[-1]) in failures[-1].error
        checklist.ask(scores(files))
        checklist.ask(pairs(files))
    assert sorted(opens) == sorted(files)
