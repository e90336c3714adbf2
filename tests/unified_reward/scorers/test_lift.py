"""LiFT-Critic: its inputs, its answers, their grades, and folders that are refused."""

import json
import shutil
from itertools import zip_longest

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaTokenizer
from typer.testing import CliRunner

import unified_reward as ur
from tests.unified_reward.scorers import lift_twins as twins
from tests.unified_reward.scorers.equations import lift as equations
from tests.unified_reward.scorers.test_preparation import waves
from unified_reward import media
from unified_reward.cli import app
from unified_reward.core.errors import ConfigError, ModelError, UnparsedError
from unified_reward.core.verdicts import Scale
from unified_reward.scorers import lift, system
from unified_reward.scorers.loading import check, load_system


NAME = "lift-critic-13b"
MOST = 6
CAPTION = "a red ball, and 2 cats"
RNG = np.random.default_rng(7)
CLIP = RNG.integers(0, 256, (9, 60, 80, 3), dtype=np.uint8)
SHORT = RNG.integers(0, 256, (5, 90, 70, 3), dtype=np.uint8)
SHOWN = ((CLIP, [0, 1, 2, 3, 4, 5, 6, 8]), (SHORT, [0, 0, 1, 1, 2, 2, 3, 4]))
"""Clips, and by hand the frames i * (total - 1) / 7, positions cut off."""
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. USER: "
)
FRAMES = 8 * "<image>\n"


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    twins.install_words(folder)
    return folder


@pytest.fixture(autouse=True)
def _few_tokens(monkeypatch):
    monkeypatch.setattr(lift.LiFTCritic, "max_new_tokens", MOST)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp(NAME)
    return folder, twins.lift(folder)


@pytest.fixture(scope="module")
def state(made):
    return equations.merged(made[1], scale=twins.LORA["lora_alpha"] / twins.LORA["r"])


@pytest.fixture
def copy(made, tmp_path):
    """A twin's folder to break."""
    return shutil.copytree(made[0], tmp_path / NAME)


def load(folder, dtype="float64"):
    return load_system(lift.LiFTCritic, folder, device="cpu", dtype=dtype)


def sample(frames, caption=CAPTION):
    return ur.Sample(ur.Task.VIDEO_GENERATION, caption, (ur.Video(frames, "THWC"),))


def fitted(frames):
    """By hand: uint8 (n, H, W, 3) squeezed and from -1 to 1."""
    squares = [
        np.asarray(PIL.Image.fromarray(entry).resize((384, 384), PIL.Image.Resampling.BICUBIC))
        for entry in frames
    ]
    return torch.from_numpy(np.stack(squares) / 127.5 - 1).permute(0, 3, 1, 2)


def seen(state, frames):
    patches = equations.see(state, fitted(frames), patch=twins.PATCH, heads=twins.VISION_HEADS)
    return equations.project(state, patches)


def reply(state, frames):
    """Ids and margins of the three answers about frames."""
    visible = seen(state, frames)
    message = []
    for question in twins.WORDS.values():
        texts = [SYSTEM, *["\n"] * 7, f"\n{CAPTION}{question} ASSISTANT:"]
        first, *others = map(twins.token_ids, texts)
        x = equations.embed(state, [[1, *first], *others], visible)
        options = {"heads": twins.HEADS, "most": MOST, "end": twins.END, "rope_theta": twins.THETA}
        message.append(equations.say(state, x, **options))
    return message


@torch.inference_mode()
def generated(scorer, frames):
    """Ids of the three answers, up to the first end."""
    rows = scorer.generated(scorer.prepare(sample(frames))).tolist()
    return [row[: row.index(twins.END) + 1] if twins.END in row else row for row in map(list, rows)]


@pytest.fixture(scope="module")
def wanted(state):
    return [reply(state, frames[visible]) for frames, visible in SHOWN]


GOLDEN = (0.00103, 0.66859), (-0.0588, 0.8431, 0.8275, 0.898)
"""Mean and deviation; values 0, 12345, 777777 and the last, of five frames of 23 x 40 pixels."""


