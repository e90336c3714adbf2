"""Folders that are not what they should be, and samples that cannot be scored."""

import json
import pickle
import re
import shutil

import numpy as np
import PIL.Image
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file

import unified_reward as ur
from tests.unified_reward.scorers import twins
from unified_reward.checkpoints.tensor_keys import (
    lora_scale,
    match_keys,
    merge_lora,
    read_state,
    rename_keys,
)
from unified_reward.core.errors import ConfigError, DataError, ModelError
from unified_reward.scorers import SYSTEMS, system
from unified_reward.scorers.base import Prepared
from unified_reward.scorers.loading import check, patterns


@pytest.fixture
def copy(twin, tmp_path):
    """A twin's folder to break."""

    def get(name):
        folder = tmp_path / name
        shutil.copytree(twin(name)[0], folder)
        return folder

    return get


def problems(name, folder):
    return "; ".join(check(system(name), folder).problems)


@pytest.mark.parametrize("name", twins.MAKERS)
def test_a_whole_folder_has_no_problems_and_every_tensor_is_accounted_for(name, twin):
    folder, state = twin(name)
    holding = check(system(name), folder)
    assert not holding.problems
    keys = holding.keys
    ignored = sum(keys.ignored.values())
    sources = keys.loaded + keys.renamed + 3 * keys.merged + ignored
    fused = sum("in_proj" in item for item in state)  # one tensor of the file fills three
    assert sources == len(state) + 2 * fused


@pytest.mark.parametrize(("name", "other"), [("pickscore", "hpsv2"), ("hpsv2", "imagereward")])
def test_the_folder_of_another_system_is_named(name, other, twin):
    result = problems(name, twin(other)[0])
    assert "no weights" in result
    assert f"weights as of {other}" in result


def test_tensors_of_another_system_in_the_right_file_are_refused(twin, tmp_path):
    state = twin("imagereward")[1]
    torch.save({"state_dict": state}, tmp_path / "HPS_v2_compressed.pt")
    assert "these are other weights" in problems("hpsv2", tmp_path)
    with pytest.raises(ModelError, match="cannot be loaded as hpsv2: there is no visual"):
        ur.open_judge(f"hpsv2:{tmp_path}")


def test_a_tower_with_other_heads_is_no_hps_v2(tmp_path):
    twins.hps(tmp_path, "hpc.pt")
    (tmp_path / "hpc.pt").rename(tmp_path / "HPS_v2_compressed.pt")
    assert "a width of 128 is not a multiple of the head width 80" in problems("hpsv2", tmp_path)


def test_half_a_checkpoint_is_refused_with_what_it_lacks(copy):
    folder = copy("pickscore")
    state = load_file(folder / "model.safetensors")
    half = {name: state[name] for name in list(state)[: len(state) // 2]}
    save_file(half, folder / "model.safetensors")
    result = problems("pickscore", folder)
    assert f"{len(state) - len(half)} missing: " in result
    assert result.endswith("more")


def test_extra_tensors_are_refused_and_named(copy):
    folder = copy("videoscore")
    state = load_file(folder / "model.safetensors")
    save_file(state | {"value.weight": torch.ones(2)}, folder / "model.safetensors")
    assert problems("videoscore", folder) == "1 unexplained: value.weight"


def test_a_tensor_of_another_shape_is_refused_and_not_called_missing(copy):
    folder = copy("pickscore")
    state = load_file(folder / "model.safetensors")
    state["visual_projection.weight"] = torch.ones(3, 160)
    save_file(state, folder / "model.safetensors")
    result = problems("pickscore", folder)
    assert result == "1 of another shape: visual_projection.weight (3, 160) for (24, 160)"


def test_an_adapter_without_its_other_half_is_unexplained(copy):
    folder = copy("videoreward")
    file = folder / "checkpoint-11352" / "model.pth"
    state = torch.load(file)
    name = next(item for item in state if "lora_B" in item)
    del state[name]
    torch.save(state, file)
    result = problems("videoreward", folder)
    assert result == f"1 unexplained: {name.replace('lora_B', 'lora_A')}"


class _Runs:
    def __reduce__(self):
        return (print, ("it ran",))


def test_a_pickle_with_code_in_it_is_refused_and_not_run(tmp_path, capsys):
    (tmp_path / "hpc.pt").write_bytes(pickle.dumps({"state_dict": _Runs()}, protocol=2))
    torch.save({"state_dict": _Runs()}, tmp_path / "HPS_v2_compressed.pt")
    for name in ("hpsv1", "hpsv2"):
        with pytest.raises(ModelError, match=r"holds more than tensors|is broken"):
            ur.open_judge(f"{name}:{tmp_path}")
    assert "it ran" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["hpsv2.1", "hpsv3", "videoreward"])
def test_a_file_cut_off_is_refused(name, copy):
    folder = copy(name)
    (file,) = check(system(name), folder).files
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert "broken or cut off" in problems(name, folder)


def test_a_shard_that_is_not_there_is_named(copy):
    folder = copy("videoscore-qwen2-vl")
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert problems("videoscore-qwen2-vl", folder).endswith(
        "lacks 1 of 2 shards: model-00002-of-00002.safetensors"
    )


@pytest.mark.parametrize(
    ("name", "file", "result"),
    [
        ("pickscore", "config.json", "no configuration (config.json)"),
        ("imagereward", "vocab.txt", "no vocabulary of bert-base-uncased, which the release lacks"),
        ("videoreward", "model_config.json", "no configuration (model_config.json)"),
        ("hpsv3", "tokenizer.json", "no tokenizer (tokenizer.json or"),
    ],
)
def test_what_lies_beside_the_weights_is_asked_for(name, file, result, copy):
    folder = copy(name)
    (folder / file).unlink()
    (folder / "vocab.json").unlink(missing_ok=True)  # the other form of a tokenizer
    assert result in problems(name, folder)


def test_heads_that_are_not_known_well_enough_are_refused(copy):
    folder = copy("videoscore-qwen2-vl")
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"score_type": "special_token"}))
    assert "are not supported" in problems("videoscore-qwen2-vl", folder)


