"""Inputs of a model, without weights: pixels, frames, positions, words."""

import numpy as np
import PIL.Image
import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as v2
from transformers import CLIPImageProcessorPil

import unified_reward as ur
from tests.unified_reward.scorers import expected, twins
from unified_reward.core.errors import MediaError
from unified_reward.scorers import images, system
from unified_reward.scorers.qwen_vl import PixelBounds, frame_rule, patched, target_size
from unified_reward.scorers.videoreward import resized
from unified_reward.scorers.videoscore import budget, first_frames


pytestmark = pytest.mark.numeric
CUBIC = InterpolationMode.BICUBIC


def waves(height=23, width=40):
    """A small picture without symmetry: waves of another length in each channel."""
    y, x = np.mgrid[0:height, 0:width]
    made = [128 + 120 * np.sin(x / a + y / b) for a, b in ((3.1, 5.7), (7.3, 2.9), (2.3, 11.1))]
    return np.stack(made, -1).astype(np.uint8)


FRAMES = np.stack([np.roll(waves(), 3 * i, 1) for i in range(5)])


def prepared(name, source=None, caption="a red ball", fps=8.0):
    kind = system(name)
    (task,) = kind.card.tasks
    if task is ur.Task.VIDEO_GENERATION:
        medium = ur.Video(FRAMES if source is None else source, "THWC", fps=fps)
    else:
        medium = source or ur.Image(waves(), "HWC")
    before = (ur.Image(waves(40, 23), "HWC"),) if task is ur.Task.IMAGE_EDITING else ()
    return kind.prepare(ur.Sample(task, caption, (medium,), before))


GREYS = ((1080, 1176), (0.18962, 1.2496), (-0.0259, 1.9548, 1.8135, 1.9468))

GOLDEN = {
    "pickscore": ((3, 224, 224), (0.14162, 1.24793), (1.0398, -1.5587, -0.3714, 0.795)),
    "hpsv1": ((3, 224, 224), (0.14162, 1.24793), (1.0398, -1.5587, -0.3714, 0.795)),
    "hpsv2": ((3, 224, 224), (-0.60111, 1.32582), (-1.7923, 1.8168, -0.8684, -1.4802)),
    "hpsv2.1": ((3, 224, 224), (-0.60111, 1.32582), (-1.7923, 1.8168, -0.8684, -1.4802)),
    "imagereward": ((3, 224, 224), (0.14162, 1.24793), (1.0398, -1.5587, -0.3714, 0.795)),
    "clipscore": ((3, 224, 224), (0.14162, 1.24793), (1.0398, -1.5587, -0.3714, 0.795)),
    "clip-cosine": ((3, 224, 224), (0.14162, 1.24793), (1.0398, -1.5587, -0.3714, 0.795)),
    "aesthetic-v2": ((3, 224, 224), (0.14162, 1.24793), (1.0398, -1.5587, -0.3714, 0.795)),
    "hpsv3": ((1144, 1176), (0.18965, 1.25051), (-0.0259, 1.6397, -0.1864, 0.5817)),
    "editreward": ((2288, 1176), (0.19881, 1.24478), (-0.0259, 1.6397, 1.4632, 0.5817)),
    "videoreward": GREYS,
    "videoscore": ((5, 3, 378, 378), (0.00103, 0.65959), (0.0039, 0.6784, -0.6784, 0.8588)),
    "videoscore-v1.1": ((5, 3, 378, 378), (0.00103, 0.65959), (0.0039, 0.6784, -0.6784, 0.8588)),
    "videoscore-qwen2-vl": GREYS,
}
"""Shape; mean and deviation; values 0, 12345, 77777 and the last, of 23 x 40 pixels."""


@pytest.mark.parametrize("name", twins.MAKERS)
def test_pixels_are_those_of_the_golden_table(name):
    pixels = prepared(name).pixels
    shape, spread, values = GOLDEN[name]
    flat = pixels.double().flatten()
    assert tuple(pixels.shape) == shape
    assert (flat.mean().item(), flat.std().item()) == pytest.approx(spread, abs=2e-5)
    places = [0, 12345, 77777 % len(flat), -1]
    assert flat[places].tolist() == pytest.approx(values, abs=1e-4)


@pytest.mark.parametrize("size", [(23, 40), (40, 23), (300, 301), (224, 231), (225, 500)])
def test_a_short_side_of_224_is_cut_as_pil_resizes_and_torchvision_centres(size):
    """Margins of 1.5 pixels tell the roundings of torchvision and transformers apart."""
    wanted = expected.short_side_square(waves(*size))
    for name in ("hpsv1", "imagereward", "clipscore", "aesthetic-v2"):
        got = prepared(name, ur.Image(waves(*size), "HWC")).pixels
        assert np.allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize("size", [(5, 203), (203, 5), (7, 331), (1, 99), (300, 9000)])
