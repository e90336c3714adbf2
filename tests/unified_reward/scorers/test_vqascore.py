"""VQAScore: a tiny twin in the released layout against float64 equations; mistakes; bad input."""

import json
import re
import shutil

import numpy as np
import PIL.Image
import pytest
import torch

import unified_reward as ur
from tests.unified_reward.scorers import vqa_twins
from tests.unified_reward.scorers.equations import flan_t5
from tests.unified_reward.scorers.vqa_twins import token_ids
from unified_reward.core.errors import DataError, ModelError
from unified_reward.scorers import lift, open_facts, vqascore
from unified_reward.scorers.loading import check
from unified_reward.scorers.vqascore import VQAScore, fitted


RNG = np.random.default_rng(11)
SQUARE = RNG.integers(0, 256, (336, 336, 3), dtype=np.uint8)
PICTURES = [SQUARE, 255 - SQUARE]
CAPTIONS = ["a red ball", "two cats {} on a mat, far from each other"]
MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])


@pytest.fixture(autouse=True)
def _words(tmp_path_factory, monkeypatch):
    home = tmp_path_factory.mktemp("home")
    vqa_twins.install_words(home)
    monkeypatch.setenv("UNIFIED_REWARD_HOME", str(home))


PAIRS = [(pixels, caption) for pixels in PICTURES for caption in CAPTIONS]


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    """Folder of the twin, and its scores by the equations."""
    folder = tmp_path_factory.mktemp("clip-flant5")
    state = vqa_twins.vqascore(folder)
    wanted = [by_equations(folder, state, *pair) for pair in PAIRS]
    assert np.ptp(wanted) > 0.02, "the twin cannot tell its samples apart"
    assert min(np.ptp(wanted[:2]), np.ptp(wanted[::2])) > 0.002
    return folder, wanted


def sample(pixels, caption):
    return ur.Sample(ur.Task.IMAGE_GENERATION, caption, (ur.Image(pixels, "HWC"),))


def by_equations(folder, state, pixels, caption):
    system = lift.VICUNA.removesuffix(" USER: ")
    assert not system.endswith(" ")
    question = vqa_twins.QUESTION.replace("{}", caption)
    return flan_t5.vqascore(
        state,
        torch.from_numpy((pixels / 255 - MEAN) / STD).permute(2, 0, 1),
        token_ids(folder, f"{system} USER: "),
        token_ids(folder, f"\n{question} ASSISTANT: "),
        token_ids(folder, "Yes"),
        n_tokens=len(state["shared.weight"]) - vqa_twins.SPARE,
    )


def difference(twin):
    folder, wanted = twin
    scorer = ur.open_judge(f"vqascore:{folder}", device="cpu", dtype="float64")
    got = [verdict.score.value for verdict in scorer.ask([sample(*pair) for pair in PAIRS])]
    return float(np.abs(np.subtract(got, wanted)).max())


TOLERANCE = 1e-6
"""For scores below 1: T5's norms take their variance in float32 (2^-24, in a dozen layers)."""


@pytest.mark.numeric
def test_a_twin_scores_as_the_equations_say(twin):
    assert difference(twin) < TOLERANCE


def _scaled_outputs(patch):
    """The default of transformers 5 where a configuration does not deny tied embeddings."""
    original = vqascore.T5Config
    patch.setattr(
        vqascore,
        "T5Config",
        lambda **given: original(**{k: v for k, v in given.items() if k != "tie_word_embeddings"}),
    )


def _all_rows(patch):
    original = vqascore.ClipFlanT5
    patch.setattr(
        vqascore, "ClipFlanT5", lambda t5, eyes, layer, n: original(t5, eyes, layer, t5.vocab_size)
    )


def _last_layer(patch):
    original = vqascore.ClipFlanT5
    patch.setattr(vqascore, "ClipFlanT5", lambda t5, eyes, _, n: original(t5, eyes, -1, n))


def _without_inner_end(patch):
    """One end for the whole text, as a tokenizer would put it."""
    original = VQAScore._ids
    patch.setattr(
        VQAScore,
        "_ids",
        lambda self, text: original(self, text)[: -1 if text == lift.VICUNA else None],
    )


def _without_end_of_answer(patch):
    original = vqascore.ClipFlanT5.forward
    patch.setattr(
        vqascore.ClipFlanT5, "forward", lambda *given: original(*given[:4], given[4][:-1])
    )


def _product(patch):
    original = vqascore.ClipFlanT5.forward
    patch.setattr(vqascore.ClipFlanT5, "forward", lambda *given: 2 * original(*given))


