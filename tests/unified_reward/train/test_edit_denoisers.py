"""The condition of an edit is what its pipeline passes to its network, and nothing else."""

import copy
import json
import math
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from PIL import ImageOps

from tests.tolerance import rounding
from tests.unified_reward.policies import editors
from tests.unified_reward.train.aligned import config
from unified_reward import policies
from unified_reward.core.errors import ModelError
from unified_reward.core.samples import Image, Task
from unified_reward.pairs.preferences import trainable_pairs
from unified_reward.policies import Denoising
from unified_reward.policies.diffusion import DiffusionPolicy
from unified_reward.train.dpo_diffusion import DPOModel, NoiseSample
from unified_reward.train.edit_denoisers import denoiser_of
from unified_reward.train.latents import Resolution, cut_alike, encode_pairs
from unified_reward.train.network_calls import FORM, flatten, intercept_call, unflatten


CPU = torch.device("cpu")
SIZE = (16, 24)
PROMPTS = ["make it red", "a blue cat at night"]


def noise(seed, height, width):
    rng = np.random.default_rng(seed)
    return Image(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), "HWC")


SOURCES = [noise(0, 20, 30), noise(1, 30, 20)]


def open_denoiser(folder, **options):
    sampling = {"steps": 2, "guidance": 1.0, "height": SIZE[0], "width": SIZE[1]}
    denoiser = denoiser_of(policies.load(folder, sampling | options, device="cpu"))
    denoiser.freeze()
    return denoiser


@pytest.fixture(scope="module")
def denoisers(editing):
    return {kind: open_denoiser(editing[kind] / "policy") for kind in editors.KINDS}


@pytest.fixture(params=editors.KINDS)
def kind(request):
    return request.param


@torch.no_grad()
def encode(denoiser, prompt, source, size=SIZE):
    opened = denoiser.policy.open_source([source])
    return denoiser.encode_edit({"prompt": prompt}, opened, size)


def batch(rows):
    return {name: [row[name] for row in rows] for name in rows[0]}


def noisy_latents(denoiser, n, seed=0):
    shape = denoiser.encode_pixels(torch.zeros(1, 3, *SIZE)).shape[1:]
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def same(found, expected):
    return (found - expected).abs().max() <= rounding(expected)


def watched(network):
    """Calls of a network with positional arguments by name, and their outputs."""
    calls = []
    first = "sample" if hasattr(network, "conv_in") else "hidden_states"

    def see(_, given, named, output):
        named = dict(zip((first, "timestep"), given, strict=False)) | named
        calls.append((named[first], named["timestep"], output[0]))

    return calls, network.register_forward_hook(see, with_kwargs=True)


