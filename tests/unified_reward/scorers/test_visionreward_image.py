"""VisionReward-Image: names of SAT, logits and scores of a twin, answers, bad folders."""

import json
import os
import pickle
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from typer.testing import CliRunner

import unified_reward as ur
from tests.unified_reward.scorers import sat_twins, vqa_twins
from tests.unified_reward.scorers.cogvlm_twins import RELEASED_WORDS, WORDS, llama_tokenizer
from tests.unified_reward.scorers.equations import flan_t5
from tests.unified_reward.scorers.equations.cogvlm import frame_tokens, last_logits
from tests.unified_reward.scorers.vqa_twins import token_ids
from unified_reward.checkpoints.tensor_keys import read_state
from unified_reward.cli import app
from unified_reward.core.errors import ModelError
from unified_reward.scorers import lift, open_facts, system
from unified_reward.scorers import visionreward_image as image_file
from unified_reward.scorers.checklists import ALIGNED, IMAGE_WEIGHTS
from unified_reward.scorers.loading import check
from unified_reward.scorers.visionreward_image import VisionRewardImage, WithoutVQAScore, fitted


KIND = system("visionreward-image")
RNG = np.random.default_rng(8)
PICTURE = RNG.integers(0, 256, (336, 336, 3), dtype=np.uint8)
CAPTION = "a red ball"
YES, NO = 256, 257
FIRST = 256 + len(WORDS)
MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])
MASKED = {22: 0, 23: 0, 24: 0, 28: 0, 29: 0, 25: 1, 26: 1, 27: 2}
WIDE, INNER, TOWER = 4096, 14_336, 1792


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    vqa_twins.install_words(folder, **{"VISIONREWARD-IMAGE": sat_twins.QUESTIONS})
    return folder


@pytest.fixture(autouse=True)
def _words(home, monkeypatch):
    monkeypatch.setenv("UNIFIED_REWARD_HOME", str(home))


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    folder = tmp_path_factory.mktemp("visionreward-image")
    return folder, *sat_twins.visionreward_image(folder)


@pytest.fixture(scope="module")
def scorer(twin):
    return ur.open_judge(f"visionreward-image:{twin[0]}", device="cpu", dtype="float64")


@pytest.fixture
def copied(twin, tmp_path):
    return shutil.copytree(twin[0], tmp_path / "copy")


def sample(pixels=PICTURE):
    return ur.Sample(ur.Task.IMAGE_GENERATION, CAPTION, (ur.Image(pixels, "HWC"),))


# Names and shapes


