"""VisionReward-Video: key map of the published shards, logits of a twin, answers, bad folders."""

import hashlib
import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from accelerate import init_empty_weights
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

import unified_reward as ur
from tests.unified_reward.scorers import twins
from tests.unified_reward.scorers.cogvlm_twins import (
    CONFIG,
    RELEASED_WORDS,
    VOCABULARY,
    llama_tokenizer,
    shards,
    visionreward_video,
)
from tests.unified_reward.scorers.equations.cogvlm import frame_tokens, last_logits
from unified_reward.core.errors import ConfigError, DataError, ModelError
from unified_reward.scorers import cogvlm, system
from unified_reward.scorers import visionreward_video as video_file
from unified_reward.scorers.checklists import VIDEO_WEIGHTS, visionreward
from unified_reward.scorers.eva2_clip import TowerSizes
from unified_reward.scorers.loading import check
from unified_reward.scorers.visionreward_video import VisionRewardVideo, each_second, fitted, worded


KIND = system("visionreward-video")
RNG = np.random.default_rng(5)
CLIP = RNG.integers(0, 256, (5, 270, 331, 3), dtype=np.uint8)
CAPTION = "a red ball, and 2 cats"
YES, NO = 256, 257
RELEASED = cogvlm.Sizes(
    vocabulary=128_256,
    width=4096,
    layers=32,
    heads=32,
    key_heads=8,
    head=128,
    inner=14_336,
    tower=TowerSizes(
        width=1792,
        layers=63,
        inner=15_360,
        patch=14,
        positions=257,
        output=4096,
        adapter_inner=14_336,
    ),
    has_expert=False,
)
HEADERS = (
    "dcffb84a187ac612fd0c82f3a938843e81706b2e2231d43558561af82c907b10",
    "9c2993a11f569c63294b964a317b503966e91d1605ea3dff9413890c46fb4f45",
    "6394f6c8861ab4a833fa3bd324552de6edb61fe8bd36be2b367f539dd1fd9bae",
    "0e05561254c91ef370fbf9cf1363f75769fbcfb68e9c45091126f50ffcb16d8b",
    "5d8b7b5ac853a3b7fa8e6b86d0c3cea13f32168e4167fe75120c054b16ae9450",
    "3bcdd3578c239ae7bf07d33525be3209b402034e454acbb3831f15d932b7c59d",
)
INDEX = "b0dddc31695d35df38081f85e65d52c780ccaf6390282f4d1b476c8d5855b866"
FILES = (
    4_976_699_712,
    4_999_803_504,
    4_915_917_160,
    4_956_242_104,
    4_115_863_248,
    1_050_673_280,
)


def clip(pixels=CLIP, fps=2.0):
    return ur.Video(pixels, "THWC", fps=fps)


def sample(caption=CAPTION, pixels=CLIP):
    return ur.Sample(ur.Task.VIDEO_GENERATION, caption, (clip(pixels),))


@pytest.fixture(scope="module")
def twin(tmp_path_factory):
    folder = tmp_path_factory.mktemp("visionreward-video")
    return folder, visionreward_video(folder)


@pytest.fixture(scope="module")
def scorer(twin):
    return ur.open_judge(f"visionreward-video:{twin[0]}", device="cpu", dtype="float64")


