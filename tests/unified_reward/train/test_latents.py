"""Pairs are encoded once, at one size; those that cannot be encoded are logged and left out."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.unified_reward.policies import pipelines
from unified_reward import media, policies
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.samples import Image, PreferencePair, Task, Video
from unified_reward.policies import Size
from unified_reward.policies.packing import FORM
from unified_reward.train.denoisers import Denoiser
from unified_reward.train.latents import Resolution, encode_pairs


pytestmark = pytest.mark.numeric


CPU = torch.device("cpu")
SMALL = Resolution(height=8, width=8)
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


class Mirror:
    """Latents are the pixels themselves; of a prompt its length is seen, up to 20."""

    def __init__(self, *, block=1, rest=None):
        self.policy = SimpleNamespace(size_multiple=block, temporal_stride=rest)
        self.encoded = 0
        self.prompts = []

    def encode_prompt(self, prompt, size, source):
        assert source is None
        self.prompts.append(prompt)
        if len(prompt) > 20:
            raise DataError(f"its prompt has {len(prompt)} tokens, and the text encoder reads 20")
        return {"encoder_hidden_states": torch.tensor([float(len(prompt))]), FORM: torch.zeros(1)}

    def encode_pixels(self, pixels, size):
        assert tuple(pixels.shape[-2:]) == size[:2]
        self.encoded += 1
        return pixels


def picture(*stripes, height=8, width=8):
    """Upright stripes of these colours, of equal width."""
    colours = np.array(stripes, dtype=np.uint8)
    row = np.repeat(colours, width // len(stripes), axis=0)
    return Image(np.broadcast_to(row, (height, *row.shape)).copy(), "HWC")


def clip(frames, *, side=8, first=0):
    """Frame i is of the grey level ``10 * (first + i)``."""
    levels = np.arange(first, first + frames, dtype=np.uint8) * 10
    return Video(np.broadcast_to(levels[:, None, None, None], (frames, side, side, 3)), "THWC", 8)


def pair(name, chosen=None, rejected=None, prompt="a star"):
    chosen = chosen or picture(RED)
    is_clip = isinstance(chosen, Video)
    task = Task.VIDEO_GENERATION if is_clip else Task.IMAGE_GENERATION
    rejected = rejected or (clip(len(chosen.source), first=9) if is_clip else picture(BLUE))
    return PreferencePair(name, task, prompt, (), chosen, rejected, None, None)


def levels(latents):
    """Pixels as they were, rounded."""
    return ((latents + 1) * 127.5).round().int()


def encode(pairs, folder, resolution=SMALL, *, denoiser=None, result=None):
    log = [].append if result is None else result.append
    return encode_pairs(pairs, denoiser or Mirror(), folder, resolution, log)


def test_a_row_has_both_sides_and_what_is_seen_of_the_prompt(tmp_path):
    pairs = [pair("1"), pair("2", picture(GREEN), prompt="two stars")]
    found = encode(pairs, tmp_path)
    chosen, rejected, condition = found.batch([1, 0, 1], CPU)
    assert len(found) == 2
    assert chosen.shape == rejected.shape == (3, 3, 8, 8)
    assert [tuple(item[:, 0, 0].tolist()) for item in levels(chosen)] == [GREEN, RED, GREEN]
    assert (levels(rejected)[:, :, 0, 0] == torch.tensor(BLUE)).all()
    assert condition["encoder_hidden_states"].tolist() == [[9], [6], [9]]


def test_a_picture_of_the_size_wanted_is_not_touched(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    chosen, _, _ = encode([pair("1", Image(noise, "HWC"))], tmp_path).batch([0], CPU)
    assert np.array_equal(levels(chosen)[0].movedim(0, -1).numpy(), noise)
    assert chosen.min() >= -1
    assert chosen.max() <= 1


@pytest.mark.parametrize("scale", [1, 3])
def test_what_is_larger_is_scaled_and_cut_at_the_centre(scale, tmp_path):
    """Twice as wide as high: of four stripes the two in the middle are left."""
    wide = picture(RED, GREEN, BLUE, RED, height=8 * scale, width=16 * scale)
    chosen, _, _ = encode([pair("1", wide)], tmp_path).batch([0], CPU)
    row = levels(chosen)[0, :, 4]
    assert tuple(row[:, 1].tolist()) == GREEN
    assert tuple(row[:, 6].tolist()) == BLUE


def test_without_a_size_it_is_that_of_the_first_pair_that_opens_cut_to_whole_blocks(tmp_path):
    pairs = [
        pair("gone", Image("gone.png")),
        pair("first", picture(RED, height=13, width=22)),
        pair("second", picture(GREEN, height=40, width=40)),
    ]
    found = encode(pairs, tmp_path, Resolution(), denoiser=Mirror(block=4))
    chosen, rejected, _ = found.batch([0, 1], CPU)
    assert chosen.shape == rejected.shape == (2, 3, 12, 20)


def test_a_side_that_is_given_stays(tmp_path):
    pairs = [pair("1", picture(RED, height=13, width=22))]
    found = encode(pairs, tmp_path, Resolution(width=8), denoiser=Mirror(block=4))
    assert found.batch([0], CPU)[0].shape == (1, 3, 12, 8)


@pytest.mark.parametrize(
    ("resolution", "visible", "result"),
    [
        (Resolution(height=10), picture(RED), "not 10 and 8"),
        (Resolution(width=6), picture(RED), "not 8 and 6"),
        (Resolution(), picture(RED, height=3, width=9), "not 0 and 8"),
    ],
)
def test_a_size_that_is_no_multiple_is_refused(resolution, visible, result, tmp_path):
    with pytest.raises(ConfigError, match=f"multiples of 4 above 0 for this pipeline, {result}"):
        encode([pair("1", visible)], tmp_path, resolution, denoiser=Mirror(block=4))


@pytest.mark.parametrize(
    ("frames", "rest", "visible"),
    [
        (8, 4, [0, 10, 20, 30, 40, 50, 60, 70, 70]),
        (None, 4, [0, 10, 20, 30, 40, 50, 60, 70, 70]),
        (8, 2, [0, 10, 20, 30, 40, 50, 60, 70, 70]),
        (6, 4, [0, 10, 20, 40, 50, 70, 70, 70, 70]),
        (5, 4, [0, 10, 30, 50, 70]),
        (1, 4, [0]),
        (3, None, [0, 30, 70]),
        (8, None, [0, 10, 20, 30, 40, 50, 60, 70]),
    ],
)
def test_frames_are_spread_and_the_last_is_repeated_to_what_the_pipeline_takes(
    frames, rest, visible, tmp_path
):
    """For 8 frames, ``linspace(0, 7, n)`` with positions cut off; then one more than a multiple."""
    found = encode(
        [pair("1", clip(8))], tmp_path, Resolution(8, 8, frames), denoiser=Mirror(rest=rest)
    )
    chosen, rejected, _ = found.batch([0], CPU)
    assert chosen.shape == rejected.shape == (1, 3, len(visible), 8, 8)
    assert levels(chosen)[0, 0, :, 0, 0].tolist() == visible


def test_a_clip_that_is_short_repeats_frames(tmp_path):
    chosen, _, _ = encode([pair("1", clip(2))], tmp_path, Resolution(8, 8, 4)).batch([0], CPU)
    assert levels(chosen)[0, 0, :, 0, 0].tolist() == [0, 0, 0, 10]


def test_what_is_encoded_is_not_encoded_again_and_what_is_torn_is(tmp_path):
    pairs = [pair(name) for name in "123"]
    denoiser = Mirror()
    encode(pairs, tmp_path, denoiser=denoiser)
    whole = {path: path.read_bytes() for path in sorted(tmp_path.glob("*.safetensors"))}
    assert denoiser.encoded == len(whole) == 3
    encode(pairs, tmp_path, denoiser=denoiser)
    assert denoiser.encoded == 3
    first, second, _ = whole
    first.write_bytes(whole[first][:-50])
    second.write_bytes(b"")
    second.with_name(f".{second.name}.part").write_bytes(b"half")
    assert len(encode(pairs, tmp_path, denoiser=denoiser)) == 3
    assert denoiser.encoded == 5
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == whole


def test_pairs_that_cannot_be_used_are_told_by_id_and_left_out(tmp_path):
    pairs = [
        pair("gone", Image(tmp_path / "gone.png")),
        pair("long", prompt="a star " * 5),
        pair("same", picture(RED), picture(RED)),
        pair("parts", ("a star", picture(RED))),
        pair("good"),
    ]
    result = []
    found = encode(pairs, tmp_path / "encoded", result=result)
    assert len(found) == 1
    assert [item.partition(":")[0] for item in result] == [
        "pair 'gone'",
        "pair 'long'",
        "pair 'same'",
        "pair 'parts'",
    ]
    assert "gone.png" in result[0]
    assert result[1].endswith("its prompt has 35 tokens, and the text encoder reads 20")
    assert result[2].endswith("chosen and rejected have the same pixels")
    assert result[3].endswith("a candidate of several parts cannot be generated by a pipeline")


def test_pixels_are_compared_at_the_size_that_is_learned(tmp_path):
    result = []
    with pytest.raises(DataError, match="no pair is left to learn from"):
        encode([pair("1", picture(RED), picture(RED, width=16))], tmp_path, result=result)
    assert result == ["pair '1': chosen and rejected have the same pixels"]


def test_a_folder_that_cannot_be_written_ends_it(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(DataError, match="safetensors cannot be written"):
        encode([pair("1")], file / "encoded")


def test_a_row_that_cannot_be_written_ends_it(tmp_path):
    result = []
    encode([pair("1")], tmp_path)
    (made,) = tmp_path.iterdir()
    made.unlink()
    made.with_name(f".{made.name}.part").mkdir()
    with pytest.raises(DataError, match="safetensors cannot be written"):
        encode([pair("1")], tmp_path, result=result)
    assert result == []


def test_a_pipeline_sees_its_own_latents_and_conditions(tmp_path):
    """A pair whose prompt spells a control token of its tokenizer is left out."""
    denoiser = Denoiser(policies.load(pipelines.pictures(tmp_path / "it"), device="cpu"))
    pairs = [pair("1", prompt="a red star"), pair("2", prompt="a<|endoftext|> star")]
    log = []
    found = encode(pairs, tmp_path / "encoded", denoiser=denoiser, result=log)
    chosen, _, condition = found.batch([0], CPU)
    red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    assert len(found) == 1
    assert chosen.shape == (1, 4, 4, 4)
    assert torch.allclose(chosen, denoiser.encode_pixels(red, Size(8, 8)), atol=1e-5)
    expected = denoiser.encode_prompt("a red star", Size(8, 8))
    assert condition.keys() == expected.keys()
    assert all(torch.equal(condition[name][0], value) for name, value in expected.items())
    text = "the prompt spells <|endoftext|>, a control token of its tokenizer"
    assert log == [f"pair '2': {text}"]


@pytest.mark.parametrize("resolution", [Resolution(), SMALL])
def test_each_file_is_opened_and_each_prompt_encoded_once(resolution, tmp_path, monkeypatch):
    opened = []
    open_image = media.open_image
    monkeypatch.setattr(
        media, "open_image", lambda image: opened.append(image) or open_image(image)
    )
    denoiser = Mirror()
    pairs = [
        pair(f"{prompt} {i}", prompt=prompt) for prompt in ("a star", "two stars") for i in range(3)
    ]
    encode(pairs, tmp_path, resolution, denoiser=denoiser)
    assert len(opened) == 2 * len(pairs)
    assert len({id(image) for image in opened}) == 2 * len(pairs)
    assert denoiser.prompts == ["a star", "two stars"]
    encode(pairs, tmp_path, resolution, denoiser=denoiser)
    assert len(opened) == 2 * len(pairs), "what is encoded is not opened again"


def test_a_video_of_unknown_length_is_decoded_once(tmp_path, monkeypatch):
    decoded = []
    select_frames = media.select_frames
    monkeypatch.setattr(
        media, "select_frames", lambda *given: decoded.append(given[0]) or select_frames(*given)
    )
    chosen, _, _ = encode([pair("1", clip(3))], tmp_path, Resolution()).batch([0], CPU)
    assert chosen.shape == (1, 3, 3, 8, 8)
    assert len(decoded) == 2


def test_a_pair_whose_file_is_torn_while_it_trains_costs_itself(tmp_path):
    pairs = [pair(str(i), picture(RED), picture(GREEN), prompt="a" * (1 + i)) for i in range(3)]
    messages = []
    encoded = encode_pairs(pairs, Mirror(), tmp_path, SMALL, messages.append)
    lengths = {load_file(file)["encoder_hidden_states"].item(): file for file in tmp_path.iterdir()}
    lengths[2.0].write_bytes(b"torn")
    for _ in range(2):
        *_, condition = encoded.batch([0, 1, 2], CPU)
        assert condition["encoder_hidden_states"].flatten().tolist() == [1.0, 3.0, 3.0]
    (message,) = messages
    assert message.startswith("pair '1': ")
    for file in lengths.values():
        file.unlink(missing_ok=True)
    with pytest.raises(DataError, match="none of the encoded pairs"):
        encoded.batch([0], CPU)


def test_latents_that_are_not_finite_are_the_fault_of_their_pair(tmp_path):
    mirror, messages = Mirror(), []
    mirror.encode_pixels = lambda pixels, _: pixels.log()  # of -1
    with pytest.raises(DataError, match="no pair is left"):
        encode_pairs([pair("a", rejected=picture(GREEN))], mirror, tmp_path, SMALL, messages.append)
    assert "not finite" in messages[0]
