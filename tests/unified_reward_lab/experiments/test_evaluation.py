"""Evaluations drawn from a pool: what they cover, what they save, and what people's votes add."""

from dataclasses import replace

import numpy as np
import pytest

from unified_reward.core.errors import ConfigError
from unified_reward.evaluate.bradley_terry import fit_bradley_terry
from unified_reward.evaluate.estimates import Estimate
from unified_reward.evaluate.outputs import Comparison, model_pairs
from unified_reward_lab.experiments import evaluation
from unified_reward_lab.experiments.evaluation import (
    BudgetStudy,
    EvaluationStudy,
    PeopleStudy,
    page,
    plot,
    run,
)
from unified_reward_lab.experiments.evaluation_pool import (
    JUDGE,
    MODELS,
    ORACLE,
    PoolConfig,
    Reward,
    blurred,
    distinct_prompts,
    noisy,
    read_pool,
)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A pool in which the better policy is the one before, so that nothing sets them apart."""
    pool = PoolConfig(n=24, better="tiny_image", judge="tiny_scalar")
    return EvaluationStudy(
        tmp_path_factory.mktemp("pool"),
        pool,
        sizes=(6, 12),
        repeats=5,
        budget=BudgetStudy(12, (30,), 3),
        people=PeopleStudy((6,), 20, repeats=5),
    )


@pytest.fixture(scope="module")
def report(study):
    return run(study)


def test_equal_policies_tie_and_a_noisy_copy_is_worse(report):
    pool = report["pool"]
    for reward in (ORACLE, JUDGE):
        assert pool[reward]["difference better"]["value"] == 0
        # Equal pictures of two policies may meet in batches of other widths.
        assert pool[reward]["win_rate better"]["value"] == pytest.approx(0.5, abs=1e-6)
    assert pool[ORACLE]["difference noisy"]["ci95"][1] < 0
    assert report["people"]["models"]["better"]["value"] == 0.5


def test_every_part_is_counted_and_written_down(study, report):
    advanced = []
    assert run(study, advanced.append) == report
    assert sum(advanced) == study.total == 2 * 5 + 2 * 3 + 5
    text = page(report)
    assert "| 12 | judge |" in text
    assert "| noisy | 6 |" in text
    assert plot(report).startswith(b"\x89PNG")


def test_what_was_made_is_not_made_again(study):
    values = study.work / "values.json"
    before = values.stat().st_mtime_ns
    pool = read_pool(study.pool, study.work)
    assert values.stat().st_mtime_ns == before
    assert len(pool.rewards[JUDGE].compared(pool.prompts)) == 6 * 24
    with pytest.raises(ConfigError, match="noise was 20"):
        read_pool(replace(study.pool, noise=5.0), study.work)


def test_an_evaluation_larger_than_the_pool_is_refused():
    with pytest.raises(ConfigError, match="an evaluation of 500 prompts needs a pool of as many"):
        EvaluationStudy(pool=PoolConfig(n=400))


def test_prompts_have_different_captions_and_more_of_them_go_on():
    prompts = distinct_prompts(40, seed=3)
    assert len({prompt.prompt for prompt in prompts}) == 40
    assert distinct_prompts(20, seed=3) == prompts[:20]


def test_blur_and_noise_are_as_strong_as_stated():
    grey = np.full((2, 64, 64, 3), 128, np.uint8)
    assert noisy(grey, 20, np.random.default_rng(0)).std() == pytest.approx(20, rel=0.02)
    assert np.array_equal(blurred(grey[0], 2.0), grey[0])
    edge = np.zeros((8, 64, 3), np.uint8)
    edge[:, 32:] = 255
    assert blurred(edge, 2.0)[4, 32, 0] == pytest.approx(0.6 * 255, abs=12)


def leads(*intervals):
    names = ("better", "before", "blurred")
    return {
        f"lead {name}": Estimate((low + high) / 2, (low, high), 9)
        for name, (low, high) in zip(names, intervals, strict=True)
    }


def test_the_order_is_right_if_every_lead_is_positive_and_apart_if_its_interval_is():
    found = [leads((1, 3), (-1, 2), (1, 2)), leads((-3, -1), (1, 2), (1, 2))]
    order = evaluation._order(found)
    assert order["right"]["value"] == 0.5
    assert [each["value"] for each in order["apart"].values()] == [0.5, 0.5, 1.0]
    assert order["wrong"]["value"] == pytest.approx(1 / 6)


def test_half_and_double_as_many_calls_save_nothing_on_average():
    assert evaluation._saved([0.5, 2.0])["value"] == pytest.approx(0)
    assert evaluation._saved([2.0, 2.0, 2.0])["value"] == pytest.approx(0.5)


def test_even_comparisons_reach_their_own_width_with_their_own_number():
    rng = np.random.default_rng(0)
    prompts = [str(i) for i in range(200)]
    compared = {
        (a, b): {p: Comparison(p, a, b, float(rng.random() < 0.6)) for p in prompts}
        for a, b in model_pairs(MODELS)
    }
    even = evaluation._even(Reward({}, compared), prompts, seed=1)
    counts = [sum((each.a, each.b) == pair for each in even[:300]) for pair in compared]
    assert counts == [50] * 6
    fit = fit_bradley_terry(MODELS, even[:600])
    assert evaluation._reaching(even, fit, model_pairs(MODELS)) == pytest.approx(600, abs=60)


def test_a_tie_is_voted_for_as_a_tie_and_else_one_side_wins():
    votes = evaluation._votes(np.array([0.5] * 3 + [0.8] * 500), np.random.default_rng(0))
    values = [*votes.values()]
    assert values[:3] == [0.5] * 3
    assert {*values[3:]} == {0.0, 1.0}
    assert np.mean(values[3:]) == pytest.approx(0.8, abs=0.05)
