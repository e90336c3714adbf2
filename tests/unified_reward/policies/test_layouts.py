"""Layouts are found by numbers: places of latents and timestep, and mixtures of outputs."""

import pytest
import torch

from unified_reward.core.errors import ModelError
from unified_reward.policies import layouts
from unified_reward.policies.layouts import Mixture, Place, explain, find_layout, is_certain
from unified_reward.policies.observation import Call, Step


SHAPE = (1, 4, 6)
TIMESTEPS = (900.0, 600.0, 300.0)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def step(outputs, prediction):
    """A step with a call for each output."""
    calls = [Call("transformer", {}, output) for output in outputs]
    return Step(calls, torch.tensor(900.0), random(*SHAPE), prediction)


@pytest.mark.parametrize("scale", [1.0, 3.0, 4.5, 7.25])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("is_doubled", [False, True])
def test_guidance_is_explained(scale, sign, is_doubled):
    plain, prompted = random(*SHAPE, seed=1), random(*SHAPE, seed=2)
    prediction = sign * (plain + scale * (prompted - plain))
    outputs = [torch.cat([plain, prompted])] if is_doubled else [plain, prompted]
    mixture = explain(step(outputs, prediction))
    assert (mixture.conditional, mixture.sign, mixture.place) == (1, sign, Place(None))
    assert mixture.weights == pytest.approx((1 - scale, scale))


def test_the_prompt_may_come_first():
    prompted, plain = random(*SHAPE, seed=1), random(*SHAPE, seed=2)
    mixture = explain(step([prompted, plain], prompted + 3 * (prompted - plain)))
    assert mixture.conditional == 0
    assert mixture.weights == pytest.approx((4, -3))


@pytest.mark.parametrize("scale", [3.5, 4.5, 7.5])
@pytest.mark.parametrize("is_float", [False, True])
@pytest.mark.parametrize("is_prompt_first", [False, True])
def test_guidance_in_half_precision_is_explained_to_the_last_bit(scale, is_float, is_prompt_first):
    """Outputs that hardly differ show their scale to one digit, and it must not be 4 for 3.5."""
    plain = random(*SHAPE, seed=1).bfloat16()
    prompted = (plain + 0.02 * random(*SHAPE, seed=2)).bfloat16()
    a, b = (plain.float(), prompted.float()) if is_float else (plain, prompted)
    guided = step([plain, prompted][:: -1 if is_prompt_first else 1], a + scale * (b - a))
    mixture = explain(guided, [scale])
    assert mixture.weights[mixture.conditional] == scale
    outputs = [call.output for call in guided.calls]
    assert torch.equal(mixture.mix(outputs, SHAPE), guided.prediction)


def test_equal_outputs_do_not_show_which_is_that_of_the_prompt():
    plain, prompted = random(*SHAPE, seed=1), random(*SHAPE, seed=2)
    for other, is_sure in ((prompted, True), (plain.clone(), False)):
        guided = step([plain, other], plain + 3 * (other - plain))
        assert is_certain(explain(guided, [3.0]), guided) is is_sure


@pytest.mark.parametrize("scale", [0.3, 0.9, 1.0, 1.0001])
def test_small_scales_beyond_the_prompt_are_explained(scale):
    """Z-Image adds the difference to the output of the prompt, and not to the other."""
    plain, prompted = random(*SHAPE, seed=1), random(*SHAPE, seed=2)
    mixture = explain(step([prompted, plain], -(prompted + scale * (prompted - plain))), [scale])
    assert (mixture.conditional, mixture.sign) == (0, -1)
    assert mixture.weights == pytest.approx((1 + scale, -scale))


def test_channels_behind_the_prediction_are_left_out():
    output = random(1, 8, 6)
    mixture = explain(step([output], output[:, :4]))
    assert mixture.place == Place(1)
    assert torch.equal(mixture.mix([output], SHAPE), output[:, :4])


def test_a_restored_norm_is_explained_with_the_scale_of_the_options():
    plain, prompted = random(*SHAPE, seed=1), random(*SHAPE, seed=2)
    mixed = plain + 3 * (prompted - plain)
    mixed = mixed * prompted.norm(dim=-1, keepdim=True) / mixed.norm(dim=-1, keepdim=True)
    mixture = explain(step([plain, prompted], mixed), [2.0, 3.0])
    assert mixture.is_normed
    assert mixture.conditional == 1
    with pytest.raises(ModelError, match="2 outputs of the network and a scale of guidance do not"):
        explain(step([plain, prompted], mixed))


def test_a_prediction_that_is_not_of_the_outputs_is_refused():
    with pytest.raises(ModelError, match="1 outputs of the network and a scale"):
        explain(step([random(*SHAPE)], random(*SHAPE).tanh()))
    with pytest.raises(ModelError, match="0 outputs"):
        explain(step([], random(*SHAPE)))