def released_names():
    """Names and shapes as the released code builds them, written anew from its equations."""
    layers, tower = range(32), range(63)
    names = {
        "transformer.word_embeddings.weight": (128_256, WIDE),
        "transformer.final_layernorm.weight": (WIDE,),
        "mixins.lm.lm_head.weight": (128_256, WIDE),
        "mixins.rotary.rotary_emb.inv_freq": (64,),
        "mixins.eva.boi": (1, 1, WIDE),
        "mixins.eva.eoi": (1, 1, WIDE),
        "mixins.eva.conv.weight": (TOWER, TOWER, 2, 2),
        "mixins.eva.conv.bias": (TOWER,),
        "mixins.eva.linear_proj.linear_proj.weight": (WIDE, TOWER),
        "mixins.eva.linear_proj.norm1.weight": (WIDE,),
        "mixins.eva.linear_proj.norm1.bias": (WIDE,),
        "mixins.eva.linear_proj.dense_h_to_4h.weight": (INNER, WIDE),
        "mixins.eva.linear_proj.gate_proj.weight": (INNER, WIDE),
        "mixins.eva.linear_proj.dense_4h_to_h.weight": (WIDE, INNER),
        "mixins.eva.vit_model.transformer.word_embeddings.weight": (1, TOWER),
        "mixins.eva.vit_model.transformer.position_embeddings.weight": (9217, TOWER),
        "mixins.eva.vit_model.mixins.patch_embedding.proj.weight": (TOWER, 3, 14, 14),
        "mixins.eva.vit_model.mixins.patch_embedding.proj.bias": (TOWER,),
    }
    for i in layers:
        stem = f"transformer.layers.{i}"
        names |= {
            f"{stem}.input_layernorm.weight": (WIDE,),
            f"{stem}.post_attention_layernorm.weight": (WIDE,),
            f"{stem}.attention.query_key_value.weight": (6144, WIDE),
            f"{stem}.attention.dense.weight": (WIDE, WIDE),
            f"{stem}.mlp.dense_h_to_4h.weight": (INNER, WIDE),
            f"{stem}.mlp.dense_4h_to_h.weight": (WIDE, INNER),
            f"mixins.mlp.gate_proj.{i}.weight": (INNER, WIDE),
            f"mixins.mlp.vision_dense_h_to_4h_list.{i}.weight": (INNER, WIDE),
            f"mixins.mlp.vision_gate_proj.{i}.weight": (INNER, WIDE),
            f"mixins.mlp.vision_dense_4h_to_h_list.{i}.weight": (WIDE, INNER),
            f"mixins.rotary.vision_query_key_value_list.{i}.weight": (6144, WIDE),
            f"mixins.rotary.vision_query_key_value_list.{i}.bias": (6144,),
            f"mixins.rotary.vision_dense_list.{i}.weight": (WIDE, WIDE),
        }
    for stem in (f"mixins.eva.vit_model.transformer.layers.{i}" for i in tower):
        maps = {
            "attention.query_key_value": (3 * TOWER, TOWER),
            "attention.dense": (TOWER, TOWER),
            "mlp.dense_h_to_4h": (15_360, TOWER),
            "mlp.dense_4h_to_h": (TOWER, 15_360),
        }
        for name, shape in maps.items():
            names |= {f"{stem}.{name}.weight": shape, f"{stem}.{name}.bias": shape[:1]}
        for norm in ("input_layernorm", "post_attention_layernorm"):
            names |= {f"{stem}.{norm}.{end}": (TOWER,) for end in ("weight", "bias")}
    return names


def write_released(folder, names):
    """A file with tensors of the released shapes, each number of which is one in memory."""
    (folder / sat_twins.FILE).parent.mkdir(parents=True, exist_ok=True)
    unit = torch.zeros(1, dtype=torch.bfloat16)
    module = {name: unit.expand(shape) for name, shape in names.items()}
    torch.save({"module": module}, folder / sat_twins.FILE)
    llama_tokenizer(folder / "tokenizer.json", RELEASED_WORDS)


def test_names_and_shapes_of_the_released_size_are_all_taken(tmp_path):
    """Their numbers fill 39.01 GB in bfloat16, the published size of the parts."""
    names = released_names()
    assert len(names) == 1190
    assert sum(int(np.prod(shape)) for shape in names.values()) == 19_503_105_344
    write_released(tmp_path, names)
    report = check(WithoutVQAScore, tmp_path)
    assert not report.problems
    assert report.keys.renamed == 1189 + 32, "the table of frequencies goes to every layer"
    assert (report.keys.loaded, report.keys.merged, report.keys.ignored) == (0, 0, {})


@pytest.mark.parametrize("change", ["missing", "spare", "shape"])
def test_a_name_or_shape_that_is_not_the_released_one_is_a_problem(change, tmp_path):
    names = released_names()
    name = "mixins.mlp.vision_gate_proj.31.weight"
    if change == "missing":
        del names[name]
    elif change == "spare":
        names["mixins.mlp.vision_gate_proj.31.bias"] = (INNER,)
    else:
        names[name] = (INNER + 1, WIDE)
    write_released(tmp_path, names)
    (problem,) = check(WithoutVQAScore, tmp_path).problems
    assert problem.startswith(
        {"missing": "1 missing", "spare": "1 unexplained", "shape": "1 of another shape"}[change]
    )


# Logits and scores


