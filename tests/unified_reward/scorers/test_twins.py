"""Scores of tiny twins in the released layouts, against float64 equations; and what breaks them."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import BatchEncoding

import unified_reward as ur
from tests.unified_reward.scorers import expected, twins
from unified_reward.checkpoints import tokenizers
from unified_reward.scorers import (
    aesthetic,
    clipscore,
    editreward,
    hps,
    imagereward,
    pickscore,
    qwen_vl,
    system,
)
from unified_reward.scorers import videoreward as videoreward_file
from unified_reward.scorers import videoscore as videoscore_file


CAPTION = "a red ball, and 2 cats"
LONG = "many words " * 60
RNG = np.random.default_rng(7)
PICTURE = RNG.integers(0, 256, (90, 161, 3), dtype=np.uint8)
TALL = RNG.integers(0, 256, (301, 224, 3), dtype=np.uint8)
SQUARE = RNG.integers(0, 256, (448, 448, 3), dtype=np.uint8)
"""448 x 448: HPSv3 leaves it as it is."""
LYING = np.random.default_rng(8).integers(0, 256, (224, 896, 3), dtype=np.uint8)
"""The area of 448 x 448, so that EditReward leaves it unresized."""
CLIP = RNG.integers(0, 256, (9, 336, 308, 3), dtype=np.uint8)
SHORT = RNG.integers(0, 256, (5, 308, 336, 3), dtype=np.uint8)
"""Frames whose area is within all bounds and whose sides are multiples of 28."""
WIDE = RNG.integers(0, 256, (21, 392, 406, 3), dtype=np.uint8)
FEW = RNG.integers(0, 256, (2, 406, 392, 3), dtype=np.uint8)
"""Sides between those that VideoScore leaves as they are."""


def picture(pixels):
    return ur.Sample(ur.Task.IMAGE_GENERATION, CAPTION, (ur.Image(pixels, "HWC"),))


def edit(before, after):
    source, edited = (ur.Image(pixels, "HWC") for pixels in (before, after))
    return ur.Sample(ur.Task.IMAGE_EDITING, CAPTION, (edited,), (source,))


def clip(frames, fps=8.0):
    return ur.Sample(ur.Task.VIDEO_GENERATION, CAPTION, (ur.Video(frames, "THWC", fps=fps),))


def questions(name):
    """Samples, and by hand the pixels that each shows."""
    if name == "hpsv3":
        return [(picture(SQUARE), SQUARE), (picture(SQUARE[::-1]), SQUARE[::-1])]
    if name == "editreward":
        return [
            (edit(first, second), (first, second))
            for first, second in ((SQUARE, LYING), (LYING, SQUARE))
        ]
    if name == "videoreward":  # 2 a second of 9 and 5 frames at 8 a second: at least 4
        return [(clip(CLIP), CLIP[[0, 3, 5, 8]]), (clip(SHORT), SHORT[[0, 1, 3, 4]])]
    if name == "videoscore-qwen2-vl":  # 8 a second: 9 and 5 frames, made even
        return [(clip(CLIP), CLIP[[0, 1, 2, 3, 5, 6, 7, 8]]), (clip(SHORT), SHORT[[0, 1, 3, 4]])]
    if name == "videoscore":  # positions i * 21 / 16, cut off
        visible = [0, 1, 2, 3, 5, 6, 7, 9, 10, 11, 13, 14, 15, 17, 18, 19]
        return [(clip(WIDE), WIDE[visible]), (clip(FEW), FEW)]
    if name == "videoscore-v1.1":
        return [(clip(WIDE), WIDE), (clip(FEW), FEW)]
    return [(picture(PICTURE), PICTURE), (picture(TALL), TALL)]


def by_equations(name, folder, state, caption, pixels):
    match name:
        case "pickscore":
            return expected.pickscore(state, caption, pixels)
        case "hpsv1" | "hpsv2" | "hpsv2.1":
            return expected.hps(state, caption, pixels, is_first=name == "hpsv1")
        case "imagereward":
            return expected.imagereward(state, caption, pixels)
        case "clipscore":
            return expected.clipscore(state, caption, pixels)
        case "clip-cosine":
            return expected.clip_cosine(state, caption, pixels)
        case "aesthetic-v2":
            return expected.aesthetic(state, pixels)
        case "videoreward":
            return expected.videoreward(state, caption, pixels, folder=folder)
        case "hpsv3" | "editreward":
            return getattr(expected, name)(state, caption, pixels)
        case "videoscore-qwen2-vl":
            return expected.videoscore_qwen(state, caption, pixels)
    return expected.videoscore_idefics(state, caption, pixels)


def result(name, scored):
    """Values of a verdict, in the order of the model's outputs."""
    assert isinstance(scored, ur.Scored), scored
    if scored.aspects:
        assert tuple(scored.aspects) == system(name).card.aspects
        values = [item.value for item in scored.aspects.values()]
        if name != "editreward":
            return values
        assert scored.score.value == pytest.approx(sum(values) / 2)
        pairs = ((item.value, np.log(item.sigma)) for item in scored.aspects.values())
        return [value for pair in pairs for value in pair]
    values = [scored.score.value]
    return values if scored.score.sigma is None else [*values, np.log(scored.score.sigma)]