@pytest.fixture
def copy(twin, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(twin[0], folder)
    return folder


def header(shapes):
    """Header of a shard as safetensors writes it, sorted by name, padded with blanks."""
    entries, end = {"__metadata__": {"format": "pt"}}, 0
    for name in sorted(shapes):
        begin, end = end, end + 2 * int(np.prod(shapes[name]))
        entries[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [begin, end]}
    written = json.dumps(entries, separators=(",", ":"), allow_nan=False).encode()
    return written + b" " * (-len(written) % 8), end


def released_shapes():
    with init_empty_weights():
        module = cogvlm.CogVLM(RELEASED)
    return {name: [*item.shape] for name, item in module.state_dict().items()}


def test_the_key_map_rebuilds_index_headers_and_sizes_of_the_published_shards(tmp_path):
    """The files are written too, their tensors left as holes, and pass the check of a folder."""
    shapes = released_shapes()
    assert len(shapes) == 1029
    parts = shards({name: 2 * int(np.prod(item)) for name, item in shapes.items()}, 5_000_000_000)
    index = {}
    for i, (names, digest, n_bytes) in enumerate(zip(parts, HEADERS, FILES, strict=True), 1):
        written, n_data = header({name: shapes[name] for name in names})
        assert hashlib.sha256(written).hexdigest() == digest
        assert 8 + len(written) + n_data == n_bytes
        file = tmp_path / f"model-{i:05}-of-00006.safetensors"
        with file.open("wb") as opened:
            opened.write(len(written).to_bytes(8, "little") + written)
            opened.truncate(n_bytes)
        index |= dict.fromkeys(names, file.name)
    total = 2 * sum(int(np.prod(item)) for item in shapes.values())
    content = {"metadata": {"total_size": total}, "weight_map": index}
    text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n"
    assert hashlib.sha256(text.encode()).hexdigest() == INDEX
    (tmp_path / "model.safetensors.index.json").write_text(text)
    llama_tokenizer(tmp_path / "tokenizer.json", RELEASED_WORDS)
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "template_version": "base",
                "hidden_size": 4096,
                "num_hidden_layers": 32,
                "num_attention_heads": 32,
                "num_multi_query_heads": 8,
                "vision_config": {"hidden_size": 1792, "num_hidden_layers": 63, "image_size": 224},
            }
        )
    )
    report = check(KIND, tmp_path)
    assert not report.problems
    assert report.keys.loaded == 1029


# Pixels, frames, tokens, positions


def by_hand(frames):
    """uint8 (n, H, W, 3): normalised, bilinear between neighbours alone, the middle square."""
    pixels = (frames / 255 - np.array(video_file.MEAN)) / np.array(video_file.STD)
    for axis in (1, 2):
        n = pixels.shape[axis]
        size = n * 224 // min(frames.shape[1:3])
        places = np.maximum((np.arange(size) + 0.5) * (n / size) - 0.5, 0)
        low = places.astype(int)
        high = np.minimum(low + 1, n - 1)
        part = (places - low).reshape([-1 if i == axis else 1 for i in range(4)])
        pixels = pixels.take(low, axis) * (1 - part) + pixels.take(high, axis) * part
        start = round((size - 224) / 2)
        pixels = pixels.take(range(start, start + 224), axis)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


@pytest.mark.numeric
@pytest.mark.parametrize("size", [(270, 331), (480, 225), (112, 150), (224, 224), (231, 227)])
def test_pixels_are_normalised_then_resized_without_antialiasing_and_cut(size):
    frames = RNG.integers(0, 256, (2, *size, 3), dtype=np.uint8)
    got = fitted(torch.from_numpy(frames).permute(0, 3, 1, 2))
    assert got.shape == (2, 3, 224, 224)
    assert got.dtype == torch.float32
    # Places up to 480 in float32 are off by 3e-5, neighbours differ by 4.5.
    assert (got.double() - by_hand(frames)).abs().max() < 3e-4


@pytest.mark.parametrize(
    ("times", "wanted"),
    [
        ([i / 24 for i in range(124)], (0, 24, 48, 72, 96, 120)),
        ([i / 2 for i in range(6)], (0, 2, 4)),  # the last at 2.5, rounded to even
        ([i / 2 for i in range(8)], (0, 2, 4, 6, 7)),  # the last at 3.5, rounded to even: 4
        ([0.0, 0.25, 0.75, 1.25], (0, 2)),  # two are as near to 1
        ([0.0, 3.0], (0, 0, 1, 1)),
        ([0.0], (0,)),
        ([float(i) for i in range(30)], tuple(range(24))),
    ],
)
def test_the_frame_nearest_to_each_second_is_taken(times, wanted):
    assert each_second(times, 24)(len(times), lambda: None) == wanted