def test_the_middle_of_a_thin_image_is_that_of_the_whole_one(size, monkeypatch):
    """Within a grey value: the place of the middle is rounded to float32 by PIL."""
    image = ur.Image(waves(*size), "HWC")
    middle = prepared("pickscore", image).pixels
    monkeypatch.setattr(images, "_THIN", 1000)
    whole = prepared("pickscore", image).pixels
    assert (middle - whole).abs().max() < 1.01 / 255 / expected.STD.min()
    assert (middle - whole).abs().mean() < 1e-3


def test_a_line_of_pixels_is_prepared_without_gigabytes(monkeypatch):
    """30,000 x 1 pixels would be 6,720,000 x 224."""
    sizes = []
    resize = PIL.Image.Image.resize
    monkeypatch.setattr(
        PIL.Image.Image,
        "resize",
        lambda self, size, *args, **options: (
            sizes.append(size) or resize(self, size, *args, **options)
        ),
    )
    pixels = prepared("imagereward", ur.Image(waves(1, 30_000), "HWC")).pixels
    assert pixels.shape == (3, 224, 224)
    assert sizes == [(224, 224)]


@pytest.mark.parametrize("size", [(23, 40), (40, 23), (224, 100), (500, 20), (224, 224), (30, 900)])
def test_a_long_side_of_224_has_bars_whatever_the_size(size):
    got = prepared("hpsv2", ur.Image(waves(*size), "HWC")).pixels
    assert np.allclose(got, expected.long_side_bars(waves(*size)), atol=1e-5)


def test_bars_are_black_before_the_mean_is_taken():
    pixels = prepared("hpsv2.1", ur.Image(waves(112, 224), "HWC")).pixels
    assert pixels[:, 0, 0].tolist() == pytest.approx(expected.normal(np.zeros((1, 1, 3))).flatten())


def test_transparency_is_laid_on_white_and_named_as_a_deviation():
    clear = PIL.Image.new("RGBA", (30, 30), (255, 0, 0, 0))
    for name, kind in ((name, system(name)) for name in twins.MAKERS):
        if ur.Task.IMAGE_GENERATION in kind.card.tasks:
            white = prepared(name, ur.Image(PIL.Image.new("RGB", (30, 30), "white"))).pixels
            assert torch.equal(prepared(name, ur.Image(clear)).pixels, white)
            assert any("white" in entry for entry in kind.card.deviations)


@pytest.mark.parametrize(
    ("total", "fps", "indices"),
    [
        (16, 8.0, (0, 5, 10, 15)),
        (5, 8.0, (0, 1, 3, 4)),
        (48, 24.0, (0, 16, 31, 47)),
        (72, 24.0, (0, 14, 28, 43, 57, 71)),
        (60, 24.0, (0, 20, 39, 59)),
        (90, 24.0, (0, 13, 25, 38, 51, 64, 76, 89)),
        (7, 2.0, (0, 1, 2, 4, 5, 6)),
        (11, 2.0, (0, 1, 2, 3, 4, 6, 7, 8, 9, 10)),
        (3, 24.0, (0, 2)),
        (2, 24.0, (0, 1)),
        (1, 24.0, (0, 0)),
    ],
)
def test_frames_of_videoreward_are_two_a_second_and_even_in_number(total, fps, indices):
    """60 and 90 frames make 2.5 and 3.75 pairs: halves go to the even number.

    Of 3, 7 and 11 frames one is left out, since at most 2, 6 and 10 are taken.
    """
    assert frame_rule(2.0)(total, lambda: fps) == indices


def test_a_long_clip_has_768_frames_at_most():
    assert len(frame_rule(2.0)(10_000, lambda: 10.0)) == 768


def test_without_a_rate_every_frame_is_wanted():
    assert frame_rule(8.0)(6, lambda: None) == (0, 1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("most", "total", "indices"),
    [
        (16, 16, tuple(range(16))),
        (16, 17, (*range(16),)),
        (16, 40, (0, 2, 5, 7, 10, 12, 15, 17, 20, 22, 25, 27, 30, 32, 35, 37)),
        (48, 49, (*range(48),)),
        (16, 1, (0,)),
    ],
)
def test_frames_of_videoscore_are_cut_off_not_rounded(most, total, indices):
    assert first_frames(most)(total, None) == indices