def test_equal_weights_have_no_prompt():
    outputs = [random(*SHAPE, seed=seed) for seed in (1, 2)]
    mixture = explain(step(outputs, (outputs[0] + outputs[1]) / 2))
    with pytest.raises(ModelError, match="none is that of the prompt"):
        _ = mixture.conditional


def test_two_weights_above_one_have_no_certain_prompt():
    """InstructPix2Pix, guided by the image more than twice as much as by the prompt."""
    prompted, pictured, plain = (random(*SHAPE, seed=seed) for seed in (1, 2, 3))
    prediction = plain + 3 * (prompted - pictured) + 7 * (pictured - plain)
    mixture = explain(step([prompted, pictured, plain], prediction))
    with pytest.raises(ModelError, match="more than one may be that of the prompt"):
        _ = mixture.conditional


def test_predictions_that_are_not_finite_are_refused():
    plain, broken = random(*SHAPE), torch.full(SHAPE, torch.nan)
    with pytest.raises(ModelError, match="numbers that are not finite"):
        explain(step([plain, broken], broken))


def test_forgotten_guidance_is_seen(monkeypatch):
    """The mutation that takes the first output alone, or turns the sign of guidance."""
    plain, prompted = random(*SHAPE, seed=1), random(*SHAPE, seed=2)
    guided = step([plain, prompted], plain + 3 * (prompted - plain))
    for weights in ((1.0, 0.0), (0.0, 1.0), (3.0, -2.0)):
        wrong = Mixture(Place(None), 1.0, weights)
        monkeypatch.setattr(layouts, "_candidates", lambda *_, wrong=wrong: iter([wrong]))
        with pytest.raises(ModelError, match="do not explain"):
            explain(guided)


def calls(timestep, /, *, n=1, behind=0, **changes):
    """Samples and calls of three steps; the network gets other latents behind the noisy ones."""
    samples = [random(n, 4, 6, seed=i) for i in range(3)]
    rest = random(n, behind, 6, seed=9)
    return samples, [
        Call(
            "transformer",
            {
                "hidden_states": torch.cat([sample, rest], 1),
                "timestep": timestep(t) * torch.ones(n),
                "text": random(n, 5, 3),
                "table": random(7, 3),
                "nested": {"masks": [torch.ones(2)] * n},
            }
            | {name: change(i) for name, change in changes.items()},
            sample,
        )
        for i, (sample, t) in enumerate(zip(samples, TIMESTEPS, strict=True))
    ]


def found(timestep, /, **changes):
    samples, single = calls(timestep, **changes)
    _, double = calls(timestep, n=2, **changes)
    return find_layout(single, double[0], samples, TIMESTEPS, 1000)


@pytest.mark.parametrize(
    ("timestep", "divisor", "top"),
    [
        (lambda t: t, 1, 0),
        (lambda t: t / 1000, 1000, 0),
        (lambda t: 1000 - t, 1, 1000),
        (lambda t: (1000 - t) / 1000, 1000, 1000),
    ],
)
def test_the_scale_of_timesteps_is_found(timestep, divisor, top):
    layout = found(timestep)
    assert (layout.noisy, layout.timestep) == (("hidden_states",), ("timestep",))
    assert (layout.divisor, layout.top) == (divisor, top)
    given = layout.network_timestep(torch.tensor([450.0]))
    assert float(given) == pytest.approx(timestep(450.0))


def test_arguments_with_a_row_for_each_sample_are_found():
    assert found(lambda t: t).batched == {
        ("hidden_states",),
        ("timestep",),
        ("text",),
        ("nested", "masks"),
    }


def test_empty_latents_before_the_noisy_ones_are_not_taken_for_them():
    samples, single = calls(lambda t: t)
    first = [
        call._replace(arguments={"control": torch.zeros(1, 4, 6)} | call.arguments)
        for call in single
    ]
    assert find_layout(first, first[0], samples, TIMESTEPS, 1000).noisy == ("hidden_states",)


def test_other_latents_behind_the_noisy_ones_are_found():
    layout = found(lambda t: t, behind=3)
    assert layout.place == Place(1)
    whole = random(1, 7, 6)
    assert torch.equal(layout.place.take(whole, SHAPE), whole[:, :4])
    assert torch.equal(layout.place.rest(whole, SHAPE), whole[:, 4:])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"timestep": lambda i: torch.tensor([i * 7.0])}, "timesteps of an unknown scale"),
        ({"scale": lambda i: i}, "gets scale, timestep that changes from step to step"),
        ({"timestep": lambda _: torch.tensor([900.0])}, "unknown scale"),
        ({"timestep": lambda i: torch.tensor([i * 1.0, 0.0])}, "several timesteps"),
        ({"hidden_states": lambda i: random(1, 4, 6, seed=i).tanh()}, "a form that is not known"),
    ],
)
def test_calls_that_cannot_be_understood_are_refused(changes, text):
    with pytest.raises(ModelError, match=text):
        found(lambda t: t, **changes)
