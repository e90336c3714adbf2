"""CLIPScore and the aesthetic predictor: their limits, and folders that are refused."""

import json
import pickle
import shutil

import PIL.Image
import pytest
import torch

import unified_reward as ur
from tests.unified_reward.scorers import twins
from tests.unified_reward.scorers.test_preparation import waves
from unified_reward.core.errors import ModelError
from unified_reward.scorers import clip, clipscore, system
from unified_reward.scorers.loading import check


CAPTION = "a red ball"
PICTURES = [PIL.Image.fromarray(waves(60 + 9 * i, 90)) for i in range(2)]


@pytest.fixture
def copy(twin, tmp_path):
    """A twin's folder to break."""
    return lambda name: shutil.copytree(twin(name)[0], tmp_path / name)


def problems(name, folder):
    return "; ".join(check(system(name), folder).problems)


def change(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(("cosine", "wanted"), [(-0.3, 0.0), (0.0, 0.0), (0.2, 0.5), (1.0, 2.5)])
def test_clipscore_is_never_negative_and_the_cosine_may_be(cosine, wanted, twin, monkeypatch):
    """Equation 1: 2.5 max(cos, 0)."""
    monkeypatch.setattr(clip.ClipScorer, "cosine", lambda *_: torch.tensor([cosine]))
    folder, _ = twin("clipscore")
    for name, value in (("clipscore", wanted), ("clip-cosine", cosine)):
        scored = ur.open_judge(f"{name}:{folder}", device="cpu").score(CAPTION, image=PICTURES[0])
        assert scored.score.value == pytest.approx(value)
        assert scored.score.scale == system(name).card.scale


def test_words_before_the_caption_count_among_its_77_tokens(twin):
    """By hand: begin, three words, 72 words and end are 77."""
    folder, _ = twin("clipscore")
    scorer, plain = (
        ur.open_judge(f"{x}:{folder}", device="cpu") for x in ("clipscore", "clip-cosine")
    )
    ids = scorer.token_ids(["a " * 72])
    assert ids.shape == (1, 77)
    assert ids[0, :4].tolist() == plain.token_ids(["a photo depicts"])[0, :4].tolist()
    assert not scorer.score("a " * 72, image=PICTURES[0]).text
    note = scorer.score("a " * 73, image=PICTURES[0]).text
    assert note == "the caption has 78 tokens, of which the first 77 were read"
    assert not plain.score("a " * 73, image=PICTURES[0]).text


def test_a_caption_with_a_control_token_is_refused(twin):
    scorer = ur.open_judge(f"clipscore:{twin('clipscore')[0]}", device="cpu")
    (verdict,) = scorer.ask(
        [ur.Sample(ur.Task.IMAGE_GENERATION, "a <|endoftext|> b", (ur.Image(PICTURES[0]),))]
    )
    assert "which is not read as text" in verdict.error


def test_aesthetics_do_not_depend_on_the_caption(twin):
    scorer = ur.open_judge(f"aesthetic-v2:{twin('aesthetic-v2')[0]}", device="cpu")
    for image in PICTURES:
        scores = {
            scorer.score(text, image=image).score.value for text in ("", "a cat", "<|endoftext|>")
        }
        assert len(scores) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "siglip"}, "config.json is of a siglip; a clip is wanted"),
        (
            {"vision_config": {"image_size": 336, "patch_size": 14}},
            "is of a CLIP for images of 336 pixels and 77 tokens; one for 224 and 77 is wanted",
        ),
        (
            {"text_config": {"max_position_embeddings": 248}},
            "is of a CLIP for images of 224 pixels and 248 tokens",
        ),
    ],
)
def test_a_clip_of_other_inputs_is_refused_before_its_weights_are_read(values, message, copy):
    for name, place in (("clipscore", ""), ("aesthetic-v2", "clip")):
        folder = copy(name)
        change(folder / place / "config.json", **values)
        assert message in problems(name, folder)
        with pytest.raises(ModelError, match=f"cannot be loaded as {name}"):
            ur.open_judge(f"{name}:{folder}")


def test_maps_for_another_clip_are_refused(copy):
    folder = copy("aesthetic-v2")
    maps = torch.load(folder / twins.AESTHETIC)
    maps["layers.0.weight"] = torch.ones(32, 25)
    torch.save(maps, folder / twins.AESTHETIC)
    message = problems("aesthetic-v2", folder)
    assert "the linear maps read 25 features, but" in message
    assert "gives 24; they belong to openai/clip-vit-large-patch14" in message


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (twins.AESTHETIC, "no linear maps (sac+logos+ava1-l14-linearMSE.pth)"),
        ("clip/model.safetensors", "no CLIP ViT-L/14 (clip/model.safetensors or"),
        ("clip/config.json", "no configuration of the CLIP (clip/config.json)"),
    ],
)
def test_a_part_that_is_missing_is_named(part, message, copy):
    folder = copy("aesthetic-v2")
    (folder / part).unlink()
    assert message in problems("aesthetic-v2", folder)


def test_the_folder_of_the_clip_alone_is_no_aesthetic_predictor(twin):
    message = problems("aesthetic-v2", twin("clipscore")[0])
    assert "no weights (sac+logos+ava1-l14-linearMSE.pth or clip/model.safetensors" in message
    assert "weights as of pickscore" in message
    assert "clipscore" in message


def test_a_deeper_stack_and_a_missing_bias_are_refused(copy):
    folder = copy("aesthetic-v2")
    maps = torch.load(folder / twins.AESTHETIC)
    del maps["layers.4.bias"]
    torch.save(maps | {"other.weight": torch.ones(2)}, folder / twins.AESTHETIC)
    message = problems("aesthetic-v2", folder)
    assert "1 missing: head.4.bias" in message
    assert "1 unexplained: other.weight" in message


class _Runs:
    def __reduce__(self):
        return (print, ("it ran",))


def test_a_pickle_with_code_in_it_is_refused_and_not_run(copy, capsys):
    folder = copy("aesthetic-v2")
    (folder / twins.AESTHETIC).write_bytes(pickle.dumps({"layers": _Runs()}, protocol=2))
    with pytest.raises(ModelError, match=r"holds more than tensors|is broken"):
        ur.open_judge(f"aesthetic-v2:{folder}")
    assert "it ran" not in capsys.readouterr().out


def test_the_scale_and_the_words_before_the_caption_are_on_the_card():
    card = clipscore.CLIPScore.card
    assert "2.5" in card.values
    assert card.constants == {"w": 2.5}
    assert "times 100" in clipscore.CLIPCosine.card.values
