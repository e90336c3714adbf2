"""The condition of an edit is what its pipeline passes to its network, and nothing else."""

import copy
import math

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from PIL import ImageOps

from tests.unified_reward.policies import editors
from tests.unified_reward.train.aligned import config
from tests.unified_reward.train.observed import (
    TinyDenoiser,
    decoded_latents,
    difference,
    network_latents,
)
from unified_reward import media, policies
from unified_reward.core.errors import DataError, ModelError
from unified_reward.core.samples import Image, Task
from unified_reward.pairs.preferences import trainable_pairs
from unified_reward.policies import Size
from unified_reward.policies.packing import FORM
from unified_reward.train.denoisers import Denoiser
from unified_reward.train.dpo_diffusion import DPOModel
from unified_reward.train.latents import Resolution, cut_alike, encode_pairs
from unified_reward.train.loops import NoiseSample


CPU = torch.device("cpu")
SIZE = Size(16, 24)
PROMPTS = ["make it red", "a blue cat at night"]


def noise(seed, height, width):
    rng = np.random.default_rng(seed)
    return Image(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), "HWC")


SOURCES = [media.open_image(noise(0, 20, 30)), media.open_image(noise(1, 30, 20))]


def open_tiny(folder, **options):
    sampling = {"steps": 2, "guidance": 2.0, "height": SIZE.height, "width": SIZE.width}
    policy = policies.load(folder, sampling | options, device="cpu")
    return TinyDenoiser(Denoiser(policy), SIZE)


@pytest.fixture(scope="module")
def denoisers(editing):
    return {kind: open_tiny(editing[kind] / "policy") for kind in editors.KINDS}


@pytest.fixture(params=editors.KINDS)
def kind(request):
    return request.param


def condition(tiny, *pairs):
    rows = [tiny.denoiser.encode_prompt(prompt, tiny.size, source) for prompt, source in pairs]
    return {name: [row[name] for row in rows] for name in rows[0]}


def noisy_latents(tiny, n):
    step = tiny.observe(PROMPTS[0], source=SOURCES[0]).steps[0]
    shape = (n, *step.sample.shape[1:])
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_a_denoiser_predicts_what_the_network_does_while_the_pipeline_edits(denoisers, kind):
    tiny = denoisers[kind]
    row = condition(tiny, (PROMPTS[0], SOURCES[0]))
    for step in tiny.observe(PROMPTS[0], source=SOURCES[0]).steps:
        call = step.calls[0]
        noisy = network_latents(step)
        timestep = step.timestep.reshape(1)
        found = tiny.denoiser.predict(noisy, timestep, row)
        outputs = [first_part(output, found) for call in step.calls for output in call.output]
        assert min(difference(output, found) for output in outputs) <= 1e-5, call.network
        for prompt, source in ((PROMPTS[1], SOURCES[0]), (PROMPTS[0], SOURCES[1])):
            changed = tiny.denoiser.predict(noisy, timestep, condition(tiny, (prompt, source)))
            assert difference(changed, found) > 1e-3, "prompt and source are seen"


def first_part(output, like):
    return output[None, : like.shape[1]]


@torch.no_grad()
def test_unequal_instructions_and_sources_share_a_batch(denoisers, kind):
    tiny = denoisers[kind]
    pairs = [(prompt, source) for prompt in PROMPTS for source in SOURCES]
    noisy, steps = noisy_latents(tiny, 5), torch.tensor([900, 500, 100, 3, 700])
    order = [0, 1, 2, 3, 0]
    predict = tiny.denoiser.predict
    together = predict(noisy, steps, condition(tiny, *(pairs[i] for i in order)))
    for i, row in enumerate(order):
        alone = predict(noisy[i : i + 1], steps[i : i + 1], condition(tiny, pairs[row]))
        assert difference(together[i], alone[0]) <= 1e-5


