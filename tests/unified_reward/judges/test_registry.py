"""The judge: both orders merged without bias, batches like loops, references found in order."""

import json
import re
from importlib.metadata import EntryPoints
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tolerance import near, rounding
from tests.unified_reward.media.made import grey_steps, noise
from tests.verdicts import Says, preferences, words
from unified_reward import media
from unified_reward.backends import hf_vlm
from unified_reward.core import extensions
from unified_reward.core.errors import ConfigError, DataError, ModelError
from unified_reward.core.requests import Answer
from unified_reward.core.samples import Example, Image, Sample, Target, Task, Video
from unified_reward.core.verdicts import Failed, Preferred, Scored, Unparsed
from unified_reward.judges import registry
from unified_reward.judges.card import CARD, Card
from unified_reward.judges.generative import GenerativeJudge, merge_orders
from unified_reward.judges.registry import PUBLISHED, kind_of, open_judge, open_reference
from unified_reward.judges.scripted import ScriptedModel
from unified_reward.judges.table import TableJudge
from unified_reward.media import encode_mp4, encode_png, open_image


def picture(seed=0, size=(24, 24)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Image(pixels, "HWC")


def clip(n, size=(24, 24)):
    return Video(noise(n, *size, 3), "THWC")


def pair(prompt="a red cube"):
    return Sample(Task.IMAGE_GENERATION, prompt, (picture(1), picture(2)))


def scripted(kind, family="native"):
    return GenerativeJudge(ScriptedModel(kind), Card(family))


def shares(verdict):
    return verdict.p_first, verdict.p_tie, verdict.p_second


@pytest.mark.numeric
@settings(deadline=None)
@given(preferences(), preferences())
def test_merging_the_swapped_question_gives_the_mirrored_verdict(ab, ba):
    item, other = merge_orders(ab, ba), merge_orders(ba, ab).mirrored()
    assert shares(item) == pytest.approx(shares(other))
    assert item.aspects == pytest.approx(other.aspects)
    assert item.winner == other.winner


@pytest.mark.numeric
@settings(deadline=None)
@given(preferences())
def test_a_model_that_sees_only_the_place_ends_in_the_middle(biased):
    merged = merge_orders(biased, biased)
    assert merged.p_first == merged.p_second
    assert merged.probability == pytest.approx(0.5)
    assert merged.winner == "tie"
    assert merged.consistent is (biased.winner == "tie")


@pytest.mark.numeric
@settings(deadline=None)
@given(preferences())
def test_a_model_that_sees_only_the_content_keeps_its_verdict(honest):
    merged = merge_orders(honest, honest.mirrored())
    assert shares(merged) == pytest.approx(shares(honest))
    assert merged.winner == honest.winner
    assert merged.consistent is True


@pytest.mark.numeric
def test_merging_is_the_mean_with_the_second_order_mirrored():
    """First: (0.8 + 0.4) / 2; tie: (0.1 + 0.3) / 2; second: (0.1 + 0.3) / 2."""
    merged = merge_orders(Preferred(0.8, 0.1, 0.1), Preferred(0.3, 0.3, 0.4))
    assert shares(merged) == pytest.approx((0.6, 0.2, 0.2))
    assert [item.p_first for item in merged.orders] == [0.8, 0.4]


@settings(deadline=None)
@given(preferences(), st.booleans())
def test_one_order_unreadable_or_failed_is_no_comparison(good, lost_first):
    for lost in (Unparsed("no verdict", "hm"), Failed("server down")):
        assert merge_orders(*((lost, good) if lost_first else (good, lost))) == lost
    both = (Unparsed("no verdict"), Failed("server down"))
    assert merge_orders(*(both if lost_first else both[::-1])) == Failed("server down")


def test_scores_cannot_be_merged():
    with pytest.raises(TypeError, match="verdicts on a comparison"):
        merge_orders(Scored(None), Scored(None))


FAMILIES = ["native", "reasoned", "think", "compact"]


@pytest.mark.parametrize("family", FAMILIES)
def test_always_first_is_an_inconsistent_tie_in_both_orders_and_first_in_one(family):
    always_first = scripted("first", family)
    both, once = (always_first.ask([pair()], orders=orders)[0] for orders in (2, 1))
    assert isinstance(both, Preferred)
    assert (both.winner, both.consistent) == ("tie", False)
    assert shares(both) == (0.5, 0.0, 0.5)
    assert isinstance(once, Preferred)
    assert (once.winner, once.consistent) == ("first", None)


@pytest.mark.parametrize("family", [*FAMILIES, "aspects"])
def test_silence_is_unparsed_and_never_a_number(family):
    samples = [pair(), Sample(Task.IMAGE_GENERATION, "x", (picture(),))]
    verdicts = scripted("silent", family).ask(samples)
    assert [type(item) for item in verdicts] == [Unparsed, Unparsed]


def test_the_second_order_is_asked_with_the_candidates_exchanged():
    questions = Says(lambda _: "Answer 1 is better.")
    question = Sample(Task.IMAGE_UNDERSTANDING, "How many?", ("two", "three"), (picture(),))
    GenerativeJudge(questions, Card("native")).ask([question])
    there, back = map(words, questions.requests)
    assert there.index("two") < there.index("three")
    assert back.index("three") < back.index("two")


def test_a_score_is_asked_once_whatever_the_orders():
    questions = Says(lambda _: "Final Score: 4")
    (verdict,) = GenerativeJudge(questions, Card("native")).ask(
        [Sample(Task.IMAGE_GENERATION, "x", (picture(),))]
    )
    assert len(questions.requests) == 1
    assert verdict.score.value == 4


def test_what_cannot_be_asked_fails_alone_and_keeps_its_error(tmp_path):
    missing = Image(tmp_path / "none.png")
    samples = [
        pair(),
        Sample(Task.IMAGE_GENERATION, "x", (missing,)),
        Sample(Task.IMAGE_GENERATION, "x", (picture(),)),
    ]
    verdicts = scripted("tie").ask(samples)
    assert [type(item) for item in verdicts] == [Preferred, Failed, Scored]
    assert "none.png: cannot be opened" in verdicts[1].error


def test_what_a_family_does_not_ask_fails_alone_and_keeps_its_error():
    edit = Sample(Task.IMAGE_EDITING, "x", (picture(), picture()), (picture(),))
    questions = GenerativeJudge(Says(lambda _: '{"winner": "Image 1"}'), Card("flex"))
    compared, failed = questions.ask([pair(), edit], orders=1)
    assert compared.winner == "first"
    assert "has no compare template for image_editing" in failed.error
    assert isinstance(failed.cause, ConfigError)


def test_a_model_that_fails_on_one_request_spoils_only_its_comparison():
    model = Says(lambda r: Failed("timeout") if "slow" in words(r) else "Image 1 is better.")
    verdicts = GenerativeJudge(model, Card("native")).ask([pair(), pair("slow"), pair()], orders=1)
    assert [type(item) for item in verdicts] == [Preferred, Failed, Preferred]


def test_a_file_is_decoded_once_in_a_call_however_often_it_is_asked_about(tmp_path, monkeypatch):
    files = [tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.mp4"]
    for seed, file in enumerate(files[:2]):
        file.write_bytes(encode_png(open_image(picture(seed))))
    files[2].write_bytes(encode_mp4(grey_steps(3), 8))
    decoded = []
    for reader in ("open_image", "sample_frames"):
        original = getattr(media, reader)

        def counting(medium, *rest, _original=original):
            decoded.append(medium.source)
            return _original(medium, *rest)

        monkeypatch.setattr(media, reader, counting)
    a, b = map(Image, files[:2])
    about_clip = Sample(Task.VIDEO_UNDERSTANDING, "?", ("yes", "no"), (Video(files[2]),))
    samples = [Sample(Task.IMAGE_GENERATION, "x", both) for both in [(a, b), (b, a), (a,)]]
    scripted("first").ask([*samples, about_clip, about_clip])
    assert sorted(decoded) == sorted(files)


def mixed():
    """All tasks and both forms, with pictures, clips and texts of unequal size."""
    still, film = picture(3, (40, 20)), clip(3)
    return [
        Sample(Task.IMAGE_GENERATION, "a red cube", (picture(4),)),
        Sample(Task.VIDEO_UNDERSTANDING, "What moves?", ("a ball", "nothing at all"), (film,)),
        Sample(Task.IMAGE_UNDERSTANDING, "How many circles?", ("two",), (still,)),
        Sample(Task.VIDEO_GENERATION, "a ball rolls", (clip(2), film)),
        pair("two blue squares left of a very large green circle"),
        Sample(Task.VIDEO_GENERATION, "x", (film,)),
        Sample(Task.IMAGE_UNDERSTANDING, "Which colour?", ("red", "green"), (still,)),
        Sample(Task.VIDEO_UNDERSTANDING, "When?", ("never",), (clip(1),)),
    ]


def numbers(verdict):
    if isinstance(verdict, Preferred):
        return shares(verdict)
    return verdict.score.value, verdict.score.sigma


@pytest.mark.numeric
def test_a_batch_of_mixed_tasks_equals_a_loop(tiny):
    together = tiny.ask(mixed())
    alone = [tiny.ask([sample])[0] for sample in mixed()]
    for item, other in zip(together, alone, strict=True):
        assert type(item) is type(other)
        assert numbers(item) == near(numbers(other))


@pytest.mark.numeric
def test_the_shipped_judge_gives_soft_verdicts_on_the_scale_of_the_task(tiny):
    for sample, verdict in zip(mixed(), tiny.ask(mixed()), strict=True):
        if sample.form == "compare":
            assert sum(shares(verdict)) == pytest.approx(1)
            assert len(verdict.orders) == 2
        else:
            assert verdict.score.value in verdict.score.scale
            assert verdict.score.sigma >= 0
    assert tiny.name == "tiny_judge"


@pytest.mark.numeric
def test_exchanging_the_candidates_mirrors_the_verdict_of_the_shipped_judge(tiny):
    verdict, swapped = tiny.ask([pair(), pair().swapped()])
    # Log-probabilities lie within some ten of zero.
    assert shares(swapped) == pytest.approx(shares(verdict.mirrored()), abs=rounding(10))


def test_probabilities_decide_and_not_the_text():
    model = Says(lambda _: Answer("Image 2 is better.", (0.0, -20.0, -20.0)))
    (verdict,) = GenerativeJudge(model, Card("native")).ask([pair()], orders=1)
    assert verdict.winner == "first"


@pytest.mark.parametrize(
    "card",
    [
        Card("compact"),
        Card("think", 16, "span_centres", 4096, "org/base", {"steps": 3, "データ": ["a"]}),
    ],
)
def test_a_card_is_read_as_it_was_written(card, tmp_path):
    card.write(tmp_path)
    assert Card.read(tmp_path) == card


def test_a_folder_without_a_card_has_none(tmp_path):
    assert Card.read(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("{", "Invalid JSON"),
        ("[1]", "holds a list, not an object"),
        ('{"frames": 8}', "family: Field required"),
        ('{"family": "native", "frame": 8}', "frame: Unexpected keyword argument"),
        ('{"family": "native", "frames": "many"}', "frames: Input should be a valid integer"),
        ('{"family": "native", "frame_rule": "all"}', "frame_rule: Input should be"),
        ('{"family": ["native"]}', "family: Input should be a valid string"),
    ],
)
def test_a_wrong_card_is_refused_with_the_file_and_what_is_wrong(text, result, tmp_path):
    (tmp_path / CARD).write_text(text)
    with pytest.raises(ConfigError, match=rf"{CARD} is not a judge's card: .*{result}"):
        open_judge(tmp_path)


def test_an_unknown_family_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(
        ConfigError, match="no family 'best'; there are aspects, compact, compact-think, edit"
    ):
        open_judge("tiny_judge", family="best")
    (tmp_path / CARD).write_text(json.dumps({"family": "best"}))
    with pytest.raises(ConfigError, match="no family 'best'"):
        open_judge(tmp_path)
    with pytest.raises(ConfigError, match="no family 'best'"):
        open_judge("scripted:first", family="best")


@pytest.fixture
def no_loading(monkeypatch):
    """Loading a model says which one, instead of reaching for a network."""

    def refuse(source, **_):
        raise ModelError(f"would load {source}")

    monkeypatch.setattr(hf_vlm, "load_vlm", refuse)


@pytest.mark.parametrize("name", ["CodeGoat24/UnifiedReward-2.0-qwen3vl-8b", *PUBLISHED])
def test_a_published_judge_is_refused_unless_rewording_is_allowed(
    name, no_loading, tmp_path, monkeypatch
):
    monkeypatch.setenv("UNIFIED_REWARD_HOME", str(tmp_path))
    way_out = "imported or not" if name.endswith("UnifiedReward") else "run .* templates import"
    with pytest.raises(ConfigError, match=f"{name} was trained on official wordings, .*{way_out}"):
        open_judge(name)
    with pytest.raises(ModelError, match=f"would load {name}"):
        open_judge(name, allow_reworded=True)


@pytest.fixture
def pixels(monkeypatch):
    """Pixel caps with which checkpoints would be loaded."""
    seen = []

    def refuse(source, *, max_pixels, **_):
        seen.append(max_pixels)
        raise ModelError(f"{source} is not loaded")

    monkeypatch.setattr(hf_vlm, "load_vlm", refuse)
    monkeypatch.setattr(registry, "check_route_to_hub", lambda: None)
    return seen


def test_a_judge_without_a_card_has_its_pixel_cap_wherever_its_weights_are(pixels, tmp_path):
    """Published judges have no card, and were trained on images of at most 512 x 512."""
    for reference in ("CodeGoat24/UnifiedReward-qwen-7b", str(tmp_path)):
        with pytest.raises(ModelError, match="is not loaded"):
            open_judge(reference, allow_reworded=True)
    assert pixels == [512 * 512, 512 * 512]


def test_a_card_decides_the_pixels_of_its_judge(pixels, tmp_path):
    for cap in (None, 300):
        Card("native", max_pixels=cap).write(tmp_path)
        with pytest.raises(ModelError, match="is not loaded"):
            open_judge(tmp_path)
    assert pixels == [None, 300]


@pytest.mark.usefixtures("no_loading")
def test_a_hub_id_that_is_not_published_is_loaded_as_it_is():
    with pytest.raises(ModelError, match="would load someone/judge"):
        open_judge("someone/judge")


@pytest.mark.parametrize("text", ["nonsense", "./nowhere", "../nowhere", "a/b/c", "pickscores:a/b"])
def test_a_reference_that_is_nothing_known_is_refused(text, no_loading, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f"there is no judge '{text}'.*; give one of these:"):
        open_judge(text)


def test_an_existing_folder_comes_before_every_other_reading(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    opened = []

    def open_checkpoint(_, folder, __):
        opened.append(folder)
        return GenerativeJudge(ScriptedModel("first"), Card("native"))

    monkeypatch.setattr(registry, "open_checkpoint", open_checkpoint)
    names = [Path("scripted:first"), Path("table:x"), Path("org/name"), Path("tiny_judge")]
    for name in names:
        name.mkdir(parents=True)
        open_judge(str(name))
    open_judge("tiny_scalar")
    assert opened == [*names, registry.checkpoint_path("tiny_scalar")]


def test_there_is_no_default_judge_and_the_error_lists_what_there_is():
    with pytest.raises(ConfigError, match="no judge is named, and there is no default") as caught:
        open_judge("")
    models, named, others = str(caught.value).splitlines()[1:]
    assert "pickscore" in models
    assert "http(s)://" in models
    assert "tiny_judge (answers in text; a toy, " in named
    assert "tiny_base" not in named
    assert "scripted:first" in others
    with pytest.raises(TypeError, match="reference"):
        open_judge()


def test_without_the_laboratory_its_names_say_what_to_install(monkeypatch):
    nothing = EntryPoints(())
    monkeypatch.setattr(extensions, "entry_points", lambda group: nothing)
    with pytest.raises(ConfigError, match="'tiny_judge'; tiny_judge comes with the laboratory"):
        open_judge("tiny_judge")
    with pytest.raises(ConfigError, match=r"installed by name: none; toys .*unified-reward-lab"):
        open_judge("")


@pytest.mark.parametrize("reference", ["tiny_judge", "org/name"])
def test_quantised_weights_need_bitsandbytes(reference, monkeypatch):
    monkeypatch.setattr(hf_vlm, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="quantize='4bit' needs bitsandbytes, which is not inst"):
        open_judge(reference, quantize="4bit")


def test_quantising_is_for_local_checkpoints(tmp_path):
    (tmp_path / "t.csv").write_text("id,value\na,1\n")
    for reference in ("http://localhost:9/v1", "scripted:first", f"table:{tmp_path / 't.csv'}"):
        with pytest.raises(ConfigError, match="quantize='8bit' is for local vision-language"):
            open_judge(reference, quantize="8bit")
    with pytest.raises(ConfigError, match="quantize is 8bit or 4bit, not '2bit'"):
        open_judge("tiny_judge", quantize="2bit")


def test_an_unknown_attention_is_named_with_those_there_are():
    with pytest.raises(ConfigError, match=r"attention is sdpa, eager, .*, not 'fast'"):
        open_judge("tiny_judge", attention="fast")


def test_an_adapter_is_not_merged_into_quantised_weights(monkeypatch):
    monkeypatch.setattr(hf_vlm, "find_spec", lambda _: True)
    with pytest.raises(ConfigError, match="is an adapter, which cannot be merged into quantised"):
        open_judge(registry.checkpoint_path("tiny_vlm"), quantize="8bit", device="cpu")


@pytest.mark.numeric
def test_a_judge_spread_over_devices_answers_as_on_one():
    sample = Sample(Task.IMAGE_GENERATION, "a red star", (picture(),))
    spread = open_judge("tiny_judge", device="auto")
    dtype = str(spread.model.model.dtype).removeprefix("torch.")
    alone = open_judge("tiny_judge", device="cpu", dtype=dtype)
    assert spread.ask([sample]) == alone.ask([sample])


def test_scripts_tables_and_urls_are_told_by_their_beginning(tmp_path):
    (tmp_path / "t.csv").write_text("id,value\na,1\n")
    assert open_judge("scripted:second").name == "scripted:second"
    assert isinstance(open_judge(f"table:{tmp_path / 't.csv'}"), TableJudge)
    served = open_judge("http://localhost:9/v1", model="m", family="think")
    assert (served.name, served.family) == ("m at http://localhost:9/v1", "think")
    with pytest.raises(ConfigError, match="there is no scripted model 'best'"):
        open_judge("scripted:best")
    with pytest.raises(DataError, match=r"none\.csv cannot be read"):
        open_judge(f"table:{tmp_path / 'none.csv'}")


def test_the_perfect_judge_answers_the_truth_it_is_given():
    sample = Sample(Task.IMAGE_GENERATION, "x", (picture(), picture(1)), id="a")
    perfect = open_reference(
        "scripted:perfect", truth=[Example.of(sample, Target(winner="second"))]
    )
    assert perfect.ask([sample])[0].winner == "second"
    with pytest.raises(ConfigError, match="needs targets, which are not known here"):
        open_judge("scripted:perfect")


REFUSED = {
    "table:t.csv": {
        *("family", "device", "dtype", "batch_size", "votes", "api_key", "model"),
        *("allow_reworded", "quantize", "attention"),
    },
    "scripted:first": {
        *("device", "dtype", "batch_size", "votes", "api_key", "model", "allow_reworded"),
        *("quantize", "attention"),
    },
    "http://localhost:9/v1": {
        *("device", "dtype", "batch_size", "allow_reworded", "quantize", "attention"),
    },
    "pickscore:nowhere": {
        *("family", "votes", "api_key", "model", "allow_reworded", "quantize", "attention"),
    },
    "tiny_judge": {"votes", "api_key", "model"},
    "org/name": {"votes", "api_key", "model"},
    "checklist-image:tiny_base": {"family"},
}
VALUES = {"family": "native", "device": "cpu", "dtype": "float32", "batch_size": 2, "votes": 1}
VALUES |= {"api_key": "secret", "model": "m", "allow_reworded": True, "quantize": "8bit"}
VALUES |= {"attention": "eager"}


@pytest.mark.parametrize(
    ("reference", "option"),
    [(name, option) for name, options in REFUSED.items() for option in sorted(options)],
)
def test_an_option_that_cannot_apply_is_refused(reference, option):
    with pytest.raises(ConfigError, match=f"^{option}.* is for .*; leave out {option}") as caught:
        open_judge(reference, **{option: VALUES[option]})
    assert "secret" not in str(caught.value)


def test_options_that_apply_are_passed_on():
    judge = open_judge("http://localhost:9/v1", family="think", votes=2, api_key="k", model="m")
    assert judge.family == "think"
    assert open_judge("tiny_judge", device="cpu", dtype="float32", batch_size=3).window >= 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"votes": -1}, "votes must not be negative: -1"),
        ({"dtype": "float31"}, "dtype is float32, bfloat16, .*not 'float31'"),
        ({"device": "gpu"}, "device is cpu, cuda, .*not 'gpu'"),
        ({"device": "cuda:99"}, "device 'cuda:99' is not available"),
    ],
)
def test_an_option_out_of_range_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        open_judge("tiny_judge", **options)


