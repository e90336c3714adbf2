"""Published conversations: what is kept, what is understood and what is refused."""

import hashlib
import json
import random
from pathlib import Path

import pytest

from unified_reward.core.samples import Example, Image, Task, Video
from unified_reward.core.verdicts import Failed
from unified_reward.data.sources import SOURCES, read_source, sharegpt
from unified_reward.data.sources.streams import Raw
from unified_reward.io.rows import example_row, parse_row
from unified_reward.prompts import packs, template


NAMES = sorted(name for name, source in SOURCES.items() if source.layout == "sharegpt")
IMAGES = ("image_generation", "image_understanding")
FIVE = (
    "visual quality: 4\ntemporal consistency: 3\ndynamic degree: 2\n"
    "text-to-video alignment: 1\nfactual consistency: 2"
)
WORDS = {
    "image": "Tell which picture shows “⟪prompt⟫” better {so}.",
    "video": "Tell which clip shows “⟪prompt⟫” better {so}.",
    "score": "Give points to what was made of “⟪prompt⟫” {so}.",
    "und_pair": "Asked: ⟪prompt⟫\nOne: ⟪first⟫\nTwo: ⟪second⟫\nWhich {so}?",
    "und_point": "Asked: ⟪prompt⟫\nSaid: ⟪first⟫\nPoints {so}?",
}


def words(source):
    if source.task.value.endswith("understanding"):
        return WORDS["und_pair" if source.form == "compare" else "und_point"]
    kind = "image" if source.task.value in IMAGES else "video"
    return WORDS[kind if source.form == "compare" else "score"]


def answer(source):
    if source.name == "lift_hra":
        return "Normal. The hand bends."
    if source.name == "videofeedback":
        return FIVE
    if source.name == "evalmuse_point":
        return "red cube (object): 1\nshiny (attribute): 0\nFinal Score: 3.67"
    if source.form == "compare":
        noun = "Answer" if source.task.value.endswith("understanding") else "Image"
        return f"It counts right.\n{noun} 2 is better than {noun} 1."
    return f"It counts right.\nFinal Score: {source.scale.high:g}"


def media(source):
    """Paths of one row: pictures, or the frames of one clip or two."""
    n = 2 if source.task.value.endswith("generation") and source.form == "compare" else 1
    if source.task.value in IMAGES:
        return [f"images/{i}.jpg" for i in range(n)]
    return [f"frames/{i}/{k}.jpg" for i in range(n) for k in range(8)]


def question(source):
    filled = {"⟪prompt⟫": "two cubes", "⟪first⟫": "a red one", "⟪second⟫": "a blue\none"}
    text = words(source)
    for slot, value in filled.items():
        text = text.replace(slot, value)
    return text


def row(name, style="train_data", **changes):
    """One row of a source as published for LLaVA (``train_data``) or for Qwen (``qwen``)."""
    source, paths = SOURCES[name], media(SOURCES[name])
    marks = 1 if style == "train_data" and len(paths) > 2 else len(paths)
    value = {
        "id": f"{name}-0",
        "images": paths,
        "conversations": [
            {"from": "human", "value": "<image>\n" * marks + question(source)},
            {"from": "gpt", "value": answer(source)},
        ],
    }
    if style == "train_data" and len(paths) == 1:
        value["image"] = value.pop("images")[0]
    return value | changes


def reply(name, text):
    value = row(name)
    value["conversations"][1]["value"] = text
    return value


def questions(name, text):
    value = row(name)
    value["conversations"][0]["value"] = text
    return value


def content(value, name, folder=Path("/data")):
    (read,) = sharegpt.read([Raw(1, value)], SOURCES[name], folder)
    return read.content


def result(value, name):
    failed = content(value, name)
    assert isinstance(failed, Failed)
    assert str(failed.cause) == failed.error
    return failed.error