def test_pixels_are_those_of_the_golden_table():
    frames = np.stack([np.roll(waves(), 3 * i, 1) for i in range(5)])
    pixels = lift.LiFTCritic.prepare(sample(frames)).pixels
    flat = pixels.double().flatten()
    assert pixels.dtype == torch.float32
    assert tuple(pixels.shape) == (8, 3, 384, 384)
    assert (flat.mean().item(), flat.std().item()) == pytest.approx(GOLDEN[0], abs=2e-5)
    assert flat[[0, 12345, 777_777, -1]].tolist() == pytest.approx(GOLDEN[1], abs=1e-4)
    assert torch.allclose(pixels.double(), fitted(frames[SHOWN[1][1]]), atol=1e-6)


@pytest.mark.parametrize(
    ("total", "indices"),
    [
        (1, (0,) * 8),
        (2, (0, 0, 0, 0, 0, 0, 0, 1)),
        (7, (0, 0, 1, 2, 3, 4, 5, 6)),
        (8, (0, 1, 2, 3, 4, 5, 6, 7)),
        (16, (0, 2, 4, 6, 8, 10, 12, 15)),
        (49, (0, 6, 13, 20, 27, 34, 41, 48)),
    ],
)
def test_frames_are_eight_and_a_short_clip_says_that_some_are_shown_twice(total, indices):
    frames = np.stack([np.full((9, 9, 3), 5 * i, np.uint8) for i in range(total)])
    prepared = lift.LiFTCritic.prepare(sample(frames))
    grey = (prepared.pixels[:, 0, 0, 0] + 1) * 127.5 / 5
    assert tuple(grey.round().int().tolist()) == indices
    message = (f"the video has {total} frames; some shown twice",) if total < 8 else ()
    assert prepared.notes == message


def test_the_text_before_tokenising_is_exactly_this():
    text = lift.LiFTCritic.prepare(sample(CLIP, "a {ball}")).text
    begin = f"{SYSTEM}{FRAMES}a {{ball}}"
    assert text == (
        f"{begin} Does it fit? {'Look at all of it. ' * 40}Say Good, Normal or Bad. ASSISTANT:</s>"
        f"{begin} Is it real? ASSISTANT:</s>"
        f"{begin} Does it move well?\n ASSISTANT:"
    )


def test_every_text_between_frames_is_tokenised_by_itself(made, monkeypatch):
    """One begin in all; a space, as Llama has it, before each text."""
    scorer = load(made[0])
    samples = []
    embed = scorer.module.llm.get_input_embeddings()
    monkeypatch.setattr(
        scorer.module.llm,
        "get_input_embeddings",
        lambda: lambda ids: samples.append(ids) or embed(ids),
    )
    text = scorer.prepare(sample(CLIP, "é")).text.split("</s>")[1]
    scorer._embedded(text, torch.zeros(8, 25, 64, dtype=torch.float64))
    first, *others, last = (ids.tolist() for ids in samples)
    characters = twins.CHARACTERS
    assert [characters[i] for i in first] == ["<s>", *f"▁{SYSTEM}".replace(" ", "▁")]
    assert others == [[characters.index("▁"), characters.index("<0x0A>")]] * 7
    message = [characters[i] for i in last]
    assert message[:6] == ["▁", "<0x0A>", "<0xC3>", "<0xA9>", "▁", "I"]
    assert "".join(message[6:]) == "s▁it▁real?▁ASSISTANT:"


TABLE = [[1, 2, 4, 5], [7, 8, 0, 0], [3, 0, 6, 0], [9, 0, 0, 0]]
"""Patches 1 2 3 / 4 5 6 / 7 8 9: squares down the left side first; 0 is beyond the grid."""
PLACES = {
    0: (1, 2, 28, 29),
    1: (55, 56, 82, 83),
    13: (703, 704, 0, 0),
    14: (3, 4, 30, 31),
    27: (705, 706, 0, 0),
    182: (27, 0, 54, 0),
    195: (729, 0, 0, 0),
}
"""27 x 27 patches, counted from 1: what some of the 196 tokens see."""