@pytest.mark.parametrize(
    ("name", "what"), [("tiny_vlm", "a policy"), ("tiny_base", "a base model to train from")]
)
def test_a_checkpoint_that_is_no_judge_is_refused_by_its_name_and_opens_by_its_folder(name, what):
    with pytest.raises(ConfigError, match=f"{name} is {what}, not a judge"):
        open_judge(name)
    assert open_judge(registry.checkpoint_path(name), device="cpu").family == "native"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("table", "table needs its file of verdicts: table:FILE"),
        ("table:", "table needs its file of verdicts: table:FILE"),
        ("scripted", r"scripted needs the answer it gives: scripted:first\|"),
        ("scripted:", r"scripted needs the answer it gives: scripted:first\|"),
    ],
)
def test_a_reference_that_lacks_something_is_refused_with_what_it_lacks(reference, message):
    with pytest.raises(ConfigError, match=message):
        open_judge(reference)


@pytest.mark.parametrize(
    ("address", "meant"),
    [
        ("localhost:8000/v1", "http://localhost:8000/v1"),
        ("gpu-3.cluster:8000", "http://gpu-3.cluster:8000"),
        ("127.0.0.1/v1", "http://127.0.0.1/v1"),
        ("localhost/v1", "http://localhost/v1"),
        ("[::1]:8000/v1", "http://[::1]:8000/v1"),
        ("reward+localhost:8100/hps", "reward+http://localhost:8100/hps"),
    ],
)
def test_an_address_without_a_scheme_names_the_url_that_is_meant(address, meant):
    with pytest.raises(ConfigError, match=rf"lacks http://.*did you mean {re.escape(meant)}$"):
        open_judge(address)


def test_a_hub_id_and_a_scorer_are_no_addresses():
    assert kind_of("org/name-7b") == kind_of("8000/v1.5") == "checkpoint"
    assert kind_of("pickscore:8000") == "scorer"
