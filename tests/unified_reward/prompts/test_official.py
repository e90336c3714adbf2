"""Families of the published judges: there with a pack, refused with its command without one."""

import numpy as np
import pytest

from tests.unified_reward.prompts.clones import as_code, import_made, made_prompt, write_clone
from tests.unified_reward.prompts.test_templates import sample_for, some_verdict
from tests.verdicts import Says
from unified_reward import prompts, scorers
from unified_reward.backends import hf_vlm
from unified_reward.core.errors import ConfigError
from unified_reward.core.requests import Answer
from unified_reward.core.samples import Image, Sample, Task, Video
from unified_reward.core.verdicts import Preferred, Scored, Unparsed
from unified_reward.judges import checklist
from unified_reward.judges.card import Card
from unified_reward.judges.generative import GenerativeJudge
from unified_reward.judges.registry import PUBLISHED, open_judge
from unified_reward.prompts import official, packs
from unified_reward.prompts.official import FAMILIES
from unified_reward.prompts.recognise import recognise


CLONE = "run unified-reward templates import PATH on your clone of"
HINT = f"{CLONE} CodeGoat24/UnifiedReward"
IG, IU = Task.IMAGE_GENERATION, Task.IMAGE_UNDERSTANDING
VG, VU = Task.VIDEO_GENERATION, Task.VIDEO_UNDERSTANDING
IE = Task.IMAGE_EDITING
CELLS = [(task, form) for task in (IG, IU, VG, VU) for form in ("score", "compare")]
EDITS = [(IE, "score"), (IE, "compare")]
COMPARED = [cell for cell in CELLS if cell[1] == "compare"]
OWN = {
    "unifiedreward-edit": EDITS,
    "unifiedreward-edit-quality": EDITS,
    "unifiedreward-flex": [(IG, "compare"), (VG, "compare")],
    "unifiedreward-llava-answers": [(IU, "compare"), (VU, "compare")],
    "unifiedreward-acs": [(IG, "score")],
    "unifiedreward-sglang": [(IG, "score")],
    "unifiedreward-sift": [(IG, "score"), (VG, "score"), (IU, "compare"), (VU, "compare")],
    "editscore": [(IE, "score")],
    "editscore-qwen3": [(IE, "score")],
    "videoscore2": [(VG, "score")],
    "llava-critic": [(IU, "score"), (IU, "compare")],
    "unifiedreward-think": COMPARED,
    "unifiedreward-think-qwen3": COMPARED,
}
ASKED = [(name, *cell) for name in FAMILIES for cell in OWN.get(name, CELLS)]
SPECIAL = ("editscore", "editscore-qwen3", "videoscore2")
"""Families that read more than one place, or ask twice; their tests are their own."""
PLAIN = [key for key in ASKED if key[0] not in SPECIAL]
CLONES = {
    "llava-critic": "lmms-lab/llava-critic-7b",
    "editscore": "VectorSpaceLab/EditScore",
    "editscore-qwen3": "VectorSpaceLab/EditScore",
    "videoscore2": "TIGER-AI-Lab/VideoScore2",
}


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    """All published names in made-up words, in the home of this module."""
    folder = tmp_path_factory.mktemp("official")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIFIED_REWARD_HOME", str(folder / "home"))
        import_made(folder / "clone", None)
        yield