def test_a_tokenizer_of_other_weights_is_refused(copy):
    folder = copy("hpsv3")
    twins.byte_tokenizer(folder, [f"<{i}>" for i in range(80)])
    with pytest.raises(ModelError, match=r"the tokenizer in .* is not that of these weights"):
        ur.open_judge(f"hpsv3:{folder}")


def test_weights_that_are_no_folder_are_told(tmp_path):
    with pytest.raises(ModelError, match="it is empty or not a folder"):
        ur.open_judge(f"pickscore:{tmp_path / 'nowhere'}")


def test_a_scorer_without_weights_says_where_they_are():
    with pytest.raises(ConfigError, match=r"needs its weights.*yuvalkirstain/PickScore_v1"):
        ur.open_judge("pickscore:")
    with pytest.raises(ConfigError, match=r"pickscore:WEIGHTS"):
        ur.open_judge("pickscore")


def test_an_unknown_scorer_and_a_family_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"(?s)no judge 'hps:.*scorer \(pickscore, hpsv1"):
        ur.open_judge(f"hps:{tmp_path}")
    with pytest.raises(ConfigError, match="one prompt format; leave out family='native'"):
        ur.open_judge(f"pickscore:{tmp_path}", family="native")


def test_without_its_wording_a_scorer_fails_and_says_what_to_run(twin, tmp_path, monkeypatch):
    scorer = ur.open_judge(f"videoscore:{twin('videoscore')[0]}")
    monkeypatch.setenv("UNIFIED_REWARD_HOME", str(tmp_path))
    clip = np.zeros((2, 400, 400, 3), np.uint8)
    with pytest.raises(ConfigError, match="templates import PATH on your clone of TIGER-AI-Lab"):
        scorer.score("x", video=ur.Video(clip, "THWC"))


@pytest.mark.parametrize("mark", ["<|VQ_reward|>", "<|video_pad|>", "<|im_end|>", "<|endoftext|>"])
def test_a_caption_with_a_mark_of_the_model_fails_alone(mark, twin):
    scorer = ur.open_judge(f"videoreward:{twin('videoreward')[0]}")
    clip = ur.Video(np.full((4, 60, 60, 3), 90, np.uint8), "THWC", fps=8.0)
    samples = [
        ur.Sample(ur.Task.VIDEO_GENERATION, caption, (clip,)) for caption in (f"a {mark} b", "a b")
    ]
    bad, good = scorer.ask(samples)
    assert isinstance(bad, ur.Failed)
    assert repr(mark) in bad.error
    assert isinstance(good, ur.Scored)