@pytest.fixture(autouse=True)
def no_pack(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFIED_REWARD_HOME", str(tmp_path / "home"))


@pytest.fixture
def pack(tmp_path, no_pack):
    """Made-up wordings of every source, imported from a clone as official ones are."""
    prompts, code = [], []
    for i, source in enumerate(SOURCES[name] for name in NAMES):
        text = words(source)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        prompts.append(
            packs.Prompt(
                f"P{i}", source.task, source.form, len(text), digest, "ask.py", len(code) + 1
            )
        )
        named = text.replace("{", "{{").replace("}", "}}").replace("⟪", "{").replace("⟫", "}")
        code.append(f"f{named!r}")
    (tmp_path / "ask.py").write_text("\n".join(code), "utf-8")
    found = packs.import_pack(tmp_path, expected=prompts).prompts
    assert {item.status for item in found} == {"verified"}


@pytest.mark.parametrize("style", ["train_data", "qwen"])
@pytest.mark.parametrize("name", NAMES)
def test_a_conversation_is_kept_to_the_letter_and_survives_a_file(name, style, tmp_path):
    file = tmp_path / f"{style}.json"
    value = row(name, style)
    file.write_text(json.dumps([value], indent=4), "utf-8")
    (read,) = read_source(file, name)
    kept = read.content
    assert kept.messages
    assert not kept.candidates
    assert (read.id, kept.source, kept.form) == (f"{name}-0", name, SOURCES[name].form)
    assert list(kept.messages) == value["conversations"]
    source = SOURCES[name]
    graded = source.form == "score"
    assert kept.target.scale == ((source.scale or source.aspects[0].scale) if graded else None)
    assert survives(kept, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_a_question_of_an_imported_wording_is_a_record(name, pack, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row(name)), "utf-8")
    (read,) = read_source(file, name, media=tmp_path / "elsewhere")
    record = read.content
    assert isinstance(record, Example)
    assert list(record.messages) == row(name)["conversations"]
    sample = record.sample
    assert (sample.task, sample.form) == (SOURCES[name].task, SOURCES[name].form)
    assert sample.prompt == "two cubes"
    if name.startswith(("llava", "sharegpt")):
        assert sample.candidates == ("a red one", "a blue\none")[: len(sample.candidates)]
        assert len(sample.context) == 1
    else:
        assert sample.context == ()
    assert all(path.is_relative_to(tmp_path / "elsewhere") for path in paths(record))
    assert survives(record, tmp_path)


def survives(content, folder):
    written = example_row(content, folder)
    again = parse_row(json.dumps(written).encode(), folder)
    same = (type(again), again.target, again.messages) == (
        type(content),
        content.target,
        content.messages,
    )
    return same and example_row(again, folder) == written and paths(again) == paths(content)


def paths(content):
    return [
        item.source
        for medium in content.media
        for item in (medium.source if isinstance(medium.source, tuple) else [medium])
    ]


def test_the_space_between_two_llava_marks_is_no_part_of_the_question(pack):
    text = "<image>\n <image>\n" + question(SOURCES["hpd"])
    assert content(questions("hpd", text), "hpd").sample.prompt == "two cubes"


def test_frames_are_one_clip_or_two_halves():
    frames = [Path("/data") / path for path in media(SOURCES["videodpo"])]
    first, second = content(row("videodpo"), "videodpo").media
    assert [item.source for item in first.source + second.source] == frames
    assert len(first.source) == 8
    (clip,) = content(row("videofeedback"), "videofeedback").media
    assert isinstance(clip, Video)
    assert all(isinstance(frame, Image) for frame in clip.source)


@pytest.mark.parametrize("mark", ["<video>", "<image>"])
def test_a_file_of_a_video_is_one_clip(mark):
    value = questions("lift_hra", f"{mark}\nRate it.") | {"video": "a/b.MP4"}
    del value["images"]
    assert content(value, "lift_hra").media == (Video(Path("/data/a/b.MP4")),)


@pytest.mark.parametrize(
    ("name", "marks", "images", "reason"),
    [
        ("hpd", 1, ["a.png"], "1 image where 2 are due"),
        ("hpd", 3, ["a.png", "b.png", "c.png"], "3 images where 2 are due"),
        ("evalmuse_point", 2, ["a.png", "b.png"], "2 images where 1 is due"),
        ("llava_critic_pair", 2, ["a.png", "b.png"], "2 images where 1 is due"),
        ("hpd", 2, ["a.png", "b.mp4"], "1 of 2 paths are videos; hpd has images there"),
        ("videodpo", 1, ["a.mp4"], "1 video where 2 are due"),
        ("videodpo", 1, ["a.png"] * 3, "3 frames cannot be halved into two videos"),
        ("hpd", 1, ["a.png", "b.png"], "1 <image> and 0 <video> marks for 2 images and 0 videos"),
        ("hpd", 0, ["a.png", "b.png"], "0 <image> and 0 <video> marks for 2 images and 0 videos"),
        ("videofeedback", 0, ["a.png"] * 8, "0 <image> and 0 <video> marks for 8 images"),
        ("videofeedback", 2, ["a.png"] * 8, "2 <image> and 0 <video> marks for 8 images"),
        ("hpd", 0, [], '"images" is a path or a list of paths, not []'),
        ("hpd", 2, ["a.png", 7], '"images" is a path or a list of paths'),
    ],
)
def test_media_that_do_not_fit_the_question_are_told(name, marks, images, reason):
    value = questions(name, "<image>\n" * marks + "Which?") | {"images": images}
    assert reason in result(value | {"image": None}, name)


def test_a_video_mark_is_no_mark_of_a_picture():
    value = questions("evalmuse_point", "<video>\nHow good?")
    assert result(value, "evalmuse_point").startswith("0 <image> and 1 <video> marks for 1 images")


def test_media_under_two_keys_or_none_are_told():
    assert "images and image" in result(row("hpd", image="a.png"), "hpd")
    value = row("hpd")
    del value["images"]
    assert result(value, "hpd").endswith("not none")


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        (["gpt", "human"], "turns out of order: gpt, human, where human and gpt are due"),
        (["human", "gpt", "human", "gpt"], "turns out of order"),
        (["human"], "turns out of order"),
        ([], "turns out of order: no turn"),
        (["system", "human", "gpt"], "turns out of order: system, human, gpt"),
        (None, '"conversations" is a list'),
    ],
)
def test_anything_but_one_exchange_is_told(turns, reason):
    spoken = turns if turns is None else [{"from": item, "value": "<image>"} for item in turns]
    assert reason in result(row("hpd", conversations=spoken), "hpd")


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("hpd", "They are hard to tell apart.", "no verdict in the answer"),
        ("hpd", "", "no verdict in the answer"),
        ("sharegptvideo_point", "Final Score: 87", "score 87 is outside the scale 1 to 5"),
        ("evalmuse_point", "It is fine.", "no score in the answer"),
        ("videofeedback", FIVE.replace("degree: 2", "degree: 5"), "dynamic degree (1 to 4)"),
        ("videofeedback", FIVE.rpartition("\n")[0], "factual consistency (1 to 4)"),
        (
            "lift_hra",
            "Final Score: 3",
            "begins with 'Final Score: 3', not with bad or normal or good",
        ),
    ],
)
def test_an_answer_without_a_readable_verdict_fails_and_is_no_number(name, text, reason):
    assert reason in result(reply(name, text), name)