@pytest.fixture
def no_pack(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFIED_REWARD_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", FAMILIES)
def test_without_a_pack_a_published_family_says_how_to_import_one(name, no_pack):
    task, form = OWN.get(name, CELLS)[-1]
    for looking in (lambda: prompts.family(name), lambda: prompts.template(name, task, form)):
        where = f"{CLONE} {CLONES.get(name, 'CodeGoat24/UnifiedReward')}"
        with pytest.raises(ConfigError, match=f"needs the official wordings.*: {where}"):
            looking()


def test_an_unknown_family_is_told_the_published_ones_too(no_pack):
    with pytest.raises(ConfigError, match=r"there are aspects, .*, unifiedreward-2\.0, unif"):
        prompts.family("official")


@pytest.mark.usefixtures("pack")
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_asks_every_cell_its_judges_were_trained_on(name):
    assert prompts.family(name) is FAMILIES[name]
    for task, form in (*CELLS, (IE, "score"), (IE, "compare")):
        if (name, task, form) in ASKED:
            assert prompts.template(name, task, form).family.name == name
        else:
            with pytest.raises(ConfigError, match=f"{name}' has no {form} template for {task}"):
                prompts.template(name, task, form)


@pytest.mark.usefixtures("pack")
@pytest.mark.parametrize("key", PLAIN, ids=str)
def test_the_official_text_follows_the_images_with_its_slots_filled(key):
    name, task, form = key
    sample = sample_for(task, form, prompt="a ⟪first⟫ {cube}")
    *media, text = prompts.template(*key).request(sample, lambda medium: [medium]).parts
    expected = [*sample.context, *(part for part in sample.candidates if not isinstance(part, str))]
    if key == ("unifiedreward-edit-quality", IE, "score"):
        expected = [*sample.candidates]  # quality is judged without the source image
    assert media == expected
    assert "a ⟪first⟫ {cube}" in text
    assert '{"x": 1}' in text
    recognised = recognise(text, task, form)
    assert recognised.template in official._WORDINGS[name]
    answers = [one for one in sample.candidates if isinstance(one, str)]
    assert [*recognised.slots.values()] == [sample.prompt, *answers]


@pytest.mark.usefixtures("pack")
@pytest.mark.parametrize("key", PLAIN, ids=str)
def test_parsing_an_official_answer_gives_the_verdict_back(key):
    template = prompts.template(*key)
    for value in (0.0, 0.37, 0.5, 1.0):
        verdict = some_verdict(template, value)
        read = template.parse(template.answer(verdict))
        if isinstance(verdict, Scored):
            assert (read.score, read.aspects) == (verdict.score, verdict.aspects)
        else:
            assert read.p_first == pytest.approx(verdict.p_first)
            assert read.p_tie == verdict.p_tie


DIMS = (
    "visual quality: 4\ntemporal consistency: 3\ndynamic degree: 3\n"
    "text-to-video alignment: 1\nfactual consistency: 2\n"
)
SHARES = "".join(
    f"{one} Score:\n {{0}} 1: 0.435699999332428\n {{0}} 2: 0.564300000667572\n\n"
    for one in ("Alignment", "Coherence", "Style")
)
ANSWERS = [
    ("unifiedreward-qwen", IG, "Image 2 is better.", "second"),
    ("unifiedreward-llava", IG, "Image 2 is better than Image 1.", "second"),
    ("unifiedreward-llava", VG, "Both videos are equally good.", "tie"),
    ("unifiedreward-qwen", IU, "1 is short. Therefore Answer 2 is better than Answer 1.", "second"),
    ("unifiedreward-qwen", VU, "...\nOverall Judgment: Answer 1 is better than Answer 2.", "first"),
    ("unifiedreward-2.0", IG, SHARES.format("Image"), "second"),
    ("unifiedreward-2.0", VG, SHARES.format("Video"), "second"),
    ("unifiedreward-think", IU, "<think>1</think>\n<answer>Answer 1 is better</answer>", "first"),
    (
        "unifiedreward-think-qwen3",
        VG,
        "<think>a</think><answer>Video 2 is better</answer>",
        "second",
    ),
    ("unifiedreward-edit", IE, "Edited Image 2 is better", "second"),
    ("unifiedreward-edit-quality", IE, "1.25\n-0.5", "first"),
    ("unifiedreward-flex", VG, '{"categories": [], "winner": "Video 2"}', "second"),
    ("unifiedreward-llava-answers", IU, "One errs. The second response is better.", "second"),
    ("unifiedreward-llava-answers", VU, "Response 1 is better than Response 2.", "first"),
    ("unifiedreward-sift", IU, "...\nOverall Judgment: Answer 2 is better.", "second"),
    ("unifiedreward-sift", VU, "Overall Judgment: Answer 1 is better than Answer 2.", "first"),
    ("unifiedreward-sift", IG, "cube (object): 1\nFinal Score: 10", 10),
    ("unifiedreward-sift", VG, "Final Score: 9", 9),
    ("unifiedreward-sglang", IG, "It is clean.\nFinal Score: 4.5", 4.5),
    ("llava-critic", IU, "The first is vague. The second response is better.", "second"),
    ("llava-critic", IU, "Both responses are equally good, as each names it.", "tie"),
    ("llava-critic", IU, "85. It names the cat and 2 dogs.", 85),
    ("llava-critic", IU, "It is vague, so I give it 40 out of 100.", 40),
    ("llava-critic", IU, "Perhaps 40/100, or rather 80/100.", 80),
    ("unifiedreward-qwen", IG, "cube (object): 1\nFinal Score: 3.67", 3.67),
    ("unifiedreward-llava", IU, "It is right.\nFinal Score: 85", 85),
    ("unifiedreward-qwen", VG, f"{DIMS}Final Score: 8", 8),
    ("unifiedreward-qwen", VU, "Final Score: 4", 4),
]


@pytest.mark.usefixtures("pack")
@pytest.mark.parametrize(("name", "task", "answer", "verdict"), ANSWERS)
def test_published_answers_are_read(name, task, answer, verdict):
    form = "compare" if isinstance(verdict, str) else "score"
    read = prompts.template(name, task, form).parse(answer)
    assert (read.winner if isinstance(read, Preferred) else read.score.value) == verdict


@pytest.mark.usefixtures("pack")
def test_the_aspects_of_2_0_are_scored_without_an_overall_score():
    answer = "Alignment Score (1-5): 2.694700002670288\nStyle Score (1-5): 3\n"
    image = prompts.template("unifiedreward-2.0", IG, "score").parse(f"{answer}Coherence Score: 4")
    video = prompts.template("unifiedreward-2.0", VG, "score").parse(f"{answer}Physics Score: 4")
    assert (image.score, image.aspects["alignment"].value) == (None, 2.694700002670288)
    assert {*image.aspects} == {"alignment", "coherence", "style"}
    assert {*video.aspects} == {"alignment", "physics", "style"}


@pytest.mark.usefixtures("pack")
def test_the_words_that_acs_scores_first_are_skipped():
    """An aspect's name among the words, and a score behind each."""
    words = 'Word-wise Scores: [["style", 0.9], ["Alignment Score: 5", 1], ["[No_mistakes]", 4.1]]'
    read = prompts.template("unifiedreward-acs", IG, "score").parse(
        f"{words}\n\nAlignment Score (1-5): 2.5\nCoherence Score (1-5): 4\nStyle Score (1-5): 3"
    )
    assert read.score is None
    assert {name: one.value for name, one in read.aspects.items()} == {
        "alignment": 2.5,
        "coherence": 4.0,
        "style": 3.0,
    }


def test_the_mark_that_sglangs_client_writes_is_left_to_the_image(no_pack):
    wording = "<image>\nRate [⟪prompt⟫]."
    clone = write_clone(no_pack / "clone", {"SGL-IG-POINT": as_code(wording)})
    packs.import_pack(clone, expected=[made_prompt(wording, name="SGL-IG-POINT", form="score")])
    sample = sample_for(IG, "score", prompt="a cube")
    request = prompts.template("unifiedreward-sglang", IG, "score").request(sample, lambda m: [m])
    assert request.parts == (*sample.candidates, "Rate [a cube].")


def test_every_wording_of_the_table_is_asked_by_a_family_or_a_scorer():
    cards = [*(scorers.system(name).card for name in scorers.SYSTEMS), *checklist.CARDS.values()]
    of_families = {name for names in official._WORDINGS.values() for name in names}
    of_scorers = {name for card in cards for name in card.wording}
    assert {*packs.published_prompts()} == of_families | of_scorers
    assert not of_families & of_scorers


@pytest.mark.usefixtures("pack")
@pytest.mark.parametrize("name", FAMILIES)
def test_every_wording_of_a_family_is_put_to_the_judge(name):
    """Words of each, in the requests of all cells together."""
    requests = [
        request
        for task, form in OWN.get(name, CELLS)
        for request in prompts.template(name, task, form).requests(
            sample_for(task, form), lambda medium: [medium]
        )
    ]
    text = "\n".join(part for one in requests for part in one.parts if isinstance(part, str))
    for wording in official._WORDINGS[name]:
        assert f"Fake {wording}. " in text


@pytest.mark.usefixtures("pack")
def test_only_where_the_sentence_is_the_whole_answer_nothing_is_generated_first():
    qwen = {key[1:]: prompts.template(*key) for key in ASKED if key[0] == "unifiedreward-qwen"}
    leads = {
        cell: one.request(sample_for(*cell), lambda medium: [medium]).verdict_prefix
        for cell, one in qwen.items()
    }
    assert leads == {
        **dict.fromkeys([(IG, "compare"), (VG, "compare")], ""),
        **dict.fromkeys([(IU, "compare"), (VU, "compare")], "Overall Judgment: "),
        **{(task, "score"): "Final Score: " for task in (IG, IU, VG, VU)},
    }
    assert qwen[IG, "compare"].choices[0] == "Image 1 is better."
    assert prompts.template("unifiedreward-llava", VG, "compare").choices == (
        "Video 1 is better than Video 2.",
        "Both videos are equally good.",
        "Video 2 is better than Video 1.",
    )


@pytest.mark.usefixtures("pack")
def test_a_truncated_think_answer_is_unparsed():
    template = prompts.template("unifiedreward-think", IG, "compare")
    answer = Answer("<think>Image 1 is better", (0.0, -1.0, -2.0))
    assert isinstance(template.decode(answer), Unparsed)


def test_a_wording_that_was_not_imported_fails_its_samples_alone(no_pack):
    import_made(no_pack, None, "Q-IG-PAIR")
    judge = GenerativeJudge(Says(lambda _: "Image 1 is better."), Card("unifiedreward-qwen"))
    with pytest.raises(ConfigError, match=f"Q-VU-POINT is not among those imported: {HINT}"):
        prompts.template("unifiedreward-qwen", VU, "score")
    picture = Image(np.zeros((8, 8, 3), np.uint8), "HWC")
    clip = Video(np.zeros((2, 8, 8, 3), np.uint8), "THWC")
    compared, failed = judge.ask(
        [Sample(IG, "x", (picture, picture)), Sample(VU, "x", ("yes",), (clip,))], orders=1
    )
    assert compared.winner == "first"
    assert f"Q-VU-POINT is not among those imported: {HINT}" in failed.error


class _Loaded:
    name = ""


LOADED = {
    "UnifiedReward-7b": "unifiedreward-llava",
    "UnifiedReward-7b-v1.5": "unifiedreward-llava",
    "UnifiedReward-0.5b": "unifiedreward-llava",
    "UnifiedReward-qwen-32b": "unifiedreward-qwen",
    "UnifiedReward-2.0-qwen-7b": "unifiedreward-2.0",
    "UnifiedReward-2.0-qwen35-27b": "unifiedreward-2.0",
    "UnifiedReward-Think-7b": "unifiedreward-think",
    "UnifiedReward-Think-qwen-7b": "unifiedreward-think",
    "UnifiedReward-Think-qwen3vl-8b": "unifiedreward-think-qwen3",
    "UnifiedReward-Think-qwen35-9b": "unifiedreward-think-qwen3",
    "UnifiedReward-Edit-qwen3vl-4b": "unifiedreward-edit",
    "UnifiedReward-Flex-qwen35-9b": "unifiedreward-flex",
    "lmms-lab/llava-critic-7b": "llava-critic",
    "EditScore/EditScore-7B": "editscore",
    "EditScore/EditScore-72B": "editscore",
    "EditScore/EditScore-Qwen3-VL-4B-Instruct": "editscore-qwen3",
    "TIGER-Lab/VideoScore2": "videoscore2",
}


@pytest.mark.usefixtures("pack")
@pytest.mark.parametrize(("name", "family"), LOADED.items())
def test_a_published_judge_is_asked_in_its_own_words_where_they_are_imported(
    name, family, monkeypatch
):
    monkeypatch.setattr(hf_vlm, "load_vlm", lambda *_, **__: _Loaded())
    for allow_reworded in (False, True):
        reference = name if "/" in name else f"CodeGoat24/{name}"
        assert open_judge(reference, allow_reworded=allow_reworded).family == family


@pytest.mark.usefixtures("pack")
@pytest.mark.parametrize("name", ["Next-qwen-7b", "9"])
def test_a_published_judge_of_no_family_is_refused_with_a_pack_too(name, monkeypatch):
    monkeypatch.setattr(hf_vlm, "load_vlm", lambda *_, **__: _Loaded())
    reference = f"CodeGoat24/UnifiedReward-{name}"
    with pytest.raises(ConfigError, match="which no family asks yet, imported or not; allow_rew"):
        open_judge(reference)
    assert open_judge(reference, allow_reworded=True).family == "reasoned"


def test_every_published_judge_has_a_family_that_exists():
    defaults = {theirs for theirs, _ in PUBLISHED.values()} - {None}
    assert defaults == {*FAMILIES} - {*official.BY_NAME}
    for _, ours in PUBLISHED.values():
        assert ours in prompts.FAMILIES


@pytest.mark.usefixtures("pack")
@pytest.mark.parametrize("answer", ["It is fine.", "Score: 140", "", "<think>85"])
def test_a_critic_that_names_no_score_is_unparsed(answer):
    read = prompts.template("llava-critic", IU, "score").parse(answer)
    assert isinstance(read, Unparsed)
    assert prompts.template("llava-critic", IU, "compare").choices == ()