def _exact_gelu_in_clip(patch):
    original = vqascore.CLIPVisionConfig
    patch.setattr(
        vqascore, "CLIPVisionConfig", lambda **given: original(**given, hidden_act="gelu")
    )


MUTATIONS = [
    *(_scaled_outputs, _all_rows, _last_layer, _without_inner_end),
    *(_without_end_of_answer, _product, _exact_gelu_in_clip),
]


@pytest.mark.parametrize("mutate", MUTATIONS)
def test_a_mistake_is_seen(mutate, twin, monkeypatch):
    mutate(monkeypatch)
    assert difference(twin) > 10 * TOLERANCE


def test_an_image_lies_in_the_middle_of_a_square_of_the_mean():
    picture = PIL.Image.new("RGB", (672, 300), (255, 0, 0))
    pixels = fitted(picture).numpy() * STD[:, None, None] + MEAN[:, None, None]
    levels = np.round(pixels * 255)
    assert levels.shape == (3, 336, 336)
    assert levels[:, 0, 0].tolist() == levels[:, 90, 5].tolist() == [122, 116, 104]
    assert levels[:, 168, 168].tolist() == levels[:, 96, 0].tolist() == [255, 0, 0]
    assert levels[:, 335, 335].tolist() == [122, 116, 104]


def released_names():
    """Names and shapes of flan-t5-xxl, of CLIP ViT-L/14 at 336, and of the projector."""
    width, inner, eyes, mlp = 4096, 10_240, 1024, 4096
    names = {"shared.weight": (32_128, width), "lm_head.weight": (32_128, width)}
    for stack, kinds in (("encoder", 1), ("decoder", 2)):
        names[f"{stack}.final_layer_norm.weight"] = (width,)
        bias = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        names[bias] = (32, 64)
        for block in (f"{stack}.block.{i}.layer" for i in range(24)):
            for j, kind in enumerate(("SelfAttention", "EncDecAttention")[:kinds]):
                names |= {f"{block}.{j}.{kind}.{x}.weight": (width, width) for x in "qkvo"}
            names |= {f"{block}.{j}.layer_norm.weight": (width,) for j in range(kinds + 1)}
            maps = f"{block}.{kinds}.DenseReluDense"
            names |= {f"{maps}.{x}.weight": (inner, width) for x in ("wi_0", "wi_1")}
            names[f"{maps}.wo.weight"] = (width, inner)
    stem = "vision_tower.vision_tower.vision_model"
    tower = {
        f"{stem}.embeddings.class_embedding": (eyes,),
        f"{stem}.embeddings.patch_embedding.weight": (eyes, 3, 14, 14),
        f"{stem}.embeddings.position_embedding.weight": (577, eyes),
    }
    for x in ("weight", "bias"):
        tower |= {f"{stem}.{norm}.{x}": (eyes,) for norm in ("pre_layrnorm", "post_layernorm")}
        for layer in (f"{stem}.encoder.layers.{i}" for i in range(24)):
            square = (eyes, eyes)[: 2 if x == "weight" else 1]
            for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                tower[f"{layer}.self_attn.{part}.{x}"] = square
            tower |= {f"{layer}.layer_norm{i}.{x}": (eyes,) for i in (1, 2)}
            tower[f"{layer}.mlp.fc1.{x}"] = (mlp, eyes)[: len(square)]
            tower[f"{layer}.mlp.fc2.{x}"] = (eyes, mlp)[: len(square)]
    projector = {"mm_projector.0.weight": (width, eyes), "mm_projector.2.weight": (width, width)}
    projector |= {f"mm_projector.{i}.bias": (width,) for i in (0, 2)}
    return names, tower, projector


def test_names_and_shapes_of_the_released_sizes_are_all_taken(tmp_path):
    """Known sizes: 11,135,332,352 parameters of flan-t5-xxl, 303,507,456 of CLIP's tower."""
    groups = released_names()
    sizes = [sum(int(np.prod(shape)) for shape in names.values()) for names in groups]
    assert sizes == [11_135_332_352, 303_507_456, 1024 * 4096 + 4096 * 4096 + 2 * 4096]
    unit = torch.zeros(1, dtype=torch.bfloat16)
    state = {name: unit.expand(shape) for names in groups for name, shape in names.items()}
    torch.save(state, tmp_path / "pytorch_model.bin")
    config = {
        "model_type": "clip_t5",
        "d_model": 4096,
        "d_kv": 64,
        "d_ff": 10_240,
        "num_heads": 64,
        "num_layers": 24,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    }
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    vqa_twins.spiece(tmp_path / "spiece.model")
    report = check(VQAScore, tmp_path)
    assert not report.problems
    assert report.keys.renamed == len(state)


