"""IXC-2.5-Reward: its pixels and tokens, its verbs, questions of text alone, what is refused."""

import json
import math
import shutil

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import unified_reward as ur
from tests.unified_reward.scorers import ixc_twins as twins
from tests.unified_reward.scorers.equations.ixc import make_ixc
from unified_reward.cli import app
from unified_reward.core.errors import ConfigError, DataError, ModelError
from unified_reward.core.samples import Example
from unified_reward.io.rows import read_examples
from unified_reward.scorers import internlm2, ixc
from unified_reward.scorers.loading import check, load_system


NAME = "ixc-2.5-reward"
RNG = np.random.default_rng(5)
IDS = twins.IDS
OPEN, CLOSE, REWARD = (IDS[f"[UNUSED_TOKEN_{n}]"] for n in (146, 145, 130))
CLIP = np.stack([np.full((20, 40, 3), grey, np.uint8) for grey in (40, 120, 200)])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ixc")
    return folder, twins.ixc(folder)


@pytest.fixture(scope="module")
def scorer(made):
    return load_system(ixc.IXCReward, made[0], device="cpu", dtype="float32")


@pytest.fixture
def copy(made, tmp_path):
    """A twin's folder to break."""
    return shutil.copytree(made[0], tmp_path / "ixc")


def problems(folder):
    return "; ".join(check(ixc.IXCReward, folder).problems)


def ids_of(scorer, text):
    return ixc.token_ids(text, scorer.tokenizer)


def sample(answer="a", question="q", images=()):
    return ur.Sample(ur.Task.IMAGE_UNDERSTANDING, question, (answer,), images)


SIZES = [
    ((512, 341), 24, (560, 560)),
    ((341, 512), 24, (560, 560)),
    ((100, 50), 24, (560, 560)),
    ((1200, 800), 24, (1680, 1120)),
    ((800, 1200), 24, (1120, 1680)),
    ((1000, 460), 24, (1120, 560)),
    ((5000, 500), 24, (5040, 560)),
    ((3000, 3000), 24, (2240, 2240)),
    ((3000, 3000), 9, (1680, 1680)),
    ((3000, 3000), 6, (1120, 1120)),
]
"""Sizes, tiles at most, and by hand: as many columns as fit, but no more than the width fills."""


@pytest.mark.parametrize(("size", "most", "wanted"), SIZES)
def test_an_image_becomes_whole_tiles(size, most, wanted):
    assert ixc.fitted(PIL.Image.new("RGB", size), most).size == wanted


def test_the_published_picture_has_841_tokens_and_not_2061():
    rows, columns = ixc.tiled(ixc.fitted(PIL.Image.new("RGB", (512, 341)), 24))[1:]
    assert ixc.n_tokens(rows, columns, 20) == 841
    assert ixc.n_tokens(2, 2, 20) == 2061
    squares = torch.zeros(2, 20, 20, 3)
    assert internlm2.stitched(squares, 1, 1, torch.ones(3), torch.ones(3)).shape == (841, 3)


def test_white_is_below_a_wide_image_and_right_of_a_high_one():
    """560 x int(560 * 341 / 512), which is 372."""
    wide = np.asarray(ixc.fitted(PIL.Image.new("RGB", (512, 341)), 24))
    assert (wide[:372].max(), wide[372:].min()) == (0, 255)
    high = np.asarray(ixc.fitted(PIL.Image.new("RGB", (341, 512)), 24))
    assert (high[:, :372].max(), high[:, 372:].min()) == (0, 255)


def test_a_high_image_is_that_of_its_diagonal():
    pixels = RNG.integers(0, 256, (700, 300, 3), dtype=np.uint8)
    turned = np.asarray(ixc.fitted(PIL.Image.fromarray(pixels.swapaxes(0, 1)), 24))
    assert (np.asarray(ixc.fitted(PIL.Image.fromarray(pixels), 24)).swapaxes(0, 1) == turned).all()