def test_each_source_keeps_its_own_scale_and_kind_of_verdict():
    targets = {name: content(row(name), name).target for name in NAMES}
    assert targets["llava_critic_point"].score == 100
    assert targets["sharegptvideo_point"].score == 5
    assert targets["evalmuse_point"].score == 3.67
    assert targets["evalmuse_point"].aspects == {"red cube (object)": 1, "shiny (attribute)": 0}
    assert targets["lift_hra"].score == 2
    assert targets["videofeedback"].score is None
    assert list(targets["videofeedback"].aspects.values()) == [4, 3, 2, 1, 2]
    assert targets["hpd"].winner == "second"
    assert content(reply("oip", "Both images are equally good."), "oip").target.winner == "tie"


def test_the_aspects_of_videofeedback_are_those_our_judges_state():
    ours = template("aspects", Task.VIDEO_GENERATION, "score").aspects
    theirs = SOURCES["videofeedback"].aspects
    assert [(item.name, str(item.scale)) for item in theirs] == [
        (a.name, str(a.scale)) for a in ours
    ]


@pytest.mark.parametrize(
    ("name", "text", "rationale"),
    [
        ("llava_critic_pair", "It counts.\nAnswer 2 is better than Answer 1.", "It counts."),
        ("llava_critic_pair", "**Overall Judgment: Answer 1 is slightly better.**\n\nWhy.", "Why."),
        ("llava_critic_pair", "It counts.\nBoth responses are equally good.", "It counts."),
        ("llava_critic_pair", "Why.\nAnswer 1 is better because it counts.", ""),
        ("llava_critic_pair", "Answer 1 is better.", ""),
        ("llava_critic_point", "It counts.\nTwo.\n\nFinal Score: 85/100", "It counts.\nTwo."),
        ("llava_critic_point", "It counts. Final Score: 85", ""),
        ("lift_hra", "Good. The hand moves.", "The hand moves."),
        ("lift_hra", "**Good**\nNo flaw.", "No flaw."),
        ("lift_hra", "Good", ""),
        ("hpd", "It counts.\nImage 2 is better.", ""),
    ],
)
def test_a_rationale_is_what_can_be_cut_cleanly(name, text, rationale):
    assert content(reply(name, text), name).target.rationale == rationale


def test_a_row_without_an_id_is_named_by_its_content():
    item = row("hpd")
    del item["id"]
    name = content(item, "hpd").id
    assert len(name) == 16
    assert content(dict(reversed(item.items())), "hpd").id == name
    assert content(item | {"extra": 1}, "hpd").id != name
    assert content(row("hpd", id=0), "hpd").id == "0"
    assert "an id is text or a whole number, not True" in result(row("hpd", id=True), "hpd")


def test_no_damage_to_a_row_stops_the_others():
    """Any part of a row replaced by nonsense gives a content or a reason, and never an error."""
    rng = random.Random(0)
    nonsense = [None, "", 7, True, [], {}, [[]], "<image>", "gpt", ["a.mp4", None], {"value": 3}]
    for i in range(2_000):
        name = NAMES[i % len(NAMES)]
        value = row(name)
        spots = [(value, key) for key in value]
        spots += [(turn, key) for turn in value["conversations"] for key in turn]
        where, key = rng.choice(spots)
        where[key] = rng.choice(nonsense)
        assert isinstance(content(value, name), Example | Failed)