@pytest.mark.parametrize(
    ("size", "bounds", "wanted"),
    [
        ((480, 832), (128, 256), (336, 588)),  # 480 * 832 / 200704: divided by 1.4106, floored
        ((100, 100), (128, 256), (336, 336)),  # 100352 / 10000: times 3.168, raised
        ((448, 448), (256, 256), (448, 448)),
        ((512, 512), (256, 256), (448, 448)),
        ((23, 40), (256, 256), (364, 616)),  # raised on both sides, above its own bound
    ],
)
def test_sides_are_multiples_of_28_within_an_area(size, bounds, wanted):
    least, most = (entry * 784 for entry in bounds)
    assert target_size(*size, PixelBounds(least, most)) == wanted


def test_frames_of_a_long_clip_share_a_budget_of_pixels():
    assert budget(4).most == 768 * 784
    assert budget(200).most == 24_576 * 784 // 200 * 2
    assert budget(768).most == int(128 * 784 * 1.05)


def test_patches_go_by_squares_of_four_and_two_frames():
    frames = np.stack([waves(56, 84), waves(56, 84)[::-1], waves(56, 84)[:, ::-1]])
    got, grid = patched(torch.from_numpy(frames).permute(0, 3, 1, 2).float())
    wanted, shape = expected.patches(frames)
    assert grid == tuple(shape[0].tolist()) == (2, 4, 6)
    assert np.allclose(got, wanted, atol=1e-5)


def cubic(n, size):
    """Weights of antialiased cubic resizing from n values to so many, in float64."""
    scale = n / size
    wide = max(scale, 1.0)
    x = np.abs((np.arange(n)[None] + 0.5 - (np.arange(size)[:, None] + 0.5) * scale) / wide)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("size", [(23, 40), (331, 700)])
def test_frames_are_resized_as_floats_and_rounded_once(size):
    """The kernel of bytes rounds after each direction and is one grey value off in some places.

    Places within 0.01 of a half are left out: float32 may round them to either side.
    """
    bounds = PixelBounds(128 * 784, 448 * 448)
    frame = waves(*size)
    height, width = target_size(*size, bounds)
    rows, columns = cubic(size[0], height), cubic(size[1], width)
    exact = (rows @ frame.transpose(2, 0, 1) @ columns.T).clip(0, 255)
    got = resized(torch.from_numpy(frame).permute(2, 0, 1)[None], bounds)[0].numpy()
    is_clear = np.abs(exact % 1 - 0.5) > 0.01
    assert np.array_equal(got[is_clear], np.rint(exact)[is_clear])
    bytes_ = v2.resize(torch.from_numpy(frame).permute(2, 0, 1), [height, width], CUBIC).numpy()
    assert not np.array_equal(bytes_[is_clear], np.rint(exact)[is_clear])


TURN = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
WORDED = {
    "hpsv3": f"{TURN}<|vision_start|><|image_pad|><|vision_end|>"
    "\nWeigh it.\nAsked - a {ball}\n\nSay: <|Reward|>\nEND\n<|im_end|>\n<|im_start|>assistant\n",
    "videoreward": f"{TURN}<|vision_start|><|video_pad|><|vision_end|>"
    "\nLook. <|VQ_reward|>\nEND <|MQ_reward|>  \nAsked: a {ball} <|TA_reward|>\n"
    "<|im_end|>\n<|im_start|>assistant\n",
    "videoscore": '\nGrade it. Asked: "a {ball}",\nframes:\n' + 5 * "<image> ",
    "videoscore-qwen2-vl": f"{TURN}<|vision_start|><|video_pad|><|vision_end|>"
    '\nGrade it. Asked: "a {ball}",\nframes:\n<|im_end|>\n<|im_start|>assistant\n',
}


@pytest.mark.parametrize("name", WORDED)
def test_the_text_before_tokenising_is_exactly_this(name):
    """Braces of a caption stay, and so do double spaces and the space behind the last frame."""
    assert prepared(name, caption="a {ball}").text == WORDED[name]


def test_an_edit_has_two_prompts_and_the_source_before_the_edited_image():
    made = prepared("editreward", caption="a {ball}")
    assert made.text == "\nIs it done?\nAsked - a {ball}\n\nSay: <|Reward|>\nEND\n"
    assert made.quality == "\nIs it real? Asked - a {ball}\n\nSay: <|Reward|>\nEND\n"
    assert made.grids == ((1, 44, 26), (1, 26, 44))


IDS = {
    "a red ball": [49406, 320, 736, 1069, 49407],
    "Naïve café, it's 3 o'clock!": [
        *(49406, 1097, 35689, 563, 15304, 267, 585, 568, 274, 334, 262, 6716, 256, 49407)
    ],
}


