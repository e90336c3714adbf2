"""Controls whose pairs are known, and a judge read in both modes."""

import io
import json
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
from typer.testing import CliRunner

from unified_reward.cli import app
from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Sample, Task
from unified_reward.judges.card import Calibration
from unified_reward_lab.experiments.sifting import (
    REFERENCES,
    SAMPLED,
    STRATEGIES,
    CachedJudge,
    SiftingStudy,
    _pool,
    _question,
    page,
    plot,
    run,
)
from unified_reward_lab.microworld import true_utilities


N, PROMPTS = 6, 8
REFERENCE = REFERENCES["from_score"]


@pytest.fixture(scope="module")
def controls():
    judges = {"perfect": "perfect", "always first": "scripted:first"}
    return run(SiftingStudy(judges, n=N, prompts=PROMPTS, seeds=(5, 6)))


def test_the_perfect_judge_is_never_wrong_and_finds_the_whole_range_by_points(controls):
    ways = controls["judges"]["perfect"]["soft"]
    for way, entry in ways.items():
        assert way == "random" or entry["better"]["value"] == 1
    ranges = []
    for seed in (5, 6):
        for i in range(PROMPTS):
            utilities = true_utilities(_pool(SiftingStudy(n=N), seed, i))
            ranges.append(max(utilities) - min(utilities))
    assert ways["score"]["gain"]["value"] == pytest.approx(np.mean(ranges), abs=1e-4)
    assert ways["rank+sift"]["gain"]["value"] <= ways["score"]["gain"]["value"]


def test_a_judge_that_always_takes_the_first_gives_no_pair_once_both_orders_are_asked(controls):
    for ways in controls["judges"]["always first"].values():
        for way in ("rank", "rank+sift", "score", REFERENCE):
            assert ways[way]["kept"]["value"] == 0
            assert ways[way]["gain"]["value"] == 0


def test_the_ways_that_are_contrasted_spend_equal_calls(controls):
    ways = controls["judges"]["perfect"]["soft"]
    assert ways["score"]["calls"] == N
    assert ways[REFERENCE]["calls"] == ways["2 Swiss rounds"]["calls"] == 2 * N
    assert ways["rank+sift"]["calls"] <= 2 * N  # those of a tie are not scored
    assert ways["random"]["calls"] == 0


@pytest.mark.parametrize(("key", "reference"), REFERENCES.items())
def test_the_contrast_is_zero_for_the_reference_itself_and_told_by_seed(controls, key, reference):
    for judge in controls["judges"].values():
        for ways in judge.values():
            assert ways[reference][key]["value"] == 0
            assert ways[reference][f"{key}_by_seed"] == [0, 0]
            for entry in ways.values():
                mean = np.mean(entry[f"{key}_by_seed"])
                assert entry[key]["value"] == pytest.approx(mean, abs=1e-4)


@pytest.fixture(scope="module")
def samples():
    pool = _pool(SiftingStudy(n=2), 9, 0)
    two = pool.candidates
    return [
        Sample(pool.task, pool.prompt, two[:1], id="a 0"),
        Sample(pool.task, pool.prompt, two, id="a 0-1"),
    ]


def test_a_coarse_reading_is_drawn_from_the_probabilities_of_the_soft_one(tiny, samples):
    plain = CachedJudge(tiny, "coarse", {})
    soft = tiny.decode(samples, tiny.query(samples), Calibration())
    n = 400
    repeated = [
        Sample(s.task, s.prompt, s.candidates, id=f"{s.id} #{k}") for s in samples for k in range(n)
    ]
    verdicts = plain.ask(repeated)
    values = [entry.score.value for entry in verdicts[:n]]
    assert set(values) <= {1, 2, 3, 4, 5}
    assert np.mean(values) == pytest.approx(
        soft[0].score.value, abs=4 * soft[0].score.sigma / n**0.5 + 0.01
    )
    won = [entry.probability for entry in verdicts[n:]]
    assert np.mean(won) == pytest.approx(soft[1].probability, abs=0.1)
    assert len(plain.cache) == 2


def test_readings_of_a_question_ask_the_model_once(tiny, samples, monkeypatch):
    repeated = []
    generate = tiny.model.generate
    monkeypatch.setattr(
        tiny.model, "generate", lambda requests: repeated.extend(requests) or generate(requests)
    )
    read = CachedJudge(tiny, "soft", {})
    first = read.ask(samples, orders=1)
    again = read.ask(samples, orders=2)
    assert len(repeated) == 1 + 2
    assert again[0] == first[0]
    assert again[1].orders[0].p_first == first[1].p_first


def test_the_two_orders_of_a_pair_are_one_question(tiny, samples):
    pair = samples[1]
    turned = replace(pair.swapped(), id="a 1-0")
    assert _question(turned)[0] == _question(pair)[0]
    read = CachedJudge(tiny, "soft", {})
    first = read.ask([pair])[0]
    monotone = read.ask([turned])[0]
    assert len(read.cache) == 1
    assert monotone.probability == pytest.approx(1 - first.probability)
    (alone,) = read.ask([turned], orders=1)
    assert alone.p_first == pytest.approx(first.orders[1].p_second)
    plain = CachedJudge(tiny, "coarse", read.cache)
    sampled, again = plain.ask([pair])[0], plain.ask([turned])[0]
    assert again.probability == 1 - sampled.probability


def test_a_spoiled_judge_compares_as_before_and_scores_with_an_error_of_its_own(tiny, samples):
    plain, spoiled = CachedJudge(tiny, "soft", {}), CachedJudge(tiny, "soft", {}, spoiled=True)
    again = [replace(samples[0], id=f"{samples[0].id} #1"), samples[1]]
    before, after = plain.ask(samples), spoiled.ask(samples)
    assert after[1] == before[1]
    assert after[0].score != before[0].score
    assert spoiled.ask(again) == after


def test_a_judge_whose_answers_are_sampled_is_read_in_two_modes():
    report = run(
        SiftingStudy({"scalar": "tiny_scalar", "tiny": "tiny_judge"}, n=3, prompts=2, seeds=(5,))
    )
    assert list(report["judges"]["scalar"]) == ["soft"]
    assert list(report["judges"]["tiny"]) == ["soft", "coarse"]
    assert [*report["judges"]["tiny"]["coarse"]] == [*STRATEGIES, *SAMPLED]
    scalar = report["judges"]["scalar"]["soft"]
    assert scalar["adaptive, 0.9"]["calls"] == 3
    assert scalar["adaptive, 0.9"]["gain"] == scalar["score"]["gain"]


def test_the_page_names_every_judge_and_the_cheapest_setting_that_is_as_good(controls):
    text = page(controls)
    for name in controls["judges"]:
        assert f"| {name} | soft |" in text
    assert f"{N:.1f} (50%), `score`" in text
    assert PIL.Image.open(io.BytesIO(plot(controls))).size[0] > 500


@pytest.mark.parametrize(
    "wrong", [{"n": 1}, {"prompts": 1}, {"seeds": ()}, {"task": Task.IMAGE_EDITING}]
)
def test_a_senseless_config_is_refused(wrong):
    with pytest.raises(ConfigError):
        SiftingStudy(**wrong)


def test_the_command_writes_report_page_and_plot(tmp_path):
    given = ["judges={perfect: perfect}", "n=4", "prompts=2", "seeds=[1]"]
    result = CliRunner().invoke(app, ["experiment", "sifting", str(tmp_path), *given])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["judges"]["perfect"]["soft"]["score"]["calls"] == 4
    assert (tmp_path / "sifting.png").is_file()