def test_tiles_go_row_by_row_behind_a_view_of_the_whole():
    greys = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    pixels = np.repeat(greys.repeat(560, 0).repeat(560, 1)[..., None], 3, 2)
    tiles, rows, columns = ixc.tiled(ixc.fitted(PIL.Image.fromarray(pixels), 24))
    assert (rows, columns, tiles.shape) == (2, 3, (7, 3, 560, 560))
    red = [(grey / 255 - 0.48145466) / 0.26862954 for grey in greys.flatten()]
    assert tiles[1:, 0].amin((1, 2)).tolist() == pytest.approx(red, abs=1e-5)
    assert tiles[1:, 0].amax((1, 2)).tolist() == pytest.approx(red, abs=1e-5)


def test_the_whole_is_made_small_by_four_neighbours_of_either_side():
    """Half the size: weights -3/32, 19/32, 19/32, -3/32 (a = -0.75), so it is not antialiased."""
    pixels = RNG.integers(0, 256, (1120, 1120, 3), dtype=np.uint8)
    whole = ixc.tiled(PIL.Image.fromarray(pixels))[0][0]
    weights = np.array([-3, 19, 19, -3]) / 32
    blue = (pixels[199:203, 399:403, 2] / 255 - 0.40821073) / 0.27577711
    assert whole[2, 100, 200].item() == pytest.approx(weights @ blue @ weights, abs=1e-5)


def test_the_map_of_tiles_has_a_separator_behind_each_row_and_one_behind_the_whole():
    squares = torch.arange(7.0)[:, None, None, None].expand(7, 2, 2, 1)
    tokens = internlm2.stitched(squares, 2, 3, torch.tensor([-1.0]), torch.tensor([-2.0]))
    upper, lower = [1, 1, 2, 2, 3, 3, -1], [4, 4, 5, 5, 6, 6, -1]
    assert tokens.flatten().tolist() == [0, 0, -1, 0, 0, -1, -2, *upper * 2, *lower * 2]


def test_an_image_of_which_nothing_is_left_is_refused(scorer):
    (failed,) = scorer.ask([sample(images=(ur.Image(PIL.Image.new("RGB", (20_000, 1))),))])
    assert failed.error == "an image of 20000 x 1 is too long to be read"