@pytest.mark.parametrize("caption", IDS)
def test_clip_token_ids_are_golden(caption, twin):
    for name in ("pickscore", "hpsv2.1"):
        scorer = ur.open_judge(f"{name}:{twin(name)[0]}", device="cpu")
        ids = scorer.token_ids([caption, "a " * 100])
        assert ids.shape == (2, 77)
        assert ids[0, : len(IDS[caption])].tolist() == IDS[caption]
        assert ids[1, [0, 1, 75, 76]].tolist() == [49406, 320, 320, 49407]
        assert scorer.n_tokens("a " * 100) == 102


def test_bert_token_ids_are_golden(twin):
    """``[CLS]`` is 101; BLIP's own code would begin with ``[ENC]``, 30523."""
    scorer = ur.open_judge(f"imagereward:{twin('imagereward')[0]}", device="cpu")
    ids = scorer.tokenizer("Naïve café, it's 3 o'clock!").input_ids
    words = ["naive", "cafe", ",", "it", "'", "s", "3", "o", "'", "clock", "!"]
    vocabulary = twins.bert_vocabulary()
    assert ids == [101, *(vocabulary.index(entry) for entry in words), 102]


def test_places_count_tokens_on_all_axes(twin, monkeypatch):
    """A table by hand: the same row three times, also where pixels stand."""
    scorer = ur.open_judge(f"videoreward:{twin('videoreward')[0]}", device="cpu")
    language = scorer.module.model.language_model
    samples = []
    forward = type(language).forward

    def seen(self, *args, **options):
        samples.append(options["position_ids"])
        return forward(self, *args, **options)

    monkeypatch.setattr(type(language), "forward", seen)
    clip = ur.Video(FRAMES, "THWC", fps=8.0)
    scorer.score("x", video=clip)
    (positions,) = samples
    assert positions.shape[:2] == (3, 1)
    assert positions.shape[2] > 1080 / 4
    assert all(row == list(range(positions.shape[2])) for row in positions[:, 0].tolist())


def test_the_last_token_of_videoscore_is_the_space(twin):
    scorer = ur.open_judge(f"videoscore:{twin('videoscore')[0]}", device="cpu")
    ids = scorer.tokenizer(prepared("videoscore").text).input_ids
    assert scorer.tokenizer.convert_ids_to_tokens(ids[-2:]) == ["<image>", "▁▁"]
    assert ids[-1] == 259


def test_videoscore_spreads_frames_as_transformers_processor_does(twin):
    from transformers import Idefics2ImageProcessorPil, Idefics2Processor

    scorer = ur.open_judge(f"videoscore:{twin('videoscore')[0]}", device="cpu")
    entry = prepared("videoscore")
    processor = Idefics2Processor(
        Idefics2ImageProcessorPil(do_image_splitting=False), scorer.tokenizer, image_seq_len=4
    )
    frames = [PIL.Image.fromarray(frame) for frame in FRAMES]
    wanted = processor(text=entry.text, images=frames, return_tensors="pt")
    assert torch.allclose(wanted.pixel_values[0], entry.pixels)
    fence = "<fake_token_around_image>"
    spread = entry.text.replace("<image>", f"{fence}{4 * '<image>'}{fence}")
    assert scorer.tokenizer(spread).input_ids == wanted.input_ids[0].tolist()


@pytest.mark.parametrize("mode", ["P", "CMYK", "L", "1"])
def test_an_image_of_another_mode_becomes_rgb_before_it_is_resized(mode):
    """Released code of HPS v1 and ImageReward does so afterwards, which their cards say."""
    image = PIL.Image.fromarray(waves(90, 70)).convert(mode)
    for name, kind in ((name, system(name)) for name in twins.MAKERS):
        if ur.Task.IMAGE_GENERATION in kind.card.tasks:
            wanted = prepared(name, ur.Image(image.convert("RGB"))).pixels
            assert torch.equal(prepared(name, ur.Image(image)).pixels, wanted)
    for name in ("hpsv1", "imagereward", "clipscore", "clip-cosine", "aesthetic-v2"):
        assert any("palette or CMYK" in line for line in system(name).card.deviations)


def test_pixels_that_would_not_fit_into_memory_are_refused_and_a_long_image_is_not():
    with pytest.raises(MediaError, match="2 x 4000 pixels are too long to be resized to 224"):
        images.short_side(torch.zeros(3, 4000, 2))
    assert images.fit_square(PIL.Image.new("RGB", (2, 4000))).shape == (3, 224, 224)


@pytest.mark.parametrize("size", [(224, 225), (40, 23), (301, 517)])
def test_pickscore_prepares_as_the_processor_of_transformers(size):
    image = PIL.Image.fromarray(waves(*size))
    official = CLIPImageProcessorPil()(image, return_tensors="pt").pixel_values[0]
    assert torch.equal(system("pickscore").fit(image), official)