def test_sources_whose_places_differ_do_not_share_a_pass(denoisers):
    """24 x 16 and 16 x 24 pixels are as many tokens, at other places."""
    tiny = denoisers["kontext"]
    pairs = [(PROMPTS[0], SOURCES[0]), (PROMPTS[0], SOURCES[1]), (PROMPTS[1], SOURCES[0])]
    rows = condition(tiny, *pairs)
    assert all(len({value.shape for value in values}) == 1 for values in rows.values())
    first, turned, again = (bytes(form.numpy()) for form in rows[FORM])
    assert first == again != turned


def test_latents_are_what_decoding_undoes(denoisers, kind, monkeypatch):
    tiny = denoisers[kind]
    condition(tiny, (PROMPTS[0], SOURCES[0]))
    decoded, encoded = decoded_latents(tiny, monkeypatch, SOURCES[0])
    assert difference(decoded, encoded) <= 1e-6


def packed(latents):
    """Patches of 2 x 2 row by row; in each, channels first."""
    return torch.nn.functional.unfold(latents, 2, stride=2).transpose(1, 2)


def places(index, height, width):
    return [[index, i, j] for i in range(height) for j in range(width)]


def tensor(image):
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    return pixels.double() / 127.5 - 1


class Reference:
    """A pipeline's network in float64, with conditions as its publication writes them."""

    def __init__(self, kind, pipeline):
        self.kind, self.pipeline = kind, pipeline
        self.vae = copy.deepcopy(pipeline.vae).double()
        network = pipeline.unet if kind == "pix2pix" else pipeline.transformer
        self.network = copy.deepcopy(network).double()

    def latents(self, image):
        config, pixels = self.vae.config, tensor(image)
        if self.kind == "pix2pix":
            return self.vae.encode(pixels).latent_dist.mean * config.scaling_factor
        if self.kind == "kontext":
            mean = self.vae.encode(pixels).latent_dist.mean
            return packed((mean - config.shift_factor) * config.scaling_factor)
        mean = self.vae.encode(pixels[:, :, None]).latent_dist.mean[:, :, 0]
        shift, scale = (
            torch.tensor(each).double().view(1, -1, 1, 1)
            for each in (config.latents_mean, config.latents_std)
        )
        return packed((mean - shift) / scale)

    def sigma(self, step):
        """Shifted by 3 for Qwen; the shift of Kontext depends on the size, and is left out."""
        even = (step + 1) / 1000
        return even if self.kind == "kontext" else 3 * even / (1 + 2 * even)

    def predict(self, noisy, step, prompt, source):
        """Prediction at 16 x 16 pixels for an index of the schedule."""
        pipeline, n = self.pipeline, noisy.shape[1]
        if self.kind == "pix2pix":
            named = {"padding": "max_length", "max_length": 32, "return_tensors": "pt"}
            ids = pipeline.tokenizer(prompt, **named).input_ids
            text = pipeline.text_encoder(ids)[0].double()
            image = tensor(ImageOps.fit(source, (16, 16)))
            inputs = torch.cat([noisy, self.vae.encode(image).latent_dist.mean], 1)
            return self.network(inputs, step, text).sample
        timestep = torch.tensor([self.sigma(step)], dtype=torch.float64)
        if self.kind == "kontext":
            named = {"padding": "max_length", "return_tensors": "pt"}
            ids = pipeline.tokenizer_2(prompt, max_length=24, **named).input_ids
            short = pipeline.tokenizer(prompt, max_length=32, **named).input_ids
            scale = math.sqrt(16 * 16 / (source.width * source.height))
            source = source.resize((round(source.width * scale), round(source.height * scale)))
            width, height = (side // 4 * 4 for side in source.size)
            source = source.resize((width, height), PILImage.Resampling.LANCZOS)
            return self.network(
                torch.cat([noisy, self.latents(source)], 1),
                encoder_hidden_states=pipeline.text_encoder_2(ids)[0].double(),
                pooled_projections=pipeline.text_encoder(short).pooler_output.double(),
                timestep=timestep,
                guidance=torch.tensor([2.0], dtype=torch.float64),
                txt_ids=torch.zeros(24, 3),
                img_ids=torch.tensor(places(0, 4, 4) + places(1, height // 4, width // 4)),
            ).sample[:, :n]
        width, height = {32: (192, 96), 16: (128, 128)}[source.width]
        source = source.resize((width, height), PILImage.Resampling.LANCZOS)
        text, _ = pipeline.encode_prompt(prompt, source)
        return self.network(
            torch.cat([noisy, self.latents(source)], 1),
            encoder_hidden_states=text.double(),
            timestep=timestep,
            img_shapes=[[(1, 2, 2), (1, height // 8, width // 8)]],
        ).sample[:, :n]


@pytest.mark.numeric
@pytest.mark.parametrize("kind", ["pix2pix", "kontext", "qwen_edit"])
def test_loss_and_gradients_of_two_pairs_are_the_written_out_ones(kind, editing, tmp_path):
    """Pairs 0 and 1, whose sources have other proportions, for weights moved from the reference."""
    folder = editing[kind]
    policy = policies.load(folder / "policy", device="cpu")
    pairs, _ = trainable_pairs(folder / "pairs.jsonl", [Task.IMAGE_EDITING], pytest.fail)
    denoiser = Denoiser(policy)
    encoded = encode_pairs(pairs, denoiser, tmp_path, Resolution(), pytest.fail)
    model = DPOModel(denoiser, config(beta=20.0, sft=0.3))
    frozen = Reference(kind, policy.pipeline)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.trained.values():
            weight.add_(0.01 * torch.randn(weight.shape, generator=generator))
    moved = Reference(kind, policy.pipeline)
    chosen, rejected, condition = encoded.batch([0, 1], CPU)
    steps = torch.tensor([300, 700])
    noise_of_pairs = torch.randn(chosen.shape, generator=generator)
    result = model.loss(chosen, rejected, condition, NoiseSample(steps, noise_of_pairs))
    result["loss"].backward()

    moved.network.requires_grad_(requires_grad=True)
    expected, margins = 0, []
    for i, step in enumerate(steps.tolist()):
        source = PILImage.open(folder / f"source-{i}.png")
        gaps = []
        for side in ("chosen", "rejected"):
            with torch.no_grad():
                clean = moved.latents(PILImage.open(folder / f"{side}-{i}-0.png"))
            if kind == "pix2pix":
                signal = policy.pipeline.scheduler.alphas_cumprod[step].double()
                alpha, sigma, target = (
                    signal.sqrt(),
                    (1 - signal).sqrt(),
                    noise_of_pairs[i].double(),
                )
            else:
                sigma = moved.sigma(step)
                alpha, target = 1 - sigma, noise_of_pairs[i].double() - clean
            noisy = alpha * clean + sigma * noise_of_pairs[i].double()
            errors = []
            for network in (moved, frozen):
                found = network.predict(noisy, step, f"star {i}", source)
                errors.append((found - target).square().mean())
            gaps.append(errors[0] - errors[1].detach())
            expected = expected + (side == "chosen") * 0.3 * errors[0] / 2
        margins.append(-20.0 * (gaps[0] - gaps[1]))
        expected = expected - torch.nn.functional.logsigmoid(margins[-1]) / 2
    expected.backward()
    assert max(abs(margin.item()) for margin in margins) > 0.01
    assert result["loss"].item() == pytest.approx(expected.item(), rel=1e-4)
    prefix = "unet" if kind == "pix2pix" else "transformer"
    own = {f"{prefix}.{name}": weight for name, weight in moved.network.named_parameters()}
    assert own.keys() == model.trained.keys()
    found = {name: weight.grad for name, weight in model.trained.items() if weight.grad is not None}
    assert found.keys() == {name for name, weight in own.items() if weight.grad is not None}
    largest = max(own[name].grad.abs().max() for name in found)
    for name, gradient in found.items():
        assert (gradient.double() - own[name].grad).abs().max() <= 1e-3 * largest, name


def test_the_shift_of_kontext_depends_on_the_size_and_is_left_out(denoisers):
    schedule = denoisers["kontext"].denoiser.schedule
    assert torch.allclose(schedule.sigma, torch.arange(1, 1001).double() / 1000)


def test_an_editor_is_trained_on_edits(denoisers, kind):
    denoiser = denoisers[kind].denoiser
    assert [*denoiser.networks] == ["unet" if "pix2pix" in kind else "transformer"]
    assert denoiser.policy.size_multiple == editors.MULTIPLES[kind]
    assert Task.IMAGE_EDITING in denoiser.policy.tasks


def test_a_pipeline_for_both_encodes_prompts_without_a_source_too(denoisers):
    """Noisy latents are then all that the network gets, at the same size."""
    tiny = denoisers["kontext"]
    edit, plain = (condition(tiny, (PROMPTS[0], source)) for source in (SOURCES[0], None))
    assert edit["hidden_states"][0].shape[1] == 24
    assert "hidden_states" not in plain
    noisy = noisy_latents(tiny, 2)
    both = {name: [*edit.get(name, [None]), *plain.get(name, [None])] for name in edit | plain}
    predict, steps = tiny.denoiser.predict, torch.tensor([500, 500])
    with torch.no_grad():
        together = predict(noisy, steps, both)
        for i, alone in enumerate((edit, plain)):
            found = predict(noisy[i : i + 1], steps[:1], alone)
            assert difference(found[0], together[i]) <= 1e-5


@pytest.mark.parametrize(
    ("kind", "options", "most"),
    [("pix2pix", {}, 32), ("kontext", {}, 32), ("kontext", {"prompt_tokens": 40}, 40)],
)
def test_instructions_are_read_up_to_the_limit_of_the_longest_encoder(kind, options, most, editing):
    tiny = open_tiny(editing[kind] / "policy", **options)
    condition(tiny, ("a" * (most - 2), SOURCES[0]))
    with pytest.raises(DataError, match=f"{most + 1} tokens, and the text encoder reads {most}"):
        condition(tiny, ("a" * (most - 1), SOURCES[0]))


def test_a_network_whose_noise_stands_behind_the_source_is_refused(editing, monkeypatch):
    tiny = open_tiny(editing["pix2pix"] / "policy")
    cat = torch.cat

    def turned(parts, dim=0):
        is_input = dim == 1 and len(parts) == 2 and parts[0].shape[1] == parts[1].shape[1] == 4
        return cat(parts[::-1] if is_input else parts, dim)

    monkeypatch.setattr(torch, "cat", turned)
    with pytest.raises(ModelError, match="the unet gets the noisy latents in a form that is not"):
        condition(tiny, (PROMPTS[0], SOURCES[0]))


def test_timesteps_of_an_unknown_scale_are_refused(editing):
    """Kontext divides by 1000, whatever the schedule's number of steps."""
    tiny = open_tiny(editing["kontext"] / "policy")
    tiny.pipeline.scheduler.register_to_config(num_train_timesteps=500)
    with pytest.raises(ModelError, match="the transformer gets timesteps of an unknown scale"):
        condition(tiny, (PROMPTS[0], SOURCES[0]))


@pytest.mark.parametrize(
    ("source", "edited", "size", "cut"),
    [
        ((40, 20), (20, 40), (16, 16), (20, 20)),
        ((40, 20), (16, 32), (16, 32), (40, 20)),
        ((41, 20), (16, 32), (16, 16), (20, 20)),
        ((20, 40), (40, 20), (8, 16), (20, 10)),
        ((40, 20), (16, 16), (16, 16), (40, 20)),
    ],
)
def test_a_source_is_cut_as_its_edits_are_where_it_has_their_proportions(source, edited, size, cut):
    """Sizes of sources and cuts are width and height, of edits height and width."""
    image = PILImage.new("RGB", source)
    assert cut_alike(image, edited, size).size == cut