def test_tokens_of_pictures_go_column_by_column():
    numbered = torch.arange(1.0, 10)[None, :, None]
    assert lift.squares(numbered)[0].tolist() == TABLE
    assert by_rows(numbered)[0].tolist() != TABLE
    tokens = lift.squares(torch.arange(1.0, 730)[None, :, None])
    assert tokens.shape == (1, 196, 4)
    assert {place: tuple(tokens[0, place].tolist()) for place in PLACES} == PLACES


def test_channels_of_a_patch_stay_together():
    patches = torch.randn(2, 81, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(lift.squares(patches), equations.four_to_one(patches))


@torch.inference_mode()
def test_tokens_of_pictures_are_those_of_the_equations(made, state):
    scorer = load(made[0])
    for frames, visible in SHOWN:
        pixels = scorer.prepare(sample(frames)).pixels.double()
        distance = (scorer.module(pixels) - seen(state, frames[visible])).abs().max()
        assert distance < 1e-5, "of pixels in float32"


@pytest.mark.slow
def test_answers_are_those_of_the_equations_token_by_token(made, wanted):
    scorer = load(made[0])
    for (frames, _), message in zip(SHOWN, wanted, strict=True):
        assert min(margin for _, margins in message for margin in margins) > 1e-3
        assert generated(scorer, frames) == [ids for ids, _ in message]
    assert wanted[0] != wanted[1], "the twin cannot tell its clips apart"


@pytest.mark.numeric
def test_answers_are_the_same_in_float32_and_in_any_company(made, wanted):
    scorer = load(made[0], "float32")
    prepared = [scorer.prepare(sample(frames)) for frames, _ in SHOWN]
    with torch.inference_mode():
        alone = [scorer.answers([entry])[0] for entry in prepared]
        assert scorer.answers(prepared[::-1]) == alone[::-1]
    for answers, message in zip(alone, wanted, strict=True):
        for answer, (ids, _) in zip(answers, message, strict=True):
            decoded = scorer.tokenizer.decode(ids, skip_special_tokens=True)
            assert answer == decoded.strip()


def agrees(folder, wanted):
    scorer = load(folder)
    message = [generated(scorer, frames) for frames, _ in SHOWN]
    return message == [[ids for ids, _ in entry] for entry in wanted]


def by_rows(patches):
    """The order of later VILAs."""
    tokens = equations.four_to_one(patches)
    half = round(tokens.shape[1] ** 0.5)
    return tokens.unflatten(1, (half, half)).transpose(1, 2).flatten(1, 2)


def _padded_right(patch):
    pad = lift.pad_sequence
    patch.setattr(lift, "pad_sequence", lambda rows, **options: pad(rows, batch_first=True))


def _begins_each(patch):
    patch.setattr(lift.LiFTCritic, "_embedded", _embedded_with_begins)


def _embedded_with_begins(self, prompt, frames):
    embed = self.module.llm.get_input_embeddings()
    first, *others = (
        embed(torch.tensor([1, *self.tokenizer(text, add_special_tokens=False).input_ids]))
        for text in prompt.split("<image>")
    )
    pairs = zip(frames, others, strict=True)
    return torch.cat([first, *(part for pair in pairs for part in pair)])


def _own_applied(patch):
    patch.setattr(lift, "passed_over", lambda names: set())


def _other_frames(patch):
    taken = media.sample_frames
    patch.setattr(media, "sample_frames", lambda clip, n: taken(clip, n, "span_centres"))


MUTATIONS = {
    "tokens row by row": lambda patch: patch.setattr(lift, "squares", by_rows),
    "the last hidden state": lambda patch: patch.setattr(lift, "_LAYER", -1),
    "without adapters": lambda patch: patch.setattr(lift, "_adapter_scale", lambda *_: 0.0),
    "half the adapters": lambda patch: patch.setattr(lift, "_adapter_scale", lambda *_: 1.0),
    "the adapter's own projector, which the released loader passes over": _own_applied,
    "another frame rule": _other_frames,
    "padded on the right": _padded_right,
    "a begin before every text": _begins_each,
    "bars for squeezing": lambda patch: patch.setattr(lift, "fitted", _barred),
}


def _barred(frame):
    side = max(frame.size)
    canvas = PIL.Image.new("RGB", (side, side))
    canvas.paste(frame, (0, 0))
    return fitted(np.asarray(canvas)[None])[0].float()


FAST = ("tokens row by row", "half the adapters", "a begin before every text")


@pytest.mark.parametrize(
    "mutation", [m if m in FAST else pytest.param(m, marks=pytest.mark.slow) for m in MUTATIONS]
)
def test_a_mistake_is_seen(mutation, made, wanted, monkeypatch):
    MUTATIONS[mutation](monkeypatch)
    assert not agrees(made[0], wanted)


@pytest.fixture(scope="module")
def scorer(made):
    return load(made[0], "float32")


READ = [
    (("Good.", "**Bad**", "Normal, because the bad hand moves."), "Good Bad Normal", ""),
    (("good", "\n_Normal_: ok", "Good - all fine"), "Good Normal Good", "Good Normal Good"),
    (("BAD!", "'Bad', I think", "Bad"), "Bad Bad Bad", "Good Bad Bad"),
    (("Good. Nothing Bad.", "Bad. Not Normal.", "Normal"), "Good Bad Normal", "Bad Normal Normal"),
]
"""Answers, their grades, and the grades of the authors' script where those differ."""


@pytest.mark.parametrize(("answers", "grades", "others"), READ)
def test_the_first_word_is_the_grade_and_another_reading_is_told(answers, grades, others, scorer):
    verdict = scorer.judged(answers, ("a note",))
    values = [{"Good": 0.9, "Normal": 0.2, "Bad": 0.05}[entry] for entry in grades.split()]
    assert [*verdict.aspects] == ["semantic consistency", "fidelity", "motion"]
    assert [entry.value for entry in verdict.aspects.values()] == values
    assert verdict.score.value == pytest.approx(sum(values) / 3)
    lines = [f"{name}: {entry}" for name, entry in zip(verdict.aspects, answers, strict=True)]
    for name, entry, other in zip_longest(verdict.aspects, grades.split(), others.split()):
        if other not in (entry, None):
            lines.append(f"of {name} the authors' script would read {other}")
    assert verdict.text == "\n".join([*lines, "a note"])


@pytest.mark.parametrize(
    "answer", ["The video is Good.", "", "Goodness", "Good/Bad", "1. Good", "Not bad", "好"]
)
def test_another_first_word_is_unparsed_and_never_a_number(answer, scorer):
    verdict = scorer.judged(("Good.", answer, "Bad."))
    assert isinstance(verdict, ur.Unparsed)
    assert verdict.reason == "the answer about fidelity begins with none of Good, Normal, Bad"
    assert f"fidelity: {answer}\nmotion: Bad.\n" in verdict.text
    both = scorer.judged((answer, answer, "Bad."))
    assert "about semantic consistency and about fidelity begins" in both.reason


def test_values_stay_within_the_scale_and_are_its_ends(scorer):
    best, worst = (scorer.judged([word] * 3).score for word in ("Good", "Bad"))
    assert best.value in best.scale
    assert worst.value in worst.scale
    assert (best.normalized, worst.normalized) == pytest.approx((1.0, 0.0), abs=1e-12)


def test_gibberish_of_a_random_twin_is_unparsed_with_its_text(scorer):
    (verdict,) = scorer.ask([sample(SHORT)])
    assert isinstance(verdict, ur.Unparsed)
    assert verdict.text.startswith("semantic consistency: ")
    assert verdict.text.endswith("the video has 5 frames; some shown twice")
    with pytest.raises(UnparsedError, match="begins with none of Good, Normal, Bad"):
        scorer.score(CAPTION, video=ur.Video(SHORT, "THWC"))
    pair = ur.Sample(ur.Task.VIDEO_GENERATION, CAPTION, (ur.Video(CLIP, "THWC"),) * 2)
    assert isinstance(scorer.ask([pair])[0], ur.Unparsed)
    with torch.inference_mode():
        raw = scorer.forward([scorer.prepare(sample(SHORT))])
    assert raw.shape == (1, 3)
    assert raw.isnan().all()


def test_a_twin_that_speaks_is_scored(tmp_path, made, monkeypatch):
    monkeypatch.setattr(lift.LiFTCritic, "max_new_tokens", 9)
    twins.lift(tmp_path, parts=twins.speaks(made[1], "Bad.▁"))
    scorer = load(tmp_path, "float32")
    scored = scorer.score(CAPTION, video=ur.Video(CLIP, "THWC"))
    assert scored.score.value == pytest.approx(0.05)
    assert scored.text == "semantic consistency: Bad.\nfidelity: Bad.\nmotion: Bad."
    assert (
        scorer.compare(CAPTION, videos=[ur.Video(entry, "THWC") for entry in (CLIP, SHORT)]).p_tie
        == 1
    )
    with torch.inference_mode():
        prepared = scorer.prepare(sample(CLIP))
        assert scorer.forward([prepared]).tolist() == [pytest.approx([0.05] * 3)]
        assert scorer.generated(prepared).shape == (3, 6), "it stops behind the end"


def test_clips_are_compared_and_ranked_by_their_means(scorer, monkeypatch):
    message = {0: ("Good.", "Good.", "Bad."), 1: ("Normal.",) * 3, 2: ("Maybe.",) * 3}

    def answers(self, batch):
        return [message[round(float(entry.pixels[0, 0, 0, 0] + 1))] for entry in batch]

    monkeypatch.setattr(lift.LiFTCritic, "answers", answers)
    good, fair, unread = (
        ur.Video(np.full((8, 9, 9, 3), grey, np.uint8), "THWC") for grey in (0, 128, 255)
    )
    compared = scorer.compare(CAPTION, videos=[good, fair])
    assert compared.p_first == pytest.approx(1 / (1 + np.exp(0.2 - 1.85 / 3)))
    assert compared.aspects["motion"] == pytest.approx(1 / (1 + np.exp(0.2 - 0.05)))
    ranking = scorer.rank(CAPTION, videos=[unread, fair, good])
    assert ranking.order == (2, 1)
    assert ranking.scores == pytest.approx((None, 0.2, 1.85 / 3))


@pytest.mark.parametrize("mark", ["<image>", "<image-placeholder>", "</s>", "<s>", "<unk>"])
def test_a_caption_with_a_mark_fails_alone(mark, scorer):
    bad, other = scorer.ask([sample(CLIP, f"a {mark} b"), sample(CLIP)])
    assert bad.error == f"the caption holds {mark!r}, which is not read as text"
    assert isinstance(other, ur.Unparsed)


def test_a_caption_too_long_for_the_model_fails_and_is_not_cut(scorer):
    (failed,) = scorer.ask([sample(CLIP, "x" * 4000)])
    assert "tokens and an answer of 6 are more than the 4096 that it reads" in failed.error


def test_without_its_wordings_it_says_what_to_run(scorer, tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFIED_REWARD_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="templates import PATH on your clone of CodeGoat24/L"):
        scorer.score("x", video=ur.Video(CLIP, "THWC"))


def problems(folder):
    return "; ".join(check(lift.LiFTCritic, folder).problems)


def test_every_tensor_is_accounted_for_and_the_command_line_says_so(made):
    folder, parts = made
    keys = check(system(NAME), folder).keys
    n_adapted, n_own = len(parts["adapter"]) // 2, len(parts["own"])
    assert keys.merged == n_adapted
    assert keys.ignored == {
        "pools what is not read": 3,
        "passed over by the released loader too": n_own,
    }
    n_told = keys.loaded + keys.renamed + 3 * n_adapted + n_own + 3
    assert n_told == sum(len(entry) for entry in parts.values())
    result = CliRunner().invoke(app, ["scorers", "check", NAME, str(folder)])
    assert result.exit_code == 0, result.output
    assert "3 ignored (pools what is not read)" in result.stdout
    assert f"{n_own} ignored (passed over by the released loader too)" in result.stdout
    assert "lora/non_lora_trainables.bin" in result.stdout
    assert f"load as {NAME}:{folder}" in result.stdout


def test_it_is_loaded_by_its_name(made):
    judge = ur.open_judge(f"{NAME}:{made[0]}")
    assert isinstance(judge, lift.LiFTCritic)
    assert judge.card.scale == Scale(0.05, 0.9)


def test_names_with_llm_and_pickled_adapters_are_read_alike(copy, made, wanted):
    """Parts are named by VILA's own class; old checkpoints hold two tensors besides."""
    parts = made[1]
    adapter = {
        entry.replace(".model.model.", ".model.llm.model."): x
        for entry, x in parts["adapter"].items()
    }
    assert not {*adapter} & {*parts["adapter"]}
    (copy / "lora" / "adapter_model.safetensors").unlink()
    torch.save(adapter, copy / "lora" / "adapter_model.bin")
    layers = [entry.partition(".lora_")[0].removeprefix("base_model.model.") for entry in adapter]
    twins.change(copy / "lora" / "adapter_config.json", target_modules=layers)
    file = copy / "vision_tower" / "model.safetensors"
    positions = torch.arange(81)[None]
    twins.save(load_file(file) | {"vision_model.embeddings.position_ids": positions}, file)
    assert check(lift.LiFTCritic, copy).keys.ignored["counted anew"] == 1
    assert agrees(copy, wanted)


TAKEN = {
    "without a prefix": "",
    "behind PEFT's first name alone": "base_model.",
}


@pytest.mark.parametrize("prefix", TAKEN.values(), ids=TAKEN)
def test_further_weights_that_fit_the_released_loader_are_taken(prefix, copy, made):
    """By hand: ``base_model.`` is stripped, and the rest is the name of a part."""
    parts = made[1]
    own = {prefix + name.removeprefix(equations.PEFT): x for name, x in parts["own"].items()}
    torch.save(own, copy / "lora" / "non_lora_trainables.bin")
    wanted = equations.merged(parts, scale=2.0, with_own=True)
    module = load(copy).module
    assert torch.equal(module.mm_projector["layers"][2].weight, wanted["layers.2.weight"].double())
    name = "vision_model.encoder.layers.0.mlp.fc1.weight"
    weight = module.vision_tower.encoder.layers[0].mlp.fc1.weight
    assert torch.equal(weight, wanted[name].double())


def test_one_name_behind_three_prefixes_makes_the_loader_strip_two():
    names = ["base_model.model.model.norm.weight", "base_model.model.mm_projector.layers.1.bias"]
    assert lift.passed_over(names) == {names[0]}
    assert lift.passed_over(names[1:]) == {names[1]}
    assert lift.passed_over(
        ["base_model.model.llm.lm_head.lora_A.weight", "model.norm.weight"]
    ) == (set())


BLANKS = {"a  b": "a b", "a   b\n": "a b\n", "\n  a ": "\n a", " a": " a", "": "", "a": "a"}
"""Texts, and how a model of SentencePiece that collapses blanks reads them."""


@pytest.mark.parametrize("text", BLANKS)
def test_blanks_of_a_text_are_what_the_model_of_sentencepiece_makes_of_them(text, made, tmp_path):
    """Llama's keeps them; another that collapses them is followed too."""
    (tmp_path / "tokenizer.model").write_bytes(twins.sentencepiece_model(collapses=True))
    for folder, wanted in ((made[0] / "llm", text), (tmp_path, BLANKS[text])):
        ids = lift._tokenizer(folder)(text, add_special_tokens=False).input_ids
        assert ids == (twins.token_ids(wanted) if text else [])


def test_an_empty_file_of_further_weights_is_fine(copy, made):
    torch.save({}, copy / "lora" / "non_lora_trainables.bin")
    assert not problems(copy)


def test_modules_may_be_named_by_their_ends_which_the_vision_tower_shares(copy):
    twins.change(copy / "lora" / "adapter_config.json", target_modules=["q_proj", "down_proj"])
    assert not problems(copy)


def test_rank_stabilised_adapters_are_scaled_by_the_root(copy, made):
    twins.change(copy / "lora" / "adapter_config.json", use_rslora=True)
    weight = load(copy).module.llm.model.layers[0].self_attn.q_proj.weight
    name = "model.layers.0.self_attn.q_proj.weight"
    wanted = equations.merged(made[1], scale=8 / 4**0.5)[name]
    assert torch.allclose(weight, wanted, atol=1e-5)
    assert not torch.allclose(weight, equations.merged(made[1], scale=2.0)[name], atol=1e-2)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("llm", "no language model (llm/model.safetensors.index.json or llm/model.safetensors)"),
        ("vision_tower", "no vision tower (vision_tower/model.safetensors)"),
        ("mm_projector", "no projector (mm_projector/model.safetensors)"),
        ("lora", "no adapter (lora/adapter_model.safetensors or lora/adapter_model.bin)"),
    ],
)
def test_a_missing_subfolder_is_named(part, message, copy):
    shutil.rmtree(copy / part)
    assert message in problems(copy)
    with pytest.raises(ModelError, match=f"cannot be loaded as {NAME}"):
        load(copy)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("lora/non_lora_trainables.bin", "no further weights of the adapter (lora/non_lora"),
        ("lora/adapter_config.json", "no configuration of the adapter (lora/adapter_config.json)"),
        ("vision_tower/config.json", "no configuration of vision_tower (vision_tower/config.json)"),
        ("llm/tokenizer.model", "no tokenizer (llm/tokenizer.json or llm/tokenizer.model)"),
        ("llm/model-00002-of-00002.safetensors", "lacks 1 of 2 shards: model-00002-of-00002"),
    ],
)
def test_a_missing_file_is_named(file, message, copy):
    (copy / file).unlink()
    assert message in problems(copy)