def test_without_times_frames_follow_at_the_rate_of_the_video_or_a_second_apart():
    assert each_second((), 24)(5, lambda: 2.0) == (0, 2, 4)
    assert each_second([0.0, 9.0], 24)(3, lambda: None) == (0, 1, 2)


@pytest.fixture
def recorded(scorer, monkeypatch):
    """Arguments of the two calls of the language model."""
    calls = {}
    encode, last = scorer.module.encode, scorer.module.last_logits

    def encoded(tokens, places, experts=None):
        calls.update(tokens=tokens, places=places, experts=experts)
        return encode(tokens, places, experts)

    def asked_last(prefix, questions, start):
        calls.update(questions=questions, start=start)
        return last(prefix, questions, start)

    monkeypatch.setattr(scorer.module, "encode", encoded)
    monkeypatch.setattr(scorer.module, "last_logits", asked_last)
    return calls


def test_image_tokens_share_a_position_and_ordinals_count_as_text(scorer, recorded):
    scorer.ask([sample()])
    frame = lambda p: [p, *[p + 1] * 4, p + 2, p + 3]  # noqa: E731
    assert recorded["places"] == [0, *frame(1), *frame(5), *frame(9)]
    assert recorded["start"] == 13
    assert recorded["experts"] is None
    table = scorer.module.model.embed_tokens.weight
    ids = [int((table == row).all(-1).nonzero()[0, 0]) for row in recorded["tokens"][[0, 7, 14]]]
    tokenizer = scorer.tokenizer
    assert [tokenizer.id_to_token(i) for i in ids] == ["<|begin_of_text|>", "0", "1"]


def test_questions_have_the_caption_and_keep_their_line_ends(scorer, recorded):
    scorer.ask([sample()])
    decode = partial(scorer.tokenizer.decode, skip_special_tokens=False)
    texts = [decode(ids) for ids in recorded["questions"]]
    assert texts[2] == f"Question: Is it 2 {CAPTION}?\n Answer:"
    assert texts[-1] == "Question: Is it 28? Answer:"
    assert len(texts) == 29


def test_token_ids_of_the_published_run_come_from_a_tokenizer_of_llama_3(tmp_path, monkeypatch):
    """Question 5 of the published run, its words replaced, with their ids."""
    tail = [14924, 25, 12838, 279, 6382, 7351, 617, 912, 8196, 41859, 5380, 22559, 25]
    words = ["Question", ":", "ĠDoes", "Ġthe", *(f"Ġword{c}" for c in "abcdef"), "?Ċ", "ĠAnswer"]
    llama_tokenizer(tmp_path / "tokenizer.json", dict(zip(words, tail, strict=False)))
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    lines = ["Is it?"] * 5 + ["Does the worda wordb wordc wordd worde wordf?"] + ["Is it?"] * 23
    monkeypatch.setitem(twins.WORDS, "VISIONREWARD-VIDEO", "\n".join(lines))
    monkeypatch.setenv("UNIFIED_REWARD_HOME", str(tmp_path))
    twins.install_words(tmp_path)
    text = worded(visionreward(KIND.card), CAPTION)[5]
    assert tokenizer.encode(text, add_special_tokens=False).ids == tail


# Logits