def by_hand(pixels):
    square = PIL.Image.fromarray(pixels).resize((1344, 1344), PIL.Image.Resampling.BICUBIC)
    return torch.from_numpy((np.asarray(square) / 255 - MEAN) / STD).permute(2, 0, 1)


def expected_logits(state, tokenizer, numbers):
    words = state["model.embed_tokens.weight"].double()
    image = frame_tokens(state, by_hand(PICTURE), heads=1)
    state = {name: x.double() for name, x in state.items() if ".vision." not in name}
    rows = []
    for number in numbers:
        text = f"Question: Is it {number}? Short answer:"
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        places = [0, 1, *[2] * 36, 3, *range(4, 4 + len(ids))]
        visual = [False, *[True] * 37, False, *[False] * len(ids)]
        tokens = torch.cat([words[[FIRST]], image, words[ids]])
        rows.append(last_logits(state, tokens, places, experts=visual))
    return torch.stack(rows)


@pytest.fixture(scope="module")
def wanted(twin, scorer):
    return expected_logits(twin[1], scorer.tokenizer, range(30))


def off(scorer, wanted):
    """Largest distance of the bytes' logits from the equations, by the largest of them."""
    with torch.inference_mode():
        got = scorer.logits(VisionRewardImage.prepare(sample()))
    return float((got - wanted)[:, :YES].abs().max() / wanted[:, :YES].abs().max())


@pytest.mark.numeric
def test_logits_of_a_twin_are_those_of_the_equations(scorer, wanted):
    assert wanted[:, :YES].std(0).max() > 0.5, "the twin cannot tell its questions apart"
    assert off(scorer, wanted) < 1e-5  # of pixels, which are float32


def expected_score(answers, aligned):
    """28 products, after the masks; ``answers`` are 1 or -1."""
    total = ALIGNED * aligned
    for i, weight in enumerate(IMAGE_WEIGHTS, 3):
        total += weight * answers[i] * (answers[MASKED[i]] == 1 if i in MASKED else 1)
    return total


@pytest.mark.numeric
def test_a_score_has_28_terms_of_which_the_first_is_vqascores(scorer, wanted, twin):
    folder, _, inner = twin
    answers = [1 if token == YES else -1 for token in wanted[:, : NO + 1].argmax(-1).tolist()]
    assert len({*answers}) == 2, "the twin gives one answer to all"
    question = vqa_twins.QUESTION.replace("{}", CAPTION)
    vqa_folder = folder / "clip-flant5-xxl"
    aligned = flan_t5.vqascore(
        inner,
        torch.from_numpy((PICTURE / 255 - MEAN) / STD).permute(2, 0, 1),
        token_ids(vqa_folder, lift.VICUNA),
        token_ids(vqa_folder, f"{question} ASSISTANT:"),
        token_ids(vqa_folder, "Yes"),
        n_tokens=len(inner["shared.weight"]) - vqa_twins.SPARE,
    )
    (scored,) = scorer.ask([sample()])
    assert scored.score.value == pytest.approx(expected_score(answers, aligned), abs=1e-5)
    assert scored.aspects["VQAScore"].value == pytest.approx(aligned, abs=1e-6)
    assert [one.value for one in scored.aspects.values()][:30] == [float(x > 0) for x in answers]
    assert [*scored.aspects][:2] == ["Is it 0?", "Is it 1?"]


def _last_token_by_the_expert(patch):
    patch.setattr(image_file, "expert_mask", lambda n: [True] * (n + 2))


def _first_token_by_the_language(patch):
    patch.setattr(image_file, "expert_mask", lambda n: [False, *[True] * n, False])


def _counted_positions(patch):
    patch.setattr(image_file, "positions", lambda start, n: [*range(start, start + n + 2)])


def _words_of_videos(patch):
    original = image_file.worded
    patch.setattr(
        image_file,
        "worded",
        lambda x: [t.replace(" Short answer:", " Answer:") for t in original(x)],
    )