@torch.no_grad()
def test_a_denoiser_predicts_what_the_network_does_while_the_pipeline_edits(denoisers, kind):
    denoiser = denoisers[kind]
    policy, network = denoiser.policy, denoiser.network
    calls, hook = watched(network)
    policy.sample(PROMPTS[0], [SOURCES[0]], [1, 2])
    hook.remove()
    calls = calls[:: len(calls) // 2]
    row = encode(denoiser, PROMPTS[0], SOURCES[0])
    n = noisy_latents(denoiser, 1).shape[1]
    scale = 1 if "pix2pix" in kind else 1000
    for given, timestep, output in calls:
        expected = output[:, :n]
        steps = (timestep * scale).expand(2)
        found = denoiser.predict(given[:, :n], steps, batch([row] * 2))
        assert same(found, expected)
        for prompt, source in ((PROMPTS[1], SOURCES[0]), (PROMPTS[0], SOURCES[1])):
            other = batch([encode(denoiser, prompt, source)] * 2)
            changed = denoiser.predict(given[:, :n], steps, other)
            assert (changed - expected).abs().max() > 0.01, "prompt and source are seen"


@torch.no_grad()
def test_unequal_instructions_and_sources_share_a_batch(denoisers, kind):
    denoiser = denoisers[kind]
    rows = [encode(denoiser, prompt, source) for prompt in PROMPTS for source in SOURCES]
    noisy, steps = noisy_latents(denoiser, 5), torch.tensor([900, 500, 100, 3, 700])
    order = [0, 1, 2, 3, 0]
    together = denoiser.predict(noisy, steps, batch([rows[i] for i in order]))
    for i, row in enumerate(order):
        alone = denoiser.predict(noisy[i : i + 1], steps[i : i + 1], batch([rows[row]]))
        assert same(together[i], alone[0])


def test_sources_whose_places_differ_do_not_share_a_pass(denoisers):
    """24 x 16 and 16 x 24 pixels are as many tokens, at other places."""
    denoiser = denoisers["kontext"]
    rows = [encode(denoiser, PROMPTS[0], source) for source in SOURCES]
    shapes = [{name: value.shape for name, value in row.items()} for row in rows]
    assert shapes[0] == shapes[1]
    assert bytes(rows[0][FORM].numpy()) != bytes(rows[1][FORM].numpy())
    same = encode(denoiser, PROMPTS[1], SOURCES[0])
    assert bytes(rows[0][FORM].numpy()) == bytes(same[FORM].numpy())


@torch.no_grad()
def test_latents_are_what_decoding_undoes(denoisers, kind):
    """Were the ``D(z)`` that the pipeline decodes of a latent ``z`` encoded, it would be ``z``."""
    denoiser = denoisers[kind]
    pipeline, decoded = denoiser.pipeline, []
    latents = noisy_latents(denoiser, 1)
    inputs = denoiser.policy.edit_inputs(denoiser.policy.open_source([SOURCES[0]]), 1)
    inputs |= {"prompt": "a", "num_inference_steps": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.scheduler, "step", lambda *_, **__: (latents,), raising=True)
        decode = pipeline.vae.decode
        patch.setattr(
            pipeline.vae, "decode", lambda z, **named: decoded.append(z) or decode(z, **named)
        )
        pipeline(**inputs)
        posterior = SimpleNamespace(mode=lambda: decoded[0])
        output = SimpleNamespace(latent_dist=posterior)
        patch.setattr(pipeline.vae, "encode", lambda _: output)
        found = denoiser.encode_pixels(torch.zeros(1, 3, *SIZE))
    assert not torch.allclose(decoded[0].flatten(), latents.flatten(), atol=1e-2)
    assert torch.allclose(found, latents, atol=1e-5)


@torch.no_grad()
def test_means_of_latents_have_the_shape_that_is_denoised(denoisers, kind):
    denoiser = denoisers[kind]
    pixels = torch.rand(2, 3, *SIZE) * 2 - 1
    found = denoiser.encode_pixels(pixels)
    assert torch.equal(found, denoiser.encode_pixels(pixels))
    tokens = {"kontext": (4 * 6, 16)}.get(kind, (2 * 3, 16))
    assert found.shape[1:] == ((4, 8, 12) if "pix2pix" in kind else tokens)


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
    denoiser = denoiser_of(policy)
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
    own = dict(moved.network.named_parameters())
    assert own.keys() == model.trained.keys()
    found = {name: weight.grad for name, weight in model.trained.items() if weight.grad is not None}
    assert found.keys() == {name for name, weight in own.items() if weight.grad is not None}
    largest = max(own[name].grad.abs().max() for name in found)
    for name, gradient in found.items():
        assert (gradient.double() - own[name].grad).abs().max() <= 1e-3 * largest, name


def test_the_shift_of_kontext_depends_on_the_size_and_is_left_out(denoisers):
    schedule = denoisers["kontext"].schedule
    assert torch.allclose(schedule.sigma, torch.arange(1, 1001).double() / 1000)


def test_adapters_are_of_the_network_that_denoises(denoisers, kind):
    denoiser = denoisers[kind]
    assert denoiser.network_name == ("unet" if "pix2pix" in kind else "transformer")
    assert denoiser.network is getattr(denoiser.pipeline, denoiser.network_name)
    assert denoiser.size_multiple == editors.MULTIPLES[kind]
    assert denoiser.trained_tasks(denoiser.policy.tasks) == [Task.IMAGE_EDITING]


@pytest.mark.parametrize(
    ("kind", "options", "most"),
    [("pix2pix", {}, 32), ("kontext", {}, 24), ("kontext", {"prompt_tokens": 10}, 10)],
)
def test_instructions_are_read_up_to_the_limit_of_their_encoder(kind, options, most, editing):
    denoiser = open_denoiser(editing[kind] / "policy", **options)
    assert denoiser.prompt_overflow("a" * (most - 2)) is None
    assert denoiser.prompt_overflow("a" * (most - 1)) == (most + 1, most)


@pytest.mark.parametrize("kind", ["Flux2KleinPipeline", "LTXPipeline", "FluxPipeline"])
def test_other_pipelines_are_refused_with_those_that_can_be_aligned(kind):
    bare = object.__new__(getattr(diffusers, kind))
    policy = DiffusionPolicy(bare, Denoising(), name="it", batch_size=1)
    text = f"a {kind} cannot be aligned; supported: .*, WanPipeline, .*, FluxKontextPipeline"
    with pytest.raises(ModelError, match=text):
        denoiser_of(policy)


def test_a_network_without_a_source_in_its_input_is_refused(editing, monkeypatch):
    """A pipeline that forgets the source."""
    denoiser = open_denoiser(editing["kontext"] / "policy")
    prepare = type(denoiser.pipeline).prepare_latents
    monkeypatch.setattr(
        type(denoiser.pipeline),
        "prepare_latents",
        lambda self, _, *rest: prepare(self, None, *rest),
    )
    text = r"takes hidden_states of shape \(1, 24, 16\), which is not noisy latents of shape"
    with pytest.raises(ModelError, match=text):
        encode(denoiser, PROMPTS[0], SOURCES[0])


def test_a_network_whose_noise_stands_behind_the_source_is_refused(editing, monkeypatch):
    denoiser = open_denoiser(editing["pix2pix"] / "policy")
    cat = torch.cat

    def turned(parts, dim=0):
        is_input = dim == 1 and len(parts) == 2 and parts[0].shape[1] == parts[1].shape[1] == 4
        return cat(parts[::-1] if is_input else parts, dim)

    monkeypatch.setattr(torch, "cat", turned)
    with pytest.raises(ModelError, match="takes noise elsewhere than at the begin of sample"):
        encode(denoiser, PROMPTS[0], SOURCES[0])


def test_timesteps_of_an_unknown_scale_are_refused(editing):
    """Kontext divides by 1000, whatever the schedule's number of steps."""
    denoiser = open_denoiser(editing["kontext"] / "policy")
    denoiser.pipeline.scheduler.register_to_config(num_train_timesteps=500)
    with pytest.raises(ModelError, match=r"takes timesteps of an unknown scale, 0\.001"):
        encode(denoiser, PROMPTS[0], SOURCES[0])


def test_arguments_come_back_from_their_form_and_tensors():
    given = {
        "a": torch.ones(2),
        "b": {"c": [torch.zeros(1), (1, 2.5)], "d": None},
        "e": True,
    }
    form, tensors = flatten(given)
    assert [*tensors] == ["a", "b.c.0"]
    again = unflatten(json.loads(json.dumps(form)), tensors)
    assert again["b"]["c"][1] == (1, 2.5)
    assert again["a"] is given["a"]
    assert again["b"]["c"][0] is given["b"]["c"][0]
    assert (again["b"]["d"], again["e"]) == (None, True)
    with pytest.raises(ModelError, match=r"takes a Generator as b\.x cannot be aligned"):
        flatten({"b": {"x": torch.Generator()}})


def test_a_network_that_is_not_called_is_named():
    network = torch.nn.Linear(1, 1)
    with pytest.raises(ModelError, match="does not call its Linear"):
        intercept_call(network, lambda: None)
    with pytest.raises(KeyError):
        intercept_call(network, lambda: {}["a"])
    assert intercept_call(network, lambda: network("x")) == {"input": "x"}
    assert not network._forward_pre_hooks


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
