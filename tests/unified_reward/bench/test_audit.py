"""An audit finds the faults of a judge, and none in one that knows the truth."""

from dataclasses import replace

import numpy as np
import pytest

from unified_reward.bench.audit import PERTURBATIONS, audit
from unified_reward.bench.page import write_audit_page
from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.samples import Example, Image, Pair, Sample, Target, Task, Video
from unified_reward.core.verdicts import Preferred, Scale, Score, Scored, Unparsed
from unified_reward.judges.generative import merge_orders
from unified_reward.judges.registry import open_reference
from unified_reward_lab.microworld import make_example


def records(task, n=8):
    return [make_example(task, "compare", split="test", seed=5, index=i) for i in range(n)]


ANSWERS = records(Task.IMAGE_UNDERSTANDING, 24)
PICTURES = records(Task.IMAGE_GENERATION)


class Toy(BaseJudge):
    """A judge of values: prefers the greater one, scores it, and leans to the first place."""

    name, family = "toy", "toy"

    def __init__(self, value, lean=0.0):
        self.value, self.lean = value, lean

    def ask(self, samples, *, orders=2, on_progress=None):
        return [self._verdict(item, orders) for item in samples]

    def _verdict(self, sample, orders):
        values = [self.value(item) for item in sample.candidates]
        if len(values) == 1:
            return Scored(Score(values[0], Scale(0, 100)))
        result = [self._preferred(*values), self._preferred(*values[::-1])]
        return merge_orders(*result) if orders == 2 else result[0]

    def _preferred(self, first, second):
        if first == second and not self.lean:
            return Preferred(0, 1, 0)
        share = min(1, max(0, (1 if first > second else 0 if first < second else 0.5) + self.lean))
        return Preferred(share, 0, 1 - share)


def figures(judge, items):
    return {name: row["value"] for name, row in audit(judge, items).report["metrics"].items()}


def words(answer):
    return len(answer.split()) if isinstance(answer, str) else 0


def test_a_judge_of_length_is_found_out():
    found = figures(Toy(words), ANSWERS)
    assert found["longer_preferred"] == 1
    assert found["repetition_preferred"] == 1
    assert found["repetition_score_shift"] > 0
    assert found["right_where_longer_is_better"] == 1
    assert found["right_where_shorter_is_better"] == 0
    assert (found["position_flips"], found["first_place_pull"]) == (0, 0)
    assert found["agreement"] == 1
    assert found["cycles"] == 0


def test_a_judge_of_places_is_found_out():
    found = figures(Toy(words, lean=1.0), ANSWERS)
    assert found["position_flips"] == 1
    assert found["first_place_pull"] == 0.5


def test_a_judge_without_an_opinion_shows_no_bias_and_one_score():
    found = figures(Toy(lambda _: 50.0), ANSWERS)
    assert (found["ties"], found["longer_preferred"], found["repetition_preferred"]) == (
        1,
        0.5,
        0.5,
    )
    assert (found["distinct_scores"], found["score_entropy_bits"]) == (1, 0)
    assert found["commonest_score"] == 1
    assert "agreement" not in found
    assert "cycles" not in found


def test_a_judge_that_goes_round_in_circles_is_found_out():
    class Circle(Toy):
        def _preferred(self, first, second):
            return Preferred(1, 0, 0) if (first - second) % 3 == 1 else Preferred(0, 0, 1)

    n = {}
    circle = Circle(lambda item: n.setdefault(item, len(n)) % 3)
    assert figures(circle, PICTURES)["cycles"] > 0.2


def test_pixels_move_only_a_judge_that_looks_at_them():
    def area(candidate):
        source = candidate.source
        size = source.size if hasattr(source, "size") and not hasattr(source, "shape") else (64, 64)
        return min(100, size[0] * size[1] / 164)

    found = figures(Toy(area), PICTURES)
    assert found["score_shift.resize_0.5"] == pytest.approx(0.1873, abs=1e-3)
    assert found["score_shift.jpeg_20"] == 0
    assert found["flips.resize_2"] == 0


class Recorder(Toy):
    """Keeps the samples it is asked, call by call."""

    def __init__(self):
        super().__init__(lambda _: 50.0)
        self.calls = []

    def ask(self, samples, *, orders=2, on_progress=None):
        self.calls.append([*samples])
        return super().ask(samples, orders=orders)


def video_example(n_frames, name="v"):
    """Two videos whose frame i has a brightness of 16 i."""
    frames = 16 * np.arange(n_frames)[:, None, None, None] * np.ones((1, 8, 8, 3))
    videos = tuple(Video(frames.astype(np.uint8), "THWC", fps=3.0) for _ in range(2))
    sample = Sample(Task.VIDEO_GENERATION, name, videos, id=name)
    return Example.of(sample, Target(winner="first"))


