"""What a step draws depends on the seed and the number of the draw alone."""

import pytest
import torch

from unified_reward.train.dpo_diffusion import NoiseSampler


ALL = torch.arange(1000)


def test_every_pair_comes_once_before_any_comes_again():
    draws = NoiseSampler(7, ALL, seed=3)
    rows = draws.pair_indices(range(21))
    for start in (0, 7, 14):
        assert sorted(rows[start : start + 7]) == [*range(7)]
    assert rows[:7] != rows[7:14]


def test_a_draw_does_not_depend_on_its_company():
    draws = NoiseSampler(5, ALL, seed=0)
    together = draws.sample(range(8), (4, 2, 2))
    assert together.noise.shape == (8, 4, 2, 2)
    for number in range(8):
        alone = draws.sample([number], (4, 2, 2))
        assert torch.equal(alone.noise[0], together.noise[number])
        assert torch.equal(alone.steps[0], together.steps[number])
        assert draws.pair_indices([number]) == draws.pair_indices(range(8))[number : number + 1]


@pytest.mark.parametrize("other", [1, 2**31, 20_260_101_000])
def test_another_seed_draws_otherwise(other):
    here, there = NoiseSampler(50, ALL, 0), NoiseSampler(50, ALL, other)
    assert here.pair_indices(range(50)) != there.pair_indices(range(50))
    (one, noise), (two, loud) = here(range(20), (3,)), there(range(20), (3,))
    assert (one != two).float().mean() > 0.9
    assert (noise != loud).all()


def test_places_are_the_allowed_ones_and_even_and_the_noise_is_normal():
    """Of 4000 draws from four places, 1000 each, with a standard deviation of 27."""
    drawn = NoiseSampler(1, torch.tensor([3, 10, 500, 999]), seed=0)(range(4000), (5,))
    places, counts = drawn.steps.unique(return_counts=True)
    assert places.tolist() == [3, 10, 500, 999]
    assert all(abs(n - 1000) < 110 for n in counts.tolist())
    assert drawn.noise.mean().abs() < 0.03
    assert abs(drawn.noise.std() - 1) < 0.02
    assert len(drawn.noise.unique()) > 19_900, "no two draws are the same"
