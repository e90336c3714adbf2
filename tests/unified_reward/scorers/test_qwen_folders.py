"""Folders of Qwen-VL scorers as they are released, and media that they cannot take."""

import json
import shutil

import numpy as np
import PIL.Image
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file

import unified_reward as ur
from tests.unified_reward.scorers import expected, twins
from tests.unified_reward.scorers.test_twins import CAPTION, CLIP, clip, result
from unified_reward.core.errors import MediaError, ModelError
from unified_reward.scorers import system
from unified_reward.scorers.loading import check, patterns


PICTURE = ur.Image(PIL.Image.new("RGB", (60, 60), "red"))
QWEN = ("hpsv3", "videoreward", "videoscore-qwen2-vl")
SHOWN = CLIP[[0, 3, 5, 8]]
"""Frames of `CLIP` at 8 a second that VideoReward reads."""


@pytest.fixture
def copy(twin, tmp_path):
    """A twin's folder to break."""
    folder = tmp_path / "copy"
    shutil.copytree(twin("videoreward")[0], folder)
    return folder


def settings(folder, part, **changes):
    """Change a part of ``model_config.json``."""
    file = folder / "model_config.json"
    content = json.loads(file.read_text("utf-8"))
    content[part] |= changes
    file.write_text(json.dumps(content), "utf-8")


def problems(folder, name="videoreward"):
    """Problems of a folder; loading tells the same."""
    listed = check(system(name), folder).problems
    if listed:
        with pytest.raises(ModelError) as caught:
            ur.open_judge(f"{name}:{folder}", device="cpu")
        assert all(problem in str(caught.value) for problem in listed)
    return "; ".join(listed)


def scored(folder):
    scorer = ur.open_judge(f"videoreward:{folder}", device="cpu", dtype="float64")
    return result("videoreward", scorer.ask([clip(CLIP)])[0])


def test_the_tokenizer_of_videoreward_lies_beside_its_weights(twin):
    folder = twin("videoreward")[0]
    assert not (folder / "tokenizer.json").exists()
    assert (folder / "checkpoint-11352" / "tokenizer" / "tokenizer.json").is_file()
    assert not problems(folder)


@pytest.mark.parametrize("place", ["checkpoint-11352", "."])
def test_a_tokenizer_in_the_checkpoint_or_the_folder_itself_is_found(place, copy):
    inner = copy / "checkpoint-11352" / "tokenizer"
    for file in inner.iterdir():
        shutil.move(file, copy / place / file.name)
    inner.rmdir()
    assert not problems(copy)
    assert system("videoreward").tokenizer_folder(copy) == copy / place


def test_the_tokenizer_of_an_earlier_checkpoint_is_not_taken(copy):
    (copy / "checkpoint-11352" / "tokenizer").rename(copy / "checkpoint-250" / "tokenizer")
    assert f"no tokenizer of {copy / 'checkpoint-11352'}: tokenizer.json or" in problems(copy)


def test_without_a_tokenizer_its_places_are_named(copy):
    shutil.rmtree(copy / "checkpoint-11352" / "tokenizer")
    assert "no tokenizer (checkpoint-*/tokenizer/tokenizer.json or" in problems(copy)


def test_of_the_repository_of_videoreward_the_tokenizer_is_fetched_too():
    inner = [f"checkpoint-11352/tokenizer/{name}" for name in ("tokenizer.json", "merges.txt")]
    others = ["checkpoint-11352/optimizer.pt", "README.md"]
    kept = filter_repo_objects([*inner, *others], allow_patterns=patterns(system("videoreward")))
    assert [*kept] == inner


@pytest.mark.numeric
@pytest.mark.parametrize(("stabilised", "scale"), [(False, 2.0), (True, 16.0)])
def test_an_adapter_of_rank_64_and_alpha_128_is_scaled_as_configured(stabilised, scale, copy, twin):
    """128 / 64, or 128 over the root of 64."""
    settings(copy, "peft_lora_config", use_rslora=stabilised)
    wanted = expected.videoreward(twin("videoreward")[1], CAPTION, SHOWN, folder=copy, scale=scale)
    assert scored(copy) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.numeric
def test_of_three_outputs_at_each_token_its_own_is_read(tmp_path):
    state = twins.videoreward(tmp_path, outputs=3)
    wanted = expected.videoreward(state, CAPTION, SHOWN, folder=tmp_path)
    assert not problems(tmp_path)
    assert scored(tmp_path) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("model_config", {"use_special_tokens": False}, "has use_special_tokens false"),
        ("inference_config", {"MQ_std": 0}, "has MQ_std 0; means are numbers"),
        ("inference_config", {"TA_mean": None}, "has TA_mean None; means are numbers"),
        ("peft_lora_config", {"lora_r": None}, "names no lora_r"),
    ],
)
def test_settings_by_which_every_question_would_fail_are_problems(part, changes, message, copy):
    settings(copy, part, **changes)
    assert message in problems(copy)


@pytest.mark.parametrize(("name", "n_outputs"), [("videoreward", 2), ("videoreward", 9)])
def test_a_head_of_another_number_of_outputs_is_refused(name, n_outputs, tmp_path):
    twins.videoreward(tmp_path, outputs=n_outputs)
    assert f"rm_head has {n_outputs} outputs; videoreward reads heads of 1 or 3" in problems(
        tmp_path
    )