def test_an_empty_folder_and_that_of_another_system_are_told(tmp_path, made):
    assert "no weights (llm/model.safetensors.index.json or" in problems(tmp_path)
    message = "; ".join(check(system("videoscore"), made[0]).problems)
    assert f"weights as of {NAME}" in message


def test_half_an_adapter_is_unexplained(copy):
    file = copy / "lora" / "adapter_model.safetensors"
    kept = load_file(file)
    name = next(entry for entry in kept if "lora_B" in entry)
    del kept[name]
    twins.save(kept, file)
    assert problems(copy) == f"1 unexplained: {name.replace('lora_B', 'lora_A')}"


def test_a_module_without_its_adapter_is_named(copy):
    file = copy / "lora" / "adapter_model.safetensors"
    kept = {entry: x for entry, x in load_file(file).items() if "layers.1.mlp.up_proj" not in entry}
    twins.save(kept, file)
    assert problems(copy).endswith("lora lacks adapters, as of llm.model.layers.1.mlp.up_proj")
    twins.save({"base_model.model.lm_head.weight": torch.zeros(354, 64)}, file)
    twins.change(copy / "lora" / "adapter_config.json", target_modules=["o_net"])
    assert problems(copy).endswith("lora lacks adapters, as of any module")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("llm/model-00001-of-00002.safetensors", "model.layers.0.self_attn.q_norm.weight"),
        ("vision_tower/model.safetensors", "vision_model.encoder.layers.3.mlp.fc1.weight"),
        ("mm_projector/model.safetensors", "layers.5.weight"),
        ("lora/adapter_model.safetensors", "base_model.model.model.norm.lora_A.weight"),
    ],
)
def test_an_extra_tensor_is_named_in_whichever_file_it_is(file, name, copy):
    path = copy / file
    read, write = (torch.load, torch.save) if path.suffix == ".bin" else (load_file, twins.save)
    write(read(path) | {name: torch.ones(4, 4)}, path)
    if "00001" in file:
        index = json.loads((copy / "llm" / "model.safetensors.index.json").read_text())
        index["weight_map"][name] = path.name
        twins.write(index, copy / "llm" / "model.safetensors.index.json")
    assert problems(copy) == f"1 unexplained: {name}"