def test_broken_files_other_tasks_and_criteria_fail_alone(twin, tmp_path):
    scorer = ur.open_judge(f"hpsv2.1:{twin('hpsv2.1')[0]}")
    fine = ur.Image(PIL.Image.new("RGB", (30, 30), "red"))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nrest")
    task = ur.Task.IMAGE_GENERATION
    samples = [
        ur.Sample(task, "a", (ur.Image(broken),)),
        ur.Sample(task, "a", (fine, ur.Image(tmp_path / "nowhere.png"))),
        ur.Sample(ur.Task.IMAGE_UNDERSTANDING, "what?", ("red",), (fine,)),
        ur.Sample(task, "a", (fine,), criteria="only colour"),
        ur.Sample(task, "a", (fine,)),
    ]
    *failed, scored = scorer.ask(samples)
    assert isinstance(scored, ur.Scored)
    result = [item.error for item in failed]
    assert "broken.png" in result[0]
    assert "nowhere.png" in result[1]
    assert "hpsv2.1 scores image_generation" in result[2]
    assert "takes no criteria; leave out 'only colour'" in result[3]
    refused = scorer.check_samples(samples)
    assert [item and item.error for item in refused] == [*result, None]


@pytest.mark.parametrize("name", twins.MAKERS)
def test_numbers_that_are_not_finite_are_failures(name, twin):
    scorer = ur.open_judge(f"{name}:{twin(name)[0]}", device="cpu")
    for tensor in scorer.module.parameters():
        tensor.fill_(float("nan"))
    task, candidates = ur.Task.IMAGE_GENERATION, [ur.Image(PIL.Image.new("RGB", (9, 9), "red"))]
    before = ()
    if name == "editreward":
        task, before = ur.Task.IMAGE_EDITING, (candidates[0],)
    if "video" in name:
        clips = np.random.default_rng(0).integers(0, 255, (2, 4, 56, 56, 3), np.uint8)
        task, candidates = ur.Task.VIDEO_GENERATION, [ur.Video(x, "THWC", 8) for x in clips]
    for question in (candidates[:1], [candidates[0], candidates[-1]]):
        (verdict,) = scorer.ask([ur.Sample(task, "a", tuple(question), before)])
        assert "not finite numbers; try another dtype" in verdict.error


def test_numbers_that_overflow_when_they_are_decoded_fail_alone(twin, monkeypatch):
    scorer = ur.open_judge(f"hpsv3:{twin('hpsv3')[0]}", device="cpu")
    rows = {"good": [1.0, 0.0], "sigma": [1.0, 1e4], "variance": [1.0, 600.0]}
    monkeypatch.setattr(
        scorer, "forward", lambda batch: torch.tensor([rows[each.text] for each in batch])
    )
    monkeypatch.setattr(scorer, "prepare", lambda sample: Prepared(sample.prompt, torch.empty(0)))
    picture = ur.Image(PIL.Image.new("RGB", (9, 9), "red"))
    samples = [
        ur.Sample(ur.Task.IMAGE_GENERATION, name, (picture,) * n)
        for name, n in (("good", 1), ("sigma", 1), ("variance", 2))
    ]
    good, sigma, variance = scorer.ask(samples)
    assert good.score.sigma == 1.0
    assert "standard deviation inf is not a finite number" in sigma.error
    assert "gave no verdict" in variance.error


@pytest.mark.parametrize(
    ("name", "token"),
    [
        ("pickscore", "<|endoftext|>"),
        ("hpsv1", "<|endoftext|>"),
        ("hpsv2", "<end_of_text>"),
        ("hpsv2.1", "<end_of_text>"),
        ("imagereward", "[SEP]"),
    ],
)
def test_a_caption_with_a_control_token_is_refused_where_it_would_end(name, token):
    image = ur.Image(np.zeros((32, 32, 3), np.uint8), "HWC")
    sample = ur.Sample(ur.Task.IMAGE_GENERATION, f"a {token} b", (image,))
    with pytest.raises(DataError, match=re.escape(repr(token))):
        system(name).prepare(sample)


def test_long_captions_are_cut_as_released_and_it_is_said(twin):
    picture = PIL.Image.new("RGB", (30, 30), "red")
    for name, limit in (("pickscore", 77), ("hpsv2.1", 77), ("imagereward", 35)):
        scorer = ur.open_judge(f"{name}:{twin(name)[0]}")
        long, longer = (scorer.score("word " * n, image=picture) for n in (100, 120))
        assert long.score == longer.score
        assert f"of which the first {limit} were read" in long.text
        assert scorer.score("word", image=picture).text == ""