def _experts_swapped(patch):
    rules = [
        (pattern, new.replace("vision_mlp.up", "X").replace("vision_mlp.gate", "vision_mlp.up"))
        for pattern, new in image_file._RENAMES
    ]
    rules = [(pattern, new.replace("X", "vision_mlp.gate")) for pattern, new in rules]
    patch.setattr(image_file, "_RENAMES", tuple(rules))


def _cut_in_the_middle(patch):
    def cropped(picture):
        return fitted(picture.crop((40, 40, 296, 296)))

    patch.setattr(image_file, "fitted", cropped)


MUTATIONS = [
    *(_last_token_by_the_expert, _first_token_by_the_language, _counted_positions),
    *(_words_of_videos, _experts_swapped, _cut_in_the_middle),
]


@pytest.mark.parametrize("mutate", MUTATIONS)
def test_a_mistake_is_seen(mutate, scorer, twin, wanted, monkeypatch):
    mutate(monkeypatch)
    if mutate is _experts_swapped:
        reference = f"visionreward-image-without-vqascore:{twin[0]}"
        scorer = ur.open_judge(reference, device="cpu", dtype="float64")
    assert off(scorer, wanted) > 1e-3


def test_the_image_is_computed_once_for_30_questions(scorer, monkeypatch):
    calls = []
    encode = scorer.module.cogvlm.encode

    def counted(*arguments):
        calls.append(arguments)
        return encode(*arguments)

    monkeypatch.setattr(scorer.module.cogvlm, "encode", counted)
    scorer.ask([sample(), sample(255 - PICTURE)])
    assert len(calls) == 2
    tokens, places, experts = calls[0]
    assert len(tokens) == len(places) == len(experts) == 1 + 36 + 2
    assert places == [0, 1, *[2] * 36, 3]
    assert experts == [False, *[True] * 37, False]


def test_an_image_is_squeezed_to_a_square():
    picture = PIL.Image.fromarray(RNG.integers(0, 256, (30, 90, 3), dtype=np.uint8))
    got = fitted(picture)
    assert got.shape == (3, 1344, 1344)
    assert (got.double() - by_hand(np.asarray(picture))).abs().max() < 1e-6


# Answers


def raw(answers, aligned=0.5, *, yes=YES, no=NO):
    return [float(yes if one else no) for one in answers] + [aligned]


def test_masks_take_their_questions_out(scorer):
    every = scorer.decode(raw([True] * 30, 1.0)).score.value
    assert every == pytest.approx(4.8912, abs=1e-4)
    for mask in (0, 1, 2):
        answers = [True] * 30
        answers[mask] = False
        lost = sum(IMAGE_WEIGHTS[i - 3] for i, m in MASKED.items() if m == mask)
        assert scorer.decode(raw(answers, 1.0)).score.value == pytest.approx(every - lost)


def test_thirty_answers_of_no_are_refused_and_not_a_line(scorer):
    """The line of Llama 3 Instruct: the same slope and intercept for every image."""
    verdict = scorer.decode(raw([False] * 30))
    assert isinstance(verdict, ur.Unparsed)
    assert "all 30 answers are no: the score would be 2.354 * VQAScore - 2.162" in verdict.reason
    assert expected_score([-1] * 30, 0.25) == pytest.approx(2.35429 * 0.25 - 2.16194, abs=1e-5)
    assert isinstance(scorer.decode(raw([True, *[False] * 29])), ur.Scored)


def test_an_answer_that_is_neither_yes_nor_no_is_not_a_no(scorer):
    answers = raw([True] * 30)
    answers[4] = 70.0
    verdict = scorer.decode(answers)
    assert isinstance(verdict, ur.Unparsed)
    assert verdict.reason == "1 of 30 answers are neither yes nor no"


def test_other_spellings_count_and_the_strict_value_stands_beside(scorer):
    scored = scorer.decode(raw([True] * 30, 0.0, yes=258))
    assert scored.score.value == pytest.approx(2.5369, abs=1e-4)
    assert scored.text.startswith("answers 30 'Yes'; as the released code counts: -2.16194")