def test_of_every_video_eight_frames_over_its_whole_length_are_perturbed():
    """For 15 frames 0, 2, … 14; once as they are, once by every perturbation, in the same order."""
    judge = Recorder()
    audit(judge, [video_example(15)])
    perturbed = [
        video
        for call in judge.calls
        for sample in call
        for video in sample.candidates
        if isinstance(video.source, tuple)
    ]
    assert len(perturbed) == (2 + 2) * (1 + len(PERTURBATIONS))  # a comparison, and two scores
    assert {video.fps for video in perturbed} == {3.0}
    for video in perturbed:
        values = [np.asarray(frame.source).mean() for frame in video.source]
        assert values == pytest.approx(range(0, 240, 32), abs=8)
    sizes = [video.source[0].source.size for video in perturbed[::4]]
    assert sizes == [(8, 8), (4, 4), (16, 16), (8, 8), (8, 8), (8, 8)]


def test_media_are_decoded_in_bounded_windows(monkeypatch):
    """A comparison and two scores of 8-frame videos of 64 pixels: 1,024, 512 and 512 pixels."""
    monkeypatch.setattr("unified_reward.bench.audit._MAX_PIXELS", 1500)
    judge = Recorder()
    examples = [video_example(8, f"v{i}") for i in range(2)]
    audit(judge, examples)
    opened = [
        call for call in judge.calls if call and isinstance(call[0].candidates[0].source, tuple)
    ]
    assert [len(call) for call in opened] == [2] * 6 + [3] * 6 + [1] * 6
    unbounded = Recorder()
    monkeypatch.setattr("unified_reward.bench.audit._MAX_PIXELS", 10**9)
    assert audit(judge, examples).report == audit(unbounded, examples).report


def test_what_cannot_be_read_is_counted_and_gives_no_figure():
    class Silent(Toy):
        def _verdict(self, sample, orders):
            return Unparsed("nothing said")

    report = audit(Silent(words), PICTURES).report
    assert report["n_unparsed"] == report["n_questions"] > len(PICTURES)
    assert report["metrics"]["unreadable"]["value"] == 1
    assert "position_flips" not in report["metrics"]
    assert "distinct_scores" not in report["metrics"]


def test_a_missing_picture_fails_alone(tmp_path):
    gone = ANSWERS[0]
    sample = Sample(gone.task, "what?", ("a", "b"), (Image(tmp_path / "gone.png"),), id="gone")
    broken = Example.of(sample, gone.target)
    report = audit(open_reference("scripted:first"), [broken, *ANSWERS[:3]]).report
    once = 1 + 2 + 2 + 2 + 3  # compared, scored, against repetitions, these scored, a triple
    assert once <= report["n_failed"] < report["n_questions"]
    assert report["metrics"]["unreadable"]["value"] == pytest.approx(1 / 4)


def test_a_single_comparison_makes_no_triple():
    class First(Toy):
        def _verdict(self, sample, orders):
            return Preferred(1, 0, 0)

    assert "cycles" not in audit(First(words), ANSWERS[:1]).report["metrics"]
    cycles = audit(First(words), ANSWERS[:2]).report["metrics"]["cycles"]
    assert (cycles["value"], cycles["n"]) == (1, 2)


def test_groups_hold_the_figures_of_their_task_alone():
    report = audit(Toy(words), [*ANSWERS[:3], *PICTURES[:2]]).report
    answers, images = (report["groups"][task.value] for task in (ANSWERS[0].task, PICTURES[0].task))
    assert (answers["ties"]["n"], images["ties"]["n"], report["metrics"]["ties"]["n"]) == (3, 2, 5)
    assert answers["longer_preferred"] == report["metrics"]["longer_preferred"]
    assert "longer_preferred" not in images
    assert images["brier_score"]["n"] == 2
    assert images["distinct_scores"]["value"] == 1 < answers["distinct_scores"]["value"]


def test_every_candidate_of_an_example_is_scored_and_a_made_pair_compared():
    """Four answers without a label, of which the longest and the shortest are a pair, and one."""
    context = ANSWERS[0].context
    answers = ("a", "a b", "a b c", "a b c d")
    four = Example(Task.IMAGE_UNDERSTANDING, "what?", answers, context, id="four")
    report = audit(Toy(words), [four]).report
    assert report["metrics"]["distinct_scores"]["value"] == 4
    assert "ties" not in report["metrics"]
    paired = replace(four, pair=Pair(3, 0))
    metrics = audit(Toy(words), [paired]).report["metrics"]
    assert metrics["longer_preferred"]["n"] == metrics["right_where_longer_is_better"]["n"] == 1
    assert metrics["right_where_longer_is_better"]["value"] == 1


def test_the_page_shows_every_change_and_the_comparisons_that_turn(tmp_path):
    audited = audit(Toy(lambda item: 1.0 if isinstance(item, Image) else 0.0, lean=0.4), PICTURES)
    write_audit_page(audited, tmp_path / "audit.html")
    text = (tmp_path / "audit.html").read_text("utf-8")
    for name in PERTURBATIONS:
        assert name.replace("_", " ") in text
    assert "orders disagree" in text