WANTED = {}
"""Values by the equations, which no mutation of a scorer changes."""


def differences(name, twin):
    """Largest distance of a twin's scores from the equations, of all its samples in one batch."""
    folder, state = twin(name)
    scorer = ur.open_judge(f"{name}:{folder}", device="cpu", dtype="float64")
    pairs = questions(name)
    verdicts = scorer.ask([sample for sample, _ in pairs])
    if name not in WANTED:
        WANTED[name] = [by_equations(name, folder, state, CAPTION, pixels) for _, pixels in pairs]
    wanted = WANTED[name]
    got = [result(name, item) for item in verdicts]
    assert np.ptp(wanted, axis=0).max() > 0.02, "the twin cannot tell its samples apart"
    return float(np.abs(np.array(got) - np.array(wanted)).max())


EXACT = {"pickscore": 1e-5, "hpsv1": 1e-6, "hpsv2": 1e-6, "hpsv2.1": 1e-6, "imagereward": 5e-6}
EXACT |= {"clipscore": 3e-6, "clip-cosine": 1e-6, "aesthetic-v2": 5e-6}
"""Models computed in float64 from float32 pixels; others cast within to float32: 1e-4."""


def agrees(name, twin):
    return differences(name, twin) < EXACT.get(name, 1e-4)


@pytest.mark.numeric
@pytest.mark.parametrize("name", twins.MAKERS)
def test_a_twin_scores_as_the_equations_say(name, twin):
    assert differences(name, twin) < EXACT.get(name, 1e-4)


def _wrong_activation(patch):
    patch.setattr(hps.HPSv2, "activation", "quick_gelu")


def _other_cut(patch):
    patch.setattr(hps.HPSv21, "fit", hps.HPSv1.fit)


def _without_scale(patch):
    patch.setattr(pickscore.PickScore, "points", pickscore.PickScore.cosine)


def _without_words(patch):
    patch.setattr(clipscore.CLIPScore, "prefix", "")


def _without_weight(patch):
    patch.setattr(clipscore, "_WEIGHT", 1.0)


def _with_words(patch):
    patch.setattr(clipscore.CLIPCosine, "prefix", "A photo depicts ")


def _not_normalised(patch):
    patch.setattr(aesthetic, "functional", SimpleNamespace(normalize=lambda x, dim: x))


def _unprojected(patch):
    """The tower's pooled output, which is as wide in this twin's projection."""

    def points(self, pixels, prompts):
        features = self.module["clip"].vision_model(pixel_values=pixels).pooler_output
        features = torch.nn.functional.normalize(features[:, : twins.QUICK["embed"]], dim=-1)
        return self.module["head"](features)[:, 0]

    patch.setattr(aesthetic.AestheticV2, "points", points)


def _with_activations(patch):
    original = aesthetic.linear_stack

    def stack(state, stem):
        layers = original(state, stem)
        return torch.nn.Sequential(
            *(torch.nn.ReLU() if isinstance(x, torch.nn.Identity) else x for x in layers)
        )

    patch.setattr(aesthetic, "linear_stack", stack)