def expected(state, folder, frames, caption, numbers):
    """Logits of some questions, from uint8 frames on."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    words = state["model.embed_tokens.weight"].double()
    rows, places = [words[[CONFIG["bos_token_id"]]]], [0]
    for i, frame in enumerate(by_hand(frames)):
        seen, p = frame_tokens(state, frame, heads=2), places[-1] + 1
        rows += [seen, words[[tokenizer.token_to_id(str(i))]]]
        places += [p, *[p + 1] * 4, p + 2, p + 3]
    lines = twins.WORDS["VISIONREWARD-VIDEO"].splitlines(keepends=True)
    logits = []
    for number in numbers:
        text = f"Question: {lines[number].replace('[[prompt]]', caption)} Answer:"
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        ahead = range(places[-1] + 1, places[-1] + 1 + len(ids))
        logits.append(last_logits(state, torch.cat([*rows, words[ids]]), [*places, *ahead]))
    return torch.stack(logits)


NUMBERS = (0, 6, 28)


def off(scorer, wanted):
    """Largest distance of the bytes' logits from the equations, by the largest of them."""
    with torch.inference_mode():
        got = scorer.logits(VisionRewardVideo.prepare(sample()))[[*NUMBERS]]
    return float((got - wanted)[:, :YES].abs().max() / wanted[:, :YES].abs().max())


@pytest.fixture(scope="module")
def wanted(twin):
    folder, state = twin
    return expected(state, folder, CLIP[[0, 2, 4]], CAPTION, NUMBERS)


@pytest.mark.numeric
def test_logits_of_a_twin_are_those_of_the_equations(scorer, wanted):
    assert wanted[:, :YES].std(0).max() > 1, "the twin cannot tell its questions apart"
    assert off(scorer, wanted) < 1e-3  # pixels in float32 are off by 1e-4


@pytest.mark.numeric
def test_the_precision_of_the_release_is_near_the_equations(twin, wanted):
    """Two layers and a tower of two, rounded to 8 bits throughout; 4 % off here."""
    scorer = ur.open_judge(f"visionreward-video:{twin[0]}", device="cpu", dtype="bfloat16")
    assert off(scorer, wanted) < 0.1


def _times_for_ordinals(patch):
    original = VisionRewardVideo._ids
    patch.setattr(
        VisionRewardVideo,
        "_ids",
        lambda self, text: original(self, f"{text}.0" if text.isdigit() else text),
    )


def _no_ordinals(patch):
    original = VisionRewardVideo._ids
    patch.setattr(
        VisionRewardVideo,
        "_ids",
        lambda self, text: [] if text.isdigit() else original(self, text),
    )


def _counted_positions(patch):
    patch.setattr(video_file, "positions", lambda start, n: [*range(start, start + n + 2)])


def _stripped(patch):
    original = video_file.worded
    patch.setattr(
        video_file, "worded", lambda *texts: [t.replace("\n", "") for t in original(*texts)]
    )


def _of_images(patch):
    original = video_file.worded
    patch.setattr(
        video_file,
        "worded",
        lambda *texts: [t.replace(" Answer:", " Short answer:") for t in original(*texts)],
    )


def _antialiased(patch):
    original = torch.nn.functional.interpolate
    patch.setattr(
        video_file.functional, "interpolate", partial(original, antialias=True), raising=True
    )


def _evenly(patch):
    patch.setattr(video_file, "each_second", lambda *_: lambda total, _: (0, 1, 4))


def _two_begins(patch):
    original = VisionRewardVideo._ids

    def ids(self, text):
        return self.tokenizer.encode(text).ids if "Answer" in text else original(self, text)

    patch.setattr(VisionRewardVideo, "_ids", ids)