def test_a_tensor_too_few_and_one_of_another_shape_are_named(copy):
    file = copy / "mm_projector" / "model.safetensors"
    torch.save({}, copy / "lora" / "non_lora_trainables.bin")
    kept = load_file(file)
    del kept["layers.4.bias"]
    kept["layers.2.weight"] = kept["layers.2.weight"][:, :-1]
    twins.save(kept, file)
    message = problems(copy)
    assert "1 missing: mm_projector.layers.4.bias" in message
    assert "1 of another shape: layers.2.weight (64, 127) for (64, 128)" in message


class _Runs:
    def __reduce__(self):
        return (print, ("it ran",))


@pytest.mark.parametrize("file", ["non_lora_trainables.bin", "adapter_model.bin"])
def test_a_pickle_with_code_in_it_is_refused_and_not_run(file, copy, capsys):
    if file == "adapter_model.bin":
        (copy / "lora" / "adapter_model.safetensors").unlink()
    torch.save({"a": _Runs()}, copy / "lora" / file)
    with pytest.raises(ModelError, match="holds more than tensors"):
        load(copy)
    assert "it ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("vision_tower", {"model_type": "intern_vit_6b"}, "is of a intern_vit_6b; LiFT-Critic 13B"),
        ("llm", {"model_type": "qwen2"}, "is of a qwen2; LiFT-Critic 13B has a llama"),
        (
            "mm_projector",
            {"mm_projector_type": "mlp_downsample_2x2_fix"},
            "is of a mlp_downsample_2x2_fix; LiFT-Critic 13B has a mlp_downsample",
        ),
    ],
)
def test_parts_of_another_kind_are_refused(file, values, message, copy):
    """Tensors of the last have the same names and shapes, and the other order of tokens."""
    twins.change(copy / file / "config.json", **values)
    assert message in problems(copy)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"r": 8}, "has rank 4, but"),
        ({"r": None}, "names no r and lora_alpha that hold for all modules"),
        ({"alpha_pattern": {"q_proj": 2}}, "names no r and lora_alpha that hold for all modules"),
        ({"rank_pattern": {"q_proj": 2}}, "names no r and lora_alpha that hold for all modules"),
    ],
)
def test_an_adapter_that_is_not_as_its_configuration_says_is_refused(values, message, copy):
    twins.change(copy / "lora" / "adapter_config.json", **values)
    assert message in problems(copy)


def test_a_tokenizer_of_other_weights_and_one_that_cannot_be_read_are_refused(copy):
    extra = twins.IDS | {f"<{i}>": len(twins.IDS) + i for i in range(3)}
    file = copy / "llm" / "tokenizer.model"
    file.write_bytes(twins.sentencepiece_model([*extra]))
    assert "has the tokenizer of other weights: 357 tokens" in problems(copy)
    file.write_bytes(b"no model")
    assert "tokenizer.model is not a SentencePiece model" in problems(copy)


def test_a_tokenizer_of_transformers_alone_is_read_alike(copy, made):
    """Its vocabulary is in `tokenizer.json`, and no `tokenizer.model` is there."""
    file = copy / "llm" / "tokenizer.model"
    file.unlink()
    LlamaTokenizer(vocab=twins.IDS, merges=[], add_bos_token=True).save_pretrained(copy / "llm")
    own, pieces = lift._tokenizer(copy / "llm"), lift._tokenizer(made[0] / "llm")
    for text in ("\na red ball ASSISTANT:", "\n", "a  b"):
        ids = own(text, add_special_tokens=False).input_ids
        assert ids == pieces(text, add_special_tokens=False).input_ids