def test_a_score_without_vqascore_says_so_with_every_verdict(tmp_path):
    state, _ = sat_twins.visionreward_image(tmp_path, with_vqascore=False)
    assert state
    reference = f"visionreward-image-without-vqascore:{tmp_path}"
    judge = ur.open_judge(reference, device="cpu")
    (scored,) = judge.ask([sample()])
    assert "without VQAScore, the 28th term: not the published score" in scored.text
    assert len(scored.aspects) == 30
    scale = judge.card.scale
    assert (scale.low, scale.high) == pytest.approx((-2.5369, 2.5369), abs=1e-4)
    with pytest.raises(ModelError, match="no VQAScore, the 28th term; visionreward-image-without"):
        ur.open_judge(f"visionreward-image:{tmp_path}")


# Bad folders


def problems(folder, name="visionreward-image"):
    with pytest.raises(ModelError) as error:
        ur.open_judge(f"{name}:{folder}", device="cpu")
    return str(error.value)


@pytest.mark.parametrize("place", ["ckpts", "."])
def test_parts_that_are_not_joined_are_an_error_that_says_how(place, tmp_path):
    (tmp_path / place).mkdir(exist_ok=True)
    for end in ("aa", "ab"):
        (tmp_path / place / f"split_part_{end}").write_bytes(b"x")
    (tmp_path / "latest").write_text("1")
    message = problems(tmp_path)
    stem = "ckpts/split_part_*" if place == "ckpts" else "split_part_*"
    assert "2 parts that are not joined" in message
    assert f"cat {stem} > visionreward_image.tar && tar -xf visionreward_image.tar" in message
    assert "weights as of visionreward-image" in problems(tmp_path, "hpsv3")


def test_an_archive_that_is_not_unpacked_is_an_error_that_says_how(tmp_path):
    (tmp_path / "visionreward_image.tar").write_bytes(b"x")
    assert "is not unpacked. Run: tar -xf visionreward_image.tar" in problems(tmp_path)


class _Code:
    def __reduce__(self):
        return os.getcwd, ()


def test_a_pickle_with_code_is_refused_and_its_code_does_not_run(copied):
    message = "holds more than tensors and is not unpickled, since a pickle can run code"
    with (copied / sat_twins.FILE).open("wb") as opened:
        pickle.dump({"module": _Code()}, opened, protocol=2)
    assert message in problems(copied)
    torch.save({"module": {}, "args": _Code()}, copied / sat_twins.FILE)
    assert f"{message}: it names posix.getcwd" in problems(copied)


def test_a_file_that_is_cut_off_is_refused(copied):
    file = copied / sat_twins.FILE
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert "is broken or cut off" in problems(copied)


def test_the_base_models_folder_is_refused_by_what_it_holds(tmp_path):
    (tmp_path / "model-00001-of-00008.safetensors").write_bytes(b"")
    message = problems(tmp_path)
    assert "no weights (1/mp_rank_00_model_states.pt" in message
    assert "it holds model-00001-of-00008.safetensors" in message


def test_a_model_without_an_expert_and_one_of_other_images_are_refused(tmp_path):
    for name, message, sizes in (
        ("a", "without a visual expert", {"expert": False}),
        ("b", "images of 672 pixels a side", {"grid": 6}),
    ):
        folder = tmp_path / name
        sat_twins.visionreward_image(folder, with_vqascore=False, **sizes)
        assert message in problems(folder, "visionreward-image-without-vqascore")


def test_a_tokenizer_of_another_model_is_refused(copied):
    text = (copied / "tokenizer.json").read_text("utf-8")
    changed = text.replace("<|begin_of_text|>", "<|begin_of_mext|>")
    (copied / "tokenizer.json").write_text(changed, "utf-8")
    assert "has no <|begin_of_text|>" in problems(copied)
    (problem,) = check(VisionRewardImage, copied).problems
    assert "has no <|begin_of_text|>" in problem  # before weights are loaded