def test_a_tokenizer_of_other_weights_is_a_problem_before_weights_are_loaded(twin, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(twin("hpsv3")[0], folder)
    twins.qwen_tokenizer(folder, [f"<{i}>" for i in range(80)])
    assert "is not that of these weights, which know 320 tokens" in problems(folder, "hpsv3")


def sample(name, height, width):
    pixels = np.full((height, width, 3), 90, np.uint8)
    if name == "hpsv3":
        return ur.Sample(ur.Task.IMAGE_GENERATION, "a", (ur.Image(pixels, "HWC"),))
    return clip(np.stack([pixels] * 4))


@pytest.mark.parametrize("name", QWEN)
@pytest.mark.parametrize("size", [(2, 402), (402, 2), (1, 30_000)])
def test_sides_above_200_to_1_fail_alone_with_their_size(name, size, twin):
    scorer = ur.open_judge(f"{name}:{twin(name)[0]}", device="cpu")
    thin, other = scorer.ask([sample(name, *size), sample(name, 30, 40)])
    assert isinstance(thin, ur.Failed)
    assert f"{size[1]} x {size[0]} pixels: one side is more than 200 times" in thin.error
    assert isinstance(other, ur.Scored)
    assert scorer.check_samples([sample(name, *size)])[0] == thin


@pytest.mark.parametrize("name", QWEN)
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 400), (400, 2)])
def test_the_smallest_and_thinnest_media_that_are_taken_are_prepared(name, size):
    prepared = system(name).prepare(sample(name, *size))
    t, h, w = prepared.grid
    assert len(prepared.pixels) == t * h * w > 0
    assert torch.isfinite(prepared.pixels).all()


def test_a_thin_picture_raises_a_media_error_without_a_batch():
    picture = ur.Image(PIL.Image.new("RGB", (603, 3)))
    with pytest.raises(MediaError, match="crop it"):
        system("hpsv3").prepare(ur.Sample(ur.Task.IMAGE_GENERATION, "a", (picture,)))


def edit(*context):
    return ur.Sample(ur.Task.IMAGE_EDITING, "a", (PICTURE,), context)


def test_an_edit_without_one_source_image_fails_alone(twin):
    scorer = ur.open_judge(f"editreward:{twin('editreward')[0]}", device="cpu")
    clip_ = ur.Video(CLIP, "THWC", fps=8.0)
    thin = ur.Image(PIL.Image.new("RGB", (603, 3)))
    two, video, narrow, good = scorer.ask(
        [edit(PICTURE, PICTURE), edit(clip_), edit(thin), edit(PICTURE)]
    )
    assert "has one source image in its context; given: Image, Image" in two.error
    assert "given: Video" in video.error
    assert "603 x 3 pixels: one side is more than 200 times" in narrow.error
    assert isinstance(good, ur.Scored)


def test_two_edits_of_one_source_are_compared(twin):
    scorer = ur.open_judge(f"editreward:{twin('editreward')[0]}", device="cpu")
    other = ur.Image(PIL.Image.new("RGB", (60, 60), "blue"))
    sample = ur.Sample(ur.Task.IMAGE_EDITING, "a", (PICTURE, other), (PICTURE,))
    values = [scorer.ask([part])[0].score.value for part in sample.split()]
    (compared,) = scorer.ask([sample])
    assert compared.probability == pytest.approx(1 / (1 + np.exp(values[1] - values[0])), abs=1e-5)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template; copy that of the trunk's folder"),
        ("{{ messages[0]['content'] }}", "it is not that of a Qwen-VL"),
        ("{{ raise_exception('no images') }}", "does not take two images and a text"),
        ("{% for", "does not take two images and a text"),
    ],
)
def test_a_chat_template_that_takes_no_two_images_is_a_problem(template, message, twin, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(twin("editreward")[0], folder)
    file = folder / "chat_template.json"
    file.unlink()
    if template is not None:
        file.write_text(json.dumps({"chat_template": template}), "utf-8")
    assert message in problems(folder, "editreward")


@pytest.mark.parametrize("lost", ["rm_heads", "rm_heads.head_1"])
def test_a_trunk_without_both_heads_is_no_edit_reward(lost, twin, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(twin("editreward")[0], folder)
    state = load_file(folder / "model.safetensors")
    kept = {name: item for name, item in state.items() if lost not in name}
    save_file(kept, folder / "model.safetensors")
    assert "there is no rm_heads among the tensors" in problems(folder, "editreward")


def test_what_a_processor_refuses_fails_alone(twin, monkeypatch):
    scorer = ur.open_judge(f"hpsv3:{twin('hpsv3')[0]}", device="cpu")
    prepare = scorer.prepare

    def refusing(given):
        if given.prompt == "bad":
            raise ValueError("height must not be 0\nat all")
        return prepare(given)

    monkeypatch.setattr(scorer, "prepare", refusing)
    samples = [ur.Sample(ur.Task.IMAGE_GENERATION, words, (PICTURE,)) for words in ("bad", "good")]
    bad, good = scorer.ask(samples)
    assert "cannot prepare it: height must not be 0" in bad.error
    assert "\n" not in bad.error
    assert isinstance(good, ur.Scored)
    assert scorer.check_samples(samples) == [bad, None]


def test_frames_and_prompt_of_the_folder_are_told_beside_those_that_are_read(copy, tmp_path):
    settings(copy, "data_config", fps=4, prompt_template_type="none")
    (fact,) = system("videoreward").facts(copy)
    assert fact.found == "fps 4, max_frame_pixels 200704, prompt_template_type none"
    assert "fps 2, max_frame_pixels 200704, sample_type uniform" in fact.settles
    assert system("videoreward").facts(tmp_path / "nowhere")[0].found == "nothing"
    (copy / "model_config.json").write_text("{", "utf-8")
    assert system("videoreward").facts(copy)[0].found == "nothing"
