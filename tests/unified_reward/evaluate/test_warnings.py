"""Warnings: each where the figures do not bear out what they seem to say, and nowhere else."""

import pytest

from unified_reward.evaluate.warnings import find_warnings


def paired(difference=0.5, ci95=(0.1, 0.9), win_rate=0.7, flips=0.1):
    return {"difference": difference, "ci95": ci95, "win_rate": win_rate, "flips": flips}


def report(figures, *, sigma=None, prompts=100, outputs=100, missing=()):
    rewards = [*figures]
    counts = {reward: {"outputs": outputs} for reward in rewards}
    return {
        "baseline": "a",
        "prompts": prompts,
        "rewards": rewards,
        "judges": {reward: {"reading_sigma": sigma} for reward in rewards},
        "models": {"a": counts, "b": counts},
        "paired": {"b": figures},
        "missing": missing,
    }


def kinds(*arguments, **options):
    return [row["kind"] for row in find_warnings(report(*arguments, **options))]


@pytest.mark.parametrize(
    ("win_rate", "flips", "found"),
    [(0.7, 0.39, []), (0.7, 0.41, ["order"]), (0.3, 0.41, ["order"]), (0.5, 0.0, []),
     (0.5, None, []), (None, 0.5, [])],
)  # fmt: skip
def test_a_lead_below_half_the_flips_may_be_that_of_the_order(win_rate, flips, found):
    assert kinds({"r": paired(win_rate=win_rate, flips=flips)}) == found


@pytest.mark.parametrize(
    ("sigma", "difference", "found"),
    [(1.0, 0.28, []), (1.0, -0.27, ["reading"]), (None, 0.0, []), (1.0, None, [])],
)
def test_a_difference_within_the_noise_of_readings_is_told(sigma, difference, found):
    """Two means over 100 outputs of deviation 1 differ by up to 1.96 sqrt(2 / 100) = 0.277."""
    assert kinds({"r": paired(difference)}, sigma=sigma) == found


def test_rewards_that_disagree_are_told_in_words_that_fit():
    up, down = paired(0.5, (0.1, 0.9)), paired(-0.2, (-0.5, 0.1))
    (warning,) = find_warnings(report({"r": up, "s": down}))
    assert warning["kind"] == "disagreement"
    assert "b is better than a by r and worse by s, one of them beyond" in warning["text"]
    (warning,) = find_warnings(report({"r": up, "s": paired(-0.2, (-0.5, -0.1))}))
    assert "both beyond their intervals" in warning["text"]
    assert kinds({"r": down, "s": paired(0.2, (-0.1, 0.5))}) == []
    assert kinds({"r": up, "s": paired(0.2, (0.1, 0.3))}) == []
    assert kinds({"r": up, "s": paired(None, None)}) == []


def lost(n, kind="missing", reward="", model="b"):
    return [{"model": model, "kind": kind, "reward": reward}] * n


@pytest.mark.parametrize(
    ("missing", "found"),
    [
        (lost(11), []),
        (lost(12), ["few"]),
        (lost(12, reward="r"), ["few"]),
        (lost(12, reward="s"), []),
        (lost(12, "unmatched"), []),
        (lost(12, model="z"), []),
    ],
)
def test_more_than_a_tenth_of_missing_outputs_are_told(missing, found):
    assert kinds({"r": paired()}, missing=missing) == found


def test_fewer_than_twenty_prompts_are_few():
    assert kinds({"r": paired()}, prompts=19) == ["few"]
    assert kinds({"r": paired()}, prompts=20) == []