def test_an_unknown_tensor_is_named_where_vqascore_is_left_out(tmp_path):
    state, _ = sat_twins.visionreward_image(tmp_path, with_vqascore=False)
    saved = {**sat_twins.as_sat(state), "extra.weight": torch.zeros(2)}
    torch.save({"module": saved}, tmp_path / sat_twins.FILE)
    message = problems(tmp_path, "visionreward-image-without-vqascore")
    assert message.endswith("1 unexplained: extra.weight")


@pytest.mark.parametrize(
    "file", [sat_twins.FILE, "clip-flant5-xxl/pytorch_model-00001-of-00002.bin"]
)
def test_a_pointer_of_git_lfs_in_a_folder_within_is_called_so(file, copied):
    (copied / file).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    message = problems(copied)
    assert "is a Git LFS pointer; run git lfs pull" in message
    assert "run code" not in message


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_pickle_is_mapped_and_not_held_in_memory(tmp_path):
    n_bytes = 256 << 20

    def anonymous():
        status = Path("/proc/self/status").read_text()
        return int(re.findall(r"RssAnon:\s+(\d+) kB", status)[0]) * 1024

    torch.save({"module": {"w": torch.ones(n_bytes // 4)}}, tmp_path / "a.pt")
    before = anonymous()
    shapes = read_state([tmp_path / "a.pt"], shapes_only=True)
    state = read_state([tmp_path / "a.pt"])
    assert shapes["w"].is_meta
    assert state["w"].sum() == n_bytes // 4
    assert anonymous() - before < n_bytes / 8


# Open facts


def test_the_open_facts_of_a_folder_are_read_in_a_moment(twin, tmp_path):
    names, sizes, tokenizer, end, parity = open_facts.visionreward_image(twin[0])
    assert names.found.startswith("68 tensors, 1190 expected, 67 tensors of float32, 1 ")
    assert "mixins.eva.vit_model.transformer.layers (24)" in names.found
    assert sizes.found == '{"model_class": "CogVLM2Model"}'
    assert tokenizer.found.endswith("not 0ac333c83e2d…")
    assert (end.found, parity.found) == ("no file says", "no file can tell")
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|eot_id|>"}')
    assert [fact.found for fact in open_facts.visionreward_image(tmp_path)] == [
        "no weights",
        f"{tmp_path}/model_config.json cannot be read: No such file or directory",
        "no tokenizer.json",
        "tokenizer_config.json: eos_token '<|eot_id|>'",
        "no file can tell",
    ]


def test_one_command_checks_a_folder_and_lists_its_open_facts(twin):
    command = ["scorers", "check", "visionreward-image", str(twin[0])]
    printed = CliRunner().invoke(app, command)
    assert printed.exit_code == 0, printed.output
    assert "which tensors are there, under which names?\n    found    68 tensors" in printed.output
    assert "complete  load as visionreward-image:" in printed.output
    row = json.loads(CliRunner().invoke(app, [*command, "--json"]).output)
    assert len(row["files"]) == 3
    assert len(row["facts"]) == 8
    assert all({*fact} == {"question", "found", "settles"} for fact in row["facts"])


def test_the_open_facts_of_a_video_folder_name_its_rotary_rounding(tmp_path):
    (tmp_path / "util.py").write_text("x = 1\ninv_freq = 1 / base ** arange.to(float32)\n")
    (tmp_path / "config.json").write_text("{}")
    rotary, release, precision, _ = open_facts.visionreward_video(tmp_path)
    assert rotary.found == "inv_freq = 1 / base ** arange.to(float32)"
    assert "config.json 2 bytes, sha256 44136fa355b3" in release.found
    assert "no model.safetensors.index.json; no tokenizer.json" in release.found
    assert precision.found == "no weights"


@pytest.mark.numeric
def test_in_bfloat16_the_twin_is_near_its_equations(twin, wanted):
    reference = f"visionreward-image-without-vqascore:{twin[0]}"
    scorer = ur.open_judge(reference, device="cpu", dtype="bfloat16")
    # 0.11 here: eight bits of mantissa, in two layers of each model; a mistake above gives 1.
    assert off(scorer, wanted) < 0.3