def test_one_frame_a_second_and_32_of_more():
    assert ixc.frame_places(24, lambda: 7.9) == (0, 8, 16)
    assert ixc.frame_places(3, lambda: None) == (0, 1, 2)
    assert ixc.frame_places(3, lambda: 0.2) == (0, 1, 2)
    assert ixc.frame_places(33 * 8, lambda: 8.0) == tuple(range(0, 256, 8))
    assert ixc.frame_places(100, lambda: 1.0) == tuple(100 * i // 33 for i in range(32))


def test_wide_frames_stand_below_each_other_under_their_labels():
    picture = np.asarray(ixc.collage(ur.Video(CLIP, "THWC", fps=1)))
    assert picture.shape == (3 * 610, 1120, 3)
    for i, grey in enumerate((40, 120, 200)):
        top = 610 * i
        assert (picture[top + 40 : top + 600] == grey).all()
        assert picture[top : top + 40].min() < 128 < picture[top : top + 40].mean()
        assert picture[top + 608 : top + 610].min() == 255
    assert (picture[605] == 0).all()
    assert (picture[600:610, 0, 0] == 0).sum() == 2
    assert (picture[1820:] == 255).all(), "no line behind the last"


def test_high_frames_stand_beside_each_other():
    picture = np.asarray(ixc.collage(ur.Video(CLIP.swapaxes(1, 2), "THWC", fps=1)))
    assert picture.shape == (1160, 3 * 570, 3)
    for i, grey in enumerate((40, 120, 200)):
        assert (picture[40:, 570 * i : 570 * i + 560] == grey).all()
    assert (picture[:, 565] == 0).all()
    assert (picture[0, 560:570, 0] == 0).sum() == 2
    assert (picture[40:, 1700:] == 255).all()


@pytest.mark.numeric
def test_a_video_is_scored_as_the_picture_of_its_frames_with_a_note_on_its_labels(scorer):
    video = ur.Video(CLIP, "THWC", fps=1)
    scored = scorer.score("q", answer="a", video=video)
    picture = scorer.score("q", answer="a", image=ixc.collage(video))
    assert scored.score.value == pytest.approx(picture.score.value, abs=1e-6)
    assert "another font" in scored.text
    assert "another font" not in picture.text
    result = scorer.compare("q", answers=["a", "b"], video=video)
    assert isinstance(result, ur.Preferred)


def test_a_conversation_is_these_tokens():
    text = ixc.conversation("Hi", "Yes", 0, newline=False)
    user, assistant, newline = (twins.token_ids(word) for word in ("user", "assistant", "\n"))
    first = [OPEN, *user, *newline, IDS["H"], IDS["i"], CLOSE, *newline]
    second = [OPEN, *assistant, *newline, IDS["Y"], IDS["e"], IDS["s"], CLOSE]
    assert twins.token_ids(text) == [*first, *second]
    assert ixc.conversation("Hi", "Yes", 0, newline=True) == f"{text}\n"


def test_the_tokens_end_with_the_end_and_the_reward_and_begin_once(scorer):
    text = ixc.conversation("x <|im_start|> [IMG]", "Yes", 0, newline=False)
    assert ids_of(scorer, text) == [[1, *twins.token_ids(text), 2, REWARD]]
    first, second = ids_of(scorer, ixc.conversation("a", "b", 1, newline=True))
    assert first == [1]
    assert second[0] == OPEN
    assert second[-4:] == [CLOSE, IDS["\n"], 2, REWARD]
    three = ids_of(scorer, ixc.conversation("a<ImageHere> <ImageHere>", "b", 2, newline=True))
    assert [part.count(1) for part in three] == [1, 0, 0]
    assert three[1] == [IDS["▁"]]


@pytest.mark.parametrize("mark", ["<s>", "</s>", "<unk>", "[UNUSED_TOKEN_130]"])
def test_a_text_with_a_token_of_the_form_fails_alone(mark, scorer):
    bad, other, fine = scorer.ask([sample(f"a{mark}"), sample("a", f"{mark}b"), sample()])
    assert bad.error == f"the answer holds {mark!r}, which is not read as text"
    assert other.error == f"the question holds {mark!r}, which is not read as text"
    assert isinstance(fine, ur.Scored)


@pytest.mark.parametrize(
    ("question", "n_images"), [("q", 2), ("<ImageHere><ImageHere>", 1), ("<ImageHere>", 0)]
)
def test_images_that_are_not_as_many_as_their_marks_are_refused(question, n_images, scorer):
    images = tuple(ur.Image(CLIP[0], "HWC") for _ in range(n_images))
    (failed,) = scorer.ask([sample("a", question, images)])
    assert f"{question.count('<')} marks <ImageHere> and {n_images} images" in failed.error
    with pytest.raises(DataError, match="the answer holds '<ImageHere>'"):
        scorer.score("q", answer="<ImageHere>", image=PIL.Image.new("RGB", (9, 9)))


@pytest.mark.parametrize(("answer", "question"), [("a \ud83d b", "q"), ("a", "q \udc00")])
def test_half_a_character_fails_alone_and_does_not_end_the_batch(answer, question, scorer):
    failed, fine = scorer.ask([sample(answer, question), sample()])
    assert "half a character, for which there is no token" in failed.error
    assert isinstance(fine, ur.Scored)
    assert [one is None for one in scorer.check_samples([sample(answer, question)])] == [False]


def test_several_images_have_six_tiles_at_most_and_a_single_one_24():
    images = (ur.Image(PIL.Image.new("RGB", (3000, 3000))),) * 2
    single = ixc.IXCReward.prepare(sample("a", "q", images[:1]))
    both = ixc.IXCReward.prepare(sample("a", "<ImageHere>" * 2, images))
    assert (single.tiles, both.tiles) == (((4, 4),), ((2, 2), (2, 2)))
    assert (len(single.pixels), len(both.pixels)) == (17, 10)


def test_a_text_over_the_length_is_refused_and_not_cut(scorer, monkeypatch):
    monkeypatch.setattr(ixc.IXCReward, "forward", None)
    (ids,) = ids_of(scorer, ixc.conversation("q", "", 0, newline=False))
    longest = 16_384 - len(ids)
    fits, over = scorer.check_samples([sample("x" * longest), sample("x" * (longest + 1))])
    assert fits is None
    assert "16385 tokens are more than the 16384 that it reads" in over.error
    image = (ur.Image(CLIP[0], "HWC"),)
    n = ixc.n_tokens(1, 1, 2)
    fits, over = scorer.check_samples(
        [sample("x" * (longest - n), images=image), sample("x" * (longest - n + 1), images=image)]
    )
    assert (fits, over is None) == (None, False)


@pytest.mark.numeric
def test_answers_to_a_question_of_text_alone_are_scored_compared_and_ranked(scorer):
    answers = ["Yes.", "no", "perhaps"]
    values = [scorer.score("Is it?", answer=answer).score.value for answer in answers]
    result = scorer.compare("Is it?", answers=answers[:2])
    assert result.p_first == pytest.approx(1 / (1 + math.exp(values[1] - values[0])), abs=1e-4)
    assert (result.winner == "first") == (values[0] > values[1])
    ranking = scorer.rank("Is it?", answers=answers)
    assert list(ranking.order) == sorted(range(3), key=lambda i: -values[i])
    listed = scorer.score("Is it?", answers=answers)
    assert [one.score.value for one in listed] == pytest.approx(values, abs=1e-4)


@pytest.mark.numeric
def test_a_row_of_text_alone_is_read_and_scored(scorer, tmp_path):
    row = {"id": "a", "task": "image_understanding", "prompt": "Is it?"}
    (tmp_path / "rows.jsonl").write_text(
        json.dumps(row | {"candidates": [{"text": "Yes."}, {"text": "no"}]}) + "\n"
    )
    (read,) = read_examples(tmp_path / "rows.jsonl")
    assert isinstance(read.content, Example)
    (verdict,) = scorer.ask(read.content.as_samples())
    assert isinstance(verdict, ur.Preferred)


def test_the_command_line_scores_answers_alone_where_the_judge_does(made):
    given = ["score", "--prompt", "Is it?", "--answer", "Yes.", "--json", "--judge"]
    result = CliRunner().invoke(app, [*given, f"{NAME}:{made[0]}", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert "Yes." in result.stdout
    refused = CliRunner().invoke(app, [*given, "scripted:first"]).exception
    assert isinstance(refused, ConfigError)
    assert str(refused) == "give files to judge, or --answer about one --image or --video"


MESSAGE = "image_understanding needs the image or video it is about in context"


def test_judges_that_need_the_image_refuse_a_question_of_text_alone():
    judge = ur.open_judge("scripted:first")
    assert judge.ask([sample()])[0].error == MESSAGE
    assert judge.check_samples([sample()])[0].error == MESSAGE
    for verb, given in (("score", {"answer": "a"}), ("compare", {"answers": ["a", "b"]})):
        with pytest.raises(ConfigError, match="answers are about one thing: give image= or video="):
            getattr(judge, verb)("q", **given)


def test_generated_images_are_not_scored(scorer):
    with pytest.raises(ConfigError, match="scores image_understanding and video_understanding"):
        scorer.score("q", image=PIL.Image.new("RGB", (9, 9)))


def test_half_of_the_shards_are_refused(copy):
    (copy / "pytorch_model-00002-of-00003.bin").unlink()
    assert "lacks 1 of 3 shards: pytorch_model-00002-of-00003.bin" in problems(copy)
    with pytest.raises(ModelError, match="lacks 1 of 3 shards"):
        ur.open_judge(f"{NAME}:{copy}", device="cpu")


@pytest.mark.parametrize(
    "name", ["output.weight", "model.layers.0.attention.wqkv.lora_sft_A.weight", "x.lora_web_B"]
)
def test_the_base_model_is_refused_by_name(name, copy):
    change(copy, lambda state: state | {name: torch.ones(2)})
    assert f"holds {name}, a tensor of the base model InternLM-XComposer-2.5" in problems(copy)


def change(folder, function):
    file = folder / "pytorch_model-00003-of-00003.bin"
    torch.save(function(torch.load(file, weights_only=True)), file)


class _Runs:
    def __reduce__(self):
        return (print, ("it ran",))


def test_a_pickle_with_code_is_refused_and_not_run(copy, capsys):
    change(copy, lambda state: state | {"odd": _Runs()})
    assert "holds more than tensors and is not unpickled" in problems(copy)
    assert "it ran" not in capsys.readouterr().out


def test_tensors_missing_or_unknown_or_of_another_shape_are_named(copy):
    def changed(state):
        state["score.bias"] = torch.ones(1)
        state["model.norm.weight"] = torch.ones(9)
        del state["vision_proj.0.bias"]
        return state

    change(copy, changed)
    found = problems(copy)
    assert "1 missing: vision_proj.0.bias" in found
    assert "1 unexplained: score.bias" in found
    assert "1 of another shape: model.norm.weight (9,) for (64,)" in found


def test_weights_without_the_head_are_other_weights(copy):
    change(copy, lambda state: {name: x for name, x in state.items() if name != "score.weight"})
    assert "there is no score.weight among" in problems(copy)


def test_a_tower_for_tiles_of_another_size_is_refused(copy):
    name = "vit.vision_tower.vision_model.embeddings.position_embedding.weight"
    change(copy, lambda state: state | {name: torch.ones(37, 64)})
    assert "37 positions for patches of 140 pixels is not one for tiles of 560" in problems(copy)


def test_another_tokenizer_is_refused(copy):
    file = copy / "tokenizer.model"
    twins.tokenizer(file, twins.PIECES[:-4])
    message = f"{file} is of another model: it lacks [UNUSED_TOKEN_146], [UNUSED_TOKEN_145]"
    assert message in problems(copy)
    twins.tokenizer(file, [*twins.PIECES, "more"])
    assert f"has {len(IDS) + 1} tokens and the embedding {len(IDS)}" in problems(copy)
    file.write_bytes(b"no model")
    assert f"{file} cannot be read" in problems(copy)
    file.unlink()
    assert "no tokenizer (tokenizer.model)" in problems(copy)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_attention_heads": None}, "names no num_attention_heads"),
        ({"rope_theta": "1e6", "rms_norm_eps": None}, "names no rms_norm_eps, rope_theta"),
        ({"num_attention_heads": 7}, "has 7 heads and 2 of keys for a width of 64"),
        ({"num_attention_heads": 0}, "names no num_attention_heads"),
        ({"num_key_value_heads": 1}, "of another shape"),
    ],
)
def test_a_configuration_of_another_model_is_refused(values, message, copy):
    twins.write({**twins.CONFIG, **values}, copy / "config.json")
    assert message in problems(copy)


@pytest.mark.numeric
def test_safetensors_are_read_alike(copy, scorer):
    for file in copy.glob("pytorch_model*"):
        file.unlink()
    save_file(make_ixc(0, vocab=len(IDS)), copy / "model.safetensors")
    other = load_system(ixc.IXCReward, copy, device="cpu", dtype="float32")
    assert other.score("q", answer="a") == scorer.score("q", answer="a")


def test_half_precision_gives_numbers_near_those_of_float32(made, scorer):
    half = load_system(ixc.IXCReward, made[0], device="cpu", dtype="bfloat16")
    image = PIL.Image.new("RGB", (50, 40), "red")
    wanted = scorer.score("q", answer="a", image=image).score.value
    assert half.score("q", answer="a", image=image).score.value == pytest.approx(wanted, abs=0.5)


def test_the_folder_answers_the_open_questions(copy):
    (copy / "ixc_utils.py").write_text("def f(x):\n    scale = 1.5 * x\n    return scale\n")
    facts = {fact.question: fact.found for fact in ixc.IXCReward.facts(copy)}
    config, names, tokens, added, _, rule, tower = facts.values()
    assert "vocab_size 359, expected 92544" in config
    assert names.startswith(f"{len(make_ixc(0, vocab=9))} tensors, 944 expected, ")
    assert "tokenizer.model" in tokens
    assert "not f868398fc4e0" in tokens
    assert added == '{"<|im_start|>": 359, "<|im_end|>": 360}'
    assert rule == "scale = 1.5 * x | return scale"
    assert "build_mlp.py" in tower
    result = CliRunner().invoke(app, ["scorers", "check", NAME, str(copy)])
    assert result.exit_code == 0, result.output
    assert "scale = 1.5 * x" in result.stdout


def test_an_empty_folder_answers_that_nothing_is_there(tmp_path):
    assert len([fact.found for fact in ixc.IXCReward.facts(tmp_path) if fact.found]) == 7
    for name in ("config.json", "added_tokens.json", "pytorch_model.bin.index.json"):
        (tmp_path / name).write_text("[1")
    assert all(fact.found for fact in ixc.IXCReward.facts(tmp_path))