@pytest.mark.parametrize("mark", ["</s>", "<image>", "<extra_id_3>", "<pad>"])
def test_a_caption_with_a_mark_is_refused_and_not_read_as_the_mark(mark):
    with pytest.raises(DataError, match=re.escape("which is not read as text")):
        VQAScore.prepare(sample(SQUARE, f"a {mark} b"))


def test_a_text_over_the_length_is_refused_and_not_cut(twin):
    scorer = ur.open_judge(f"vqascore:{twin[0]}", device="cpu")
    long, short = scorer.ask([sample(SQUARE, "word " * 600), sample(SQUARE, "a ball")])
    assert "are more than 2048; shorten the caption" in long.error
    assert 0 < short.score.value < 1


def test_an_image_whose_square_would_not_fit_into_memory_fails_alone(twin):
    scorer = ur.open_judge(f"vqascore:{twin[0]}", device="cpu")
    long, fine = scorer.ask([sample(np.zeros((16_385, 1, 3), np.uint8), "a"), sample(SQUARE, "a")])
    assert long.error == (
        "an image of 1 x 16385 is padded to a square; sides of up to 16384 pixels are read"
    )
    assert 0 < fine.score.value < 1


def problems(folder):
    with pytest.raises(ModelError) as error:
        ur.open_judge(f"vqascore:{folder}", device="cpu")
    return str(error.value)


@pytest.fixture
def copied(twin, tmp_path):
    return shutil.copytree(twin[0], tmp_path / "copy")


def test_half_of_the_shards_are_refused_by_name(copied):
    (copied / "pytorch_model-00002-of-00002.bin").unlink()
    assert "lacks 1 of 2 shards: pytorch_model-00002-of-00002.bin" in problems(copied)


def test_a_folder_without_the_tokenizer_says_where_it_is(copied):
    (copied / "spiece.model").unlink()
    assert "no tokenizer of google/flan-t5-xxl (spiece.model)" in problems(copied)
    (copied / "spiece.model").write_bytes(b"no model")
    assert "spiece.model cannot be read" in problems(copied)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model_type", "t5", "has model_type 't5'; that of VQAScore is 'clip_t5'"),
        ("mm_projector_type", "linear", "that of VQAScore is 'mlp2x_gelu'"),
        ("mm_vision_select_feature", "cls_patch", "that of VQAScore is 'patch'"),
    ],
)
def test_another_model_is_refused_before_weights_are_loaded(key, value, message, copied):
    config = json.loads((copied / "config.json").read_text("utf-8"))
    (copied / "config.json").write_text(json.dumps(config | {key: value}), "utf-8")
    assert message in problems(copied)


def test_the_stock_vision_tower_is_taken_where_the_file_has_none(copied, twin):
    scorer = ur.open_judge(f"vqascore:{twin[0]}", device="cpu")
    wanted = scorer.ask([sample(SQUARE, "a ball")])
    tower = {}
    for file in copied.glob("*.bin"):
        tensors = torch.load(file, weights_only=True)
        names = [name for name in tensors if name.startswith("vision_tower.")]
        tower |= {name.removeprefix("vision_tower.vision_tower."): tensors[name] for name in names}
        torch.save({name: x for name, x in tensors.items() if name not in names}, file)
    assert "no vision tower; put" in problems(copied)
    stock = copied / "clip-vit-large-patch14-336"
    stock.mkdir()
    unused = {"text_model.embeddings.x": torch.ones(1), "logit_scale": torch.ones(())}
    torch.save(tower | unused, stock / "pytorch_model.bin")
    scorer = ur.open_judge(f"vqascore:{copied}", device="cpu")
    assert scorer.ask([sample(SQUARE, "a ball")])[0].score == wanted[0].score


def test_the_open_facts_of_a_folder_are_its_layer_names_and_tokenizer(twin, tmp_path):
    layer, tensors, tokenizer = open_facts.vqascore(twin[0])
    assert '"mm_vision_select_layer": -2' in layer.found
    assert "d_model" not in layer.found
    assert "vision_tower.vision_tower.vision_model.encoder.layers (" in tensors.found
    assert tokenizer.found.startswith("spiece.model ")
    assert [fact.found for fact in open_facts.vqascore(tmp_path)][1:] == [
        "no weights",
        "no spiece.model",
    ]