def _not_standardised(patch):
    patch.setattr(imagereward, "_STD", 1.0)


def _begins_with_enc(patch):
    def init(self, *args, **settings):
        original(self, *args, **settings)
        inner = self.tokenizer

        def questions(*texts, **options):
            ids = inner(*texts, **options)
            if isinstance(ids, BatchEncoding) and "return_tensors" in options:
                ids["input_ids"][:, 0] = 30523
            return ids

        self.tokenizer = questions

    original = imagereward.ImageReward.__init__
    patch.setattr(imagereward.ImageReward, "__init__", init)


def _swapped_aspects(patch):
    original = videoreward_file.VideoReward.decode
    patch.setattr(
        videoreward_file.VideoReward,
        "decode",
        lambda self, raw: original(self, [raw[1], raw[0], raw[2]]),
    )


def _other_frames(patch):
    patch.setattr(videoreward_file, "frame_rule", lambda _: lambda total, _: (0, 2, 4, total - 1))


def _other_first_frames(patch):
    """That of the benchmark script, where the released example has another."""

    def choose(total, _):
        return tuple(np.linspace(0, total - 1, min(total, 16)).astype(int).tolist())

    patch.setattr(videoscore_file, "first_frames", lambda most: choose)


def _three_dimensional(patch):
    """The port one would write: the whole model asked, which takes M-RoPE's positions."""

    def hidden(self, ids, mask, patches, grids, pad):
        self.model.config.video_token_id = pad
        return self.model(
            input_ids=ids,
            attention_mask=mask,
            pixel_values_videos=patches.double(),
            video_grid_thw=grids,
            mm_token_type_ids=2 * (ids == pad).int(),
        ).last_hidden_state

    patch.setattr(qwen_vl.QwenReward, "hidden", hidden)


def _padded_left(patch):
    def forward(self, batch):
        rows = [self._tokens(item) for item in batch]
        width = max(map(len, rows))
        pad = [[0] * (width - len(row)) for row in rows]
        spread = iter([left + row for left, row in zip(pad, rows, strict=True)])
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(qwen_vl.QwenScorer, "_tokens", lambda self, item: next(spread))
            return original(self, batch)

    original = qwen_vl.QwenScorer.forward
    patch.setattr(qwen_vl.QwenScorer, "forward", forward)


def _rank_stabilised(patch):
    patch.setattr(videoreward_file, "lora_scale", lambda rank, alpha, stabilised: alpha / rank**0.5)


def _edited_first(patch):
    original = editreward.EditReward.prepare

    def prepare(sample):
        (edited,), (source,) = sample.candidates, sample.context
        return original(ur.Sample(sample.task, sample.prompt, (source,), (edited,)))

    patch.setattr(editreward.EditReward, "prepare", staticmethod(prepare))


def _heads_swapped(patch):
    patch.setattr(editreward, "_HEADS", editreward._HEADS[::-1])


def _first_prompt_twice(patch):
    original = editreward.EditReward.prepare

    def prepare(sample):
        made = original(sample)
        return dataclasses.replace(made, quality=made.text)

    patch.setattr(editreward.EditReward, "prepare", staticmethod(prepare))


def _turn_of_qwen(patch):
    original = editreward._turn
    patch.setattr(
        editreward,
        "_turn",
        lambda *args: original(*args).replace("You judge.", "You are a helpful assistant."),
    )


def _whole_images(patch):
    """Every block of the tower sees the whole image, where Qwen2.5-VL has windows."""
    original = qwen_vl.AutoModel.from_config

    def made(config, **options):
        config.vision_config.fullatt_block_indexes = [0, 1]
        return original(config, **options)

    patch.setattr(qwen_vl.AutoModel, "from_config", made)


def _unmerged(patch):
    patch.setattr(videoreward_file, "_lora_scale", lambda folder: 1.0)


def _without_space(patch):
    original = videoscore_file.VideoScore._one

    def item(self, prepared):
        stripped = videoscore_file.Prepared(
            prepared.text.rstrip(), prepared.pixels, mask=prepared.mask
        )
        return original(self, stripped)

    patch.setattr(videoscore_file.VideoScore, "_one", item)


