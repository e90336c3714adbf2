"""Samples depend on the seed and the number of the sample only."""

import pytest
import torch

from unified_reward.train.loops import NoiseSampler


ALL = torch.arange(1000)


def test_every_pair_comes_once_before_any_comes_again():
    sampler = NoiseSampler(7, ALL, seed=3)
    rows = sampler.pair_indices(range(21))
    for start in (0, 7, 14):
        assert sorted(rows[start : start + 7]) == [*range(7)]
    assert rows[:7] != rows[7:14]


def test_a_sample_does_not_depend_on_the_rest_of_the_batch():
    sampler = NoiseSampler(5, ALL, seed=0)
    together = sampler.sample(range(8), (4, 2, 2))
    assert together.noise.shape == (8, 4, 2, 2)
    for number in range(8):
        alone = sampler.sample([number], (4, 2, 2))
        assert torch.equal(alone.noise[0], together.noise[number])
        assert torch.equal(alone.steps[0], together.steps[number])
        assert sampler.pair_indices([number]) == sampler.pair_indices(range(8))[number : number + 1]


@pytest.mark.parametrize("other", [1, 2**31, 20_260_101_000])
def test_another_seed_gives_other_samples(other):
    here, there = NoiseSampler(50, ALL, 0), NoiseSampler(50, ALL, other)
    assert here.pair_indices(range(50)) != there.pair_indices(range(50))
    (steps, noise), (other_steps, other_noise) = (
        sampler.sample(range(20), (3,)) for sampler in (here, there)
    )
    assert (steps != other_steps).float().mean() > 0.9
    assert (noise != other_noise).all()


def test_steps_are_uniform_over_the_given_ones_and_the_noise_is_normal():
    """4000 samples of four steps: 1000 each, with a standard deviation of 27."""
    sampler = NoiseSampler(1, torch.tensor([3, 10, 500, 999]), seed=0)
    sample = sampler.sample(range(4000), (5,))
    steps, counts = sample.steps.unique(return_counts=True)
    assert steps.tolist() == [3, 10, 500, 999]
    assert all(abs(n - 1000) < 110 for n in counts.tolist())
    assert sample.noise.mean().abs() < 0.03
    assert abs(sample.noise.std() - 1) < 0.02
    assert len(sample.noise.unique()) > 19_900, "no two samples are the same"
