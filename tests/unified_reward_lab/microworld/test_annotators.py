import numpy as np
import pytest

from unified_reward.core.errors import ConfigError
from unified_reward_lab.microworld import NOISELESS, Annotator, annotator


def share_first(labeller, first, second, n=2000):
    rng = np.random.default_rng(0)
    return sum(labeller.prefer(first, second, rng) == "first" for _ in range(n)) / n


def test_the_noiseless_annotator_tells_the_truth():
    rng = np.random.default_rng(0)
    assert NOISELESS.score(0.3, rng) == 0.3
    assert NOISELESS.prefer(0.53, 0.5, rng) == "first"
    assert NOISELESS.prefer(0.5, 0.52, rng) == "tie"
    assert NOISELESS.prefer(0.5, 0.53, rng) == "second"


def test_noisy_preferences_follow_bradley_terry():
    """P = 1 / (1 + exp(-0.1 / 0.1)) = 0.731; standard error 0.0099."""
    assert share_first(annotator("noisy:0.1"), 0.6, 0.5) == pytest.approx(0.731, abs=0.04)


@pytest.mark.parametrize(("first", "share"), [(0.6, 0.731), (0.5, 0.5), (0.4, 0.269)])
def test_the_share_of_wins_is_what_votes_average_to(first, share):
    labeller = annotator("noisy:0.1")
    assert labeller.win_share(first, 0.5) == pytest.approx(share, abs=1e-3)
    assert labeller.win_share(first, 0.5) == pytest.approx(1 - labeller.win_share(0.5, first))
    assert NOISELESS.win_share(first, 0.5) == {0.6: 1.0, 0.5: 0.5, 0.4: 0.0}[first]


def test_noisy_scores_order_a_pair_as_often_as_noisy_preferences():
    rng = np.random.default_rng(0)
    labeller = Annotator(temperature=0.05)
    wins = sum(labeller.score(0.55, rng) > labeller.score(0.5, rng) for _ in range(2000)) / 2000
    assert wins == pytest.approx(0.731, abs=0.04)


def test_position_bias_favours_the_first():
    assert share_first(annotator("position:0.3"), 0.4, 0.6) == 1.0


def test_verbosity_bias_pays_by_the_word_and_only_for_text():
    labeller = annotator("verbosity:0.2")
    assert labeller.perceived(0.5, "red") == pytest.approx(0.52)
    assert labeller.perceived(0.5, "word " * 30) == pytest.approx(0.7)
    assert labeller.perceived(0.5) == 0.5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lazy", "there are noiseless, noisy:T, position:B, verbosity:B, blind:KIND"),
        ("noisy:much", "'much' is not a number"),
        ("noisy:-1", "at least 0, given -1"),
        ("blind:taste", "can be blind to colour, .*given 'taste'"),
        ("blind", "there are noiseless"),
    ],
)
def test_unknown_annotators_are_refused_with_the_names_there_are(name, message):
    with pytest.raises(ConfigError, match=message):
        annotator(name)