def _rebuilt_tokenizer(patch):
    patch.setattr(tokenizers, "match_file", lambda *_: None)


def _own_epsilon(patch):
    original = videoscore_file.Idefics2Model

    def made(config):
        config.perceiver_config.rms_norm_eps = 1.0
        return original(config)

    patch.setattr(videoscore_file, "Idefics2Model", made)


def _coarser_norms(patch):
    original = imagereward.BlipVisionConfig
    patch.setattr(
        imagereward,
        "BlipVisionConfig",
        lambda **settings: original(**settings | {"layer_norm_eps": 1e-5}),
    )


MUTATIONS = {
    "epsilon of transformers' BLIP": ("imagereward", _coarser_norms),
    "logit scale forgotten": ("pickscore", _without_scale),
    "another activation": ("hpsv2", _wrong_activation),
    "short side for long side": ("hpsv2.1", _other_cut),
    "not standardised": ("imagereward", _not_standardised),
    "[ENC] for [CLS]": ("imagereward", _begins_with_enc),
    "no words before the caption": ("clipscore", _without_words),
    "weight of CLIPScore forgotten": ("clipscore", _without_weight),
    "words before the caption": ("clip-cosine", _with_words),
    "features not normalised": ("aesthetic-v2", _not_normalised),
    "features not projected": ("aesthetic-v2", _unprojected),
    "activations between the maps": ("aesthetic-v2", _with_activations),
    "aspects swapped": ("videoreward", _swapped_aspects),
    "another frame rule": ("videoreward", _other_frames),
    "half the adapter": ("videoreward", _unmerged),
    "a rank-stabilised scale": ("videoreward", _rank_stabilised),
    "edited before source": ("editreward", _edited_first),
    "heads swapped": ("editreward", _heads_swapped),
    "the first prompt for both heads": ("editreward", _first_prompt_twice),
    "Qwen's turn for the folder's": ("editreward", _turn_of_qwen),
    "no windows in the tower": ("editreward", _whole_images),
    "M-RoPE for places": ("videoreward", _three_dimensional),
    "M-RoPE for places, last token": ("videoscore-qwen2-vl", _three_dimensional),
    "padded on the left": ("videoscore-qwen2-vl", _padded_left),
    "another frame rule, v1": ("videoscore", _other_first_frames),
    "no space behind the last frame": ("videoscore", _without_space),
    "another epsilon in the resampler": ("videoscore", _own_epsilon),
    "the tokenizer that transformers rebuilds": ("videoscore", _rebuilt_tokenizer),
}


FAST = ("imagereward", "clipscore", "clip-cosine", "aesthetic-v2")
"""Scorers of which each mistake is quickly seen."""


@pytest.mark.parametrize(
    "mutation",
    [
        mutation
        if name in FAST or mutation in ("another activation", "half the adapter", "heads swapped")
        else pytest.param(mutation, marks=pytest.mark.slow)
        for mutation, (name, _) in MUTATIONS.items()
    ],
)
def test_a_mistake_in_a_scorer_is_seen(mutation, twin, monkeypatch):
    name, mutate = MUTATIONS[mutation]
    mutate(monkeypatch)
    assert not agrees(name, twin)


def test_a_projection_that_is_not_transposed_is_seen(tmp_path, monkeypatch):
    """Shapes do not decide if features are as wide as the tower."""
    monkeypatch.setattr(twins, "CLIP", twins.CLIP | {"embed": 128})
    state = twins.hps(tmp_path)
    wanted = expected.hps(state, CAPTION, PICTURE)
    for transposed in (hps._TRANSPOSED, ("visual_projection.weight",)):
        monkeypatch.setattr(hps, "_TRANSPOSED", transposed)
        scorer = ur.open_judge(f"hpsv2.1:{tmp_path}", dtype="float64", device="cpu")
        got = result("hpsv2.1", scorer.ask([picture(PICTURE)])[0])
        assert (np.abs(np.subtract(got, wanted)).max() < 1e-6) == (len(transposed) == 2)