@pytest.mark.parametrize("name", ["videoreward", "videoscore", "videoscore-qwen2-vl"])
def test_a_clip_of_one_frame_is_scored(name, twin):
    scorer = ur.open_judge(f"{name}:{twin(name)[0]}")
    frame = np.full((1, 378, 378, 3), 90, np.uint8)
    scored = scorer.score("x", video=ur.Video(frame, "THWC", fps=8.0))
    assert ("some shown twice" in scored.text) == (name != "videoscore")


def test_a_tensor_that_two_files_hold_is_refused(tmp_path):
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for value, file in enumerate(files):
        save_file({"w": torch.full((2,), float(value)), file.stem: torch.ones(1)}, file)
    with pytest.raises(ModelError, match=r"b\.safetensors and another file both hold w:"):
        read_state(files)


@pytest.mark.parametrize("merge", [iter, lambda pieces: merge_lora(pieces, 1.0)])
def test_two_tensors_for_one_place_are_a_problem_and_neither_is_lost(merge):
    module = torch.nn.Linear(2, 1, bias=False)
    state = {"weight": torch.ones(1, 2), "old.weight": torch.zeros(1, 2)}
    report = match_keys(module, merge(rename_keys(state, [("^old.", "")])), {})[1]
    assert len(report.unexplained) == report.loaded + report.renamed == 1


def test_a_rank_stabilised_adapter_is_scaled_by_the_root_of_its_rank():
    assert lora_scale(64, 128, stabilised=False) == 2
    assert lora_scale(64, 128, stabilised=True) == 16


def test_a_merged_weight_is_the_base_and_the_scaled_product():
    tensors = {
        "a.base_layer.weight": torch.eye(2),
        "a.base_layer.bias": torch.ones(2),
        "a.lora_A.default.weight": torch.tensor([[1.0, 2.0]]),
        "a.lora_B.default.weight": torch.tensor([[3.0], [0.0]]),
    }
    pieces = {item.target: item.value for item in merge_lora(rename_keys(tensors, ()), 2.0)}
    assert pieces["a.weight"].tolist() == [[7.0, 12.0], [0.0, 1.0]]
    assert [*pieces] == ["a.weight", "a.bias"]


def test_every_tensor_of_a_file_ends_in_one_group():
    module = torch.nn.Linear(2, 2)
    tensors = {
        "weight": torch.ones(2, 2),
        "old.bias": torch.ones(2),
        "spare": torch.ones(1),
        "odd": torch.ones(1),
    }
    pieces = rename_keys(tensors, [(r"^old\.", "")])
    fitting, report = match_keys(module, pieces, {"spare": "not used"})
    assert {*fitting} == {"weight", "bias"}
    assert (report.loaded, report.renamed, report.ignored) == (1, 1, {"not used": 1})
    assert str(report) == (
        "1 loaded, 1 renamed, 0 merged, 1 ignored (not used), 1 unexplained: odd"
    )


OF_FILES_OF_THEIR_OWN = {
    *("lift-critic-13b", "ixc-2.5-reward", "ixc-2.5-reward-newline", "visionreward-video"),
    *("vqascore", "visionreward-image", "visionreward-image-without-vqascore"),
}


def test_every_system_has_a_twin():
    assert {*SYSTEMS} == {*twins.MAKERS, *OF_FILES_OF_THEIR_OWN}
    assert all(system(name).card.verified for name in SYSTEMS)


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("videoscore", ["model.safetensors.index.json", "model-00001-of-00004.safetensors"]),
        ("videoreward", ["checkpoint-11352/model.pth", "model_config.json", "merges.txt"]),
        ("hpsv2.1", ["HPS_v2.1_compressed.pt"]),
        ("ixc-2.5-reward", ["pytorch_model-00001-of-00003.bin", "config.json", "tokenizer.model"]),
        ("imagereward", ["ImageReward.pt", "med_config.json", "vocab.txt"]),
    ],
)
def test_of_a_repository_of_the_hub_just_what_is_read_is_fetched(name, files):
    others = ["README.md", "optimizer.pt", "HPS_v2_compressed.pt", "training_args.bin"]
    kept = filter_repo_objects([*files, *others], allow_patterns=patterns(system(name)))
    assert [*kept] == files