MUTATIONS = {
    "times for ordinals": _times_for_ordinals,
    "no ordinals": _no_ordinals,
    "a position for each image token": _counted_positions,
    "line ends stripped": _stripped,
    "the words of the image model": _of_images,
    "antialiased": _antialiased,
    "other frames": _evenly,
    "a second first token": _two_begins,
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_mistake_is_seen(mutation, scorer, wanted, monkeypatch):
    MUTATIONS[mutation](monkeypatch)
    assert off(scorer, wanted) > 1e-2


# Answers and scores


def raw(n_yes, *, yes=YES, no=NO):
    return [float(yes)] * n_yes + [float(no)] * (29 - n_yes)


def test_a_score_is_the_mean_of_weighted_answers(scorer):
    low, high = (scorer.decode(raw(n)).score.value for n in (0, 29))
    assert (low, high) == (pytest.approx(-0.21645422762093), pytest.approx(0.21645422762093))
    first = scorer.decode(raw(1))
    assert first.score.value == pytest.approx(low + 2 * VIDEO_WEIGHTS[0] / 29)
    assert [item.value for item in first.aspects.values()] == [1.0, *[0.0] * 28]
    assert "answers 28 'no', 1 'yes'; as the released code counts: -0.15063" in first.text


@pytest.mark.parametrize(("word", "spelled"), [(258, "Yes"), (260, " yes")])
def test_other_spellings_of_yes_count_and_the_strict_value_stands_beside(word, spelled, scorer):
    scored = scorer.decode(raw(29, yes=word))
    assert scored.score.value == pytest.approx(0.21645422762093)
    assert scored.text.startswith(f"answers 29 {spelled!r}; as the released code counts: -0.21645")


def test_an_answer_that_is_neither_yes_nor_no_is_not_a_no(scorer):
    verdict = scorer.decode([*raw(10)[:-2], 65.0, 66.0])
    assert isinstance(verdict, ur.Unparsed)
    assert verdict.reason == "2 of 29 answers are neither yes nor no"
    assert verdict.text == scorer.tokenizer.decode([65])


def test_an_unparsed_candidate_reaches_the_verdict_of_its_sample(scorer, monkeypatch):
    tokens = torch.full((1, 29), 65.0)
    monkeypatch.setattr(scorer, "forward", lambda batch: tokens.expand(len(batch), 29))
    assert isinstance(scorer.ask([sample()])[0], ur.Unparsed)


def test_a_comparison_goes_by_the_difference_of_scores_and_equal_videos_tie(scorer):
    first, second = scorer.decode(raw(12)), scorer.decode(raw(11))
    result = scorer.compare_scored(first, second)
    assert result.winner == "first"
    odds = np.exp(2 * VIDEO_WEIGHTS[11])  # the summed difference
    assert result.p_first == pytest.approx(odds / (1 + odds))
    assert scorer.compare_scored(first, first).winner == "tie"


def test_videos_are_scored_alone_and_in_a_batch_alike(scorer):
    clips = [CLIP, CLIP[::-1].copy(), CLIP[:1]]
    together = scorer.ask([sample(pixels=each) for each in clips])
    alone = [scorer.ask([sample(pixels=each)])[0] for each in clips]
    assert [item.score for item in together] == [item.score for item in alone]
    assert "as the released code counts" in together[0].text


def test_logits_that_are_no_numbers_are_a_failure(twin):
    scorer = ur.open_judge(f"visionreward-video:{twin[0]}", device="cpu")
    for tensor in scorer.module.parameters():
        tensor.fill_(float("nan"))
    assert "not finite numbers; try another dtype" in scorer.ask([sample()])[0].error


# Bad input


def problems(folder):
    return "; ".join(check(KIND, folder).problems)


def change(folder, **entries):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def test_every_tensor_is_loaded_under_its_own_name_from_either_dtype(twin, tmp_path):
    folder, state = twin
    visionreward_video(tmp_path, dtype=torch.float32)
    for each in (folder, tmp_path):
        report = check(KIND, each)
        assert not report.problems
        assert report.keys.loaded == len(state)


def test_half_of_the_shards_are_refused_and_named(copy):
    files = sorted(copy.glob("*.safetensors"))
    for file in files[3:]:
        file.unlink()
    assert f"lacks {len(files) - 3} of {len(files)} shards: {files[3].name}" in problems(copy)
    with pytest.raises(ModelError, match="cannot be loaded as visionreward-video"):
        ur.open_judge(f"visionreward-video:{copy}")


def test_the_folder_of_the_base_model_that_chats_is_refused(copy):
    change(copy, template_version="chat")
    assert "that of the base model cogvlm2-video-llama3-chat" in problems(copy)


def test_a_model_of_images_is_refused(tmp_path):
    visionreward_video(tmp_path, expert=True)
    assert "a CogVLM2 with a visual expert, which answers about images" in problems(tmp_path)


def test_a_card_says_that_the_caption_model_cannot_be_told_apart():
    """It has the same names, shapes and configuration; only the bytes of the shards differ."""
    assert any("cogvlm2-llama3-caption" in text for text in KIND.card.open_questions)


def test_layers_that_the_configuration_has_and_the_shards_lack_are_refused(copy):
    change(copy, num_hidden_layers=3)
    assert "has num_hidden_layers 3, its tensors 2" in problems(copy)


def test_frames_of_another_size_are_refused(tmp_path):
    visionreward_video(tmp_path, grid=6)
    vision = CONFIG["vision_config"] | {"image_size": 336, "num_positions": 37}
    change(tmp_path, vision_config=vision)
    assert "frames of 336 pixels a side; VisionReward-Video has 224" in problems(tmp_path)


def test_a_tensor_too_many_is_named(copy):
    file = sorted(copy.glob("*.safetensors"))[0]
    save_file(load_file(file) | {"score.weight": torch.ones(2)}, file)
    assert problems(copy) == "1 unexplained: score.weight"


def test_a_tokenizer_of_other_weights_is_refused(copy):
    llama_tokenizer(copy / "tokenizer.json", ("Yes", "No"))
    with pytest.raises(ModelError, match="is not that of these weights: 'yes' is"):
        ur.open_judge(f"visionreward-video:{copy}")
    (problem,) = check(KIND, copy).problems
    assert "is not that of these weights: 'yes' is" in problem  # before weights are loaded


def test_a_tokenizer_of_full_size_has_the_ids_of_llama_3(scorer, tmp_path):
    assert scorer.module.size.vocabulary == VOCABULARY
    video_file.check_tokenizer(scorer.tokenizer, scorer.module.size, tmp_path)
    with pytest.raises(ModelError, match=r"'yes' is \[256\], where \[9891\] is right"):
        video_file.check_tokenizer(scorer.tokenizer, RELEASED, tmp_path)


def test_a_text_over_the_length_is_refused_and_not_cut(scorer):
    long, fine = scorer.ask([sample("word " * 90), sample()])
    assert "the model takes 400: shorten the caption" in long.error
    assert isinstance(fine, ur.Scored)


def test_frames_that_would_not_fit_into_memory_fail_alone(scorer):
    long = np.zeros((2, 1, 3000, 3), np.uint8)
    failed, fine = scorer.ask([sample(pixels=long), sample()])
    assert failed.error == "3000 x 1 pixels are too long to be resized to 224 a side"
    assert isinstance(fine, ur.Scored)


def test_a_tokenizer_file_that_cuts_texts_cuts_no_question(copy, scorer):
    file = copy / "tokenizer.json"
    cutting = Tokenizer.from_file(str(file))
    cutting.enable_truncation(12)
    cutting.save(str(file))
    result = ur.open_judge(f"visionreward-video:{copy}", device="cpu", dtype="float32")
    long = "Question: Is it a red ball? Answer:"
    assert result._ids(long) == scorer._ids(long)
    assert len(result._ids(long)) > 12


def test_a_caption_with_a_control_token_is_refused():
    with pytest.raises(DataError, match="end_of_text"):
        VisionRewardVideo.prepare(sample("a <|end_of_text|> b"))


def test_without_its_questions_it_says_what_to_import(scorer, tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFIED_REWARD_HOME", str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"questions of visionreward-video .* your clone of THUDM/VisionReward"
    ):
        scorer.score(CAPTION, video=clip())
