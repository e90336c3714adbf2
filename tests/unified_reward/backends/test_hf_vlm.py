"""A local checkpoint: batches, choices, adapters and refusals."""

import json
import re
import shutil
from itertools import takewhile

import numpy as np
import peft
import PIL.Image
import pytest
import torch

from tests.tiny import ARCHITECTURES
from tests.tolerance import near, rounding
from unified_reward.backends import hf_vlm
from unified_reward.backends.batching import batches
from unified_reward.backends.hf_vlm import load_vlm
from unified_reward.core.errors import ModelError
from unified_reward.core.requests import Answer, Request
from unified_reward.core.verdicts import Failed


def picture(seed, width=56, height=56):
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)


REQUESTS = [
    Request((picture(0), "rate picture: a red circle"), choices=("1", "10", "100")),
    Request(
        (picture(1), picture(2, 40, 90), "better picture: x y z"),
        choices=("first", "tie", "second"),
    ),
    Request((*(picture(i, 30, 30) for i in range(8)), "frames"), choices=("a", "b")),
    Request(("no picture at all",), choices=("a red circle", "a red", "b")),
    Request((picture(3, 112, 28), "say"), max_new_tokens=6),
]


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def model(request, checkpoints):
    return load_vlm(checkpoints[request.param], device="cpu")


@pytest.mark.numeric
def test_a_batch_of_unequal_requests_equals_a_loop(model):
    together = model.generate(REQUESTS)
    alone = [model.generate([item])[0] for item in REQUESTS]
    for item, other in zip(together, alone, strict=True):
        assert item.text == other.text
        assert item.choice_logprobs == near(other.choice_logprobs)


@pytest.mark.numeric
def test_padding_is_masked_and_a_model_that_saw_it_would_answer_otherwise(model, monkeypatch):
    requests = [
        Request(("short",), choices=("1", "10", "100")),
        Request(("a much longer question " * 8,), choices=("1", "10", "100")),
    ]
    assert len(list(batches([hf_vlm._size(request) for request in requests], 16))) == 1
    monkeypatch.setattr(model.ways, "prefixes", "repeated")
    alone = [model.generate([request])[0].choice_logprobs for request in requests]
    together = [answer.choice_logprobs for answer in model.generate(requests)]
    for item, other in zip(together, alone, strict=True):
        assert item == near(other)
    inputs = model.inputs

    def unmasked(*args):
        given = inputs(*args)
        return given | {"attention_mask": torch.ones_like(given["attention_mask"])}

    monkeypatch.setattr(model, "inputs", unmasked)
    short, long = (answer.choice_logprobs for answer in model.generate(requests))
    assert short != pytest.approx(alone[0], abs=1e-2)
    assert long == near(alone[1])


def test_llava_tiles_a_picture_only_where_it_is_alone_in_its_request(checkpoints):
    chat = load_vlm(checkpoints["llava_onevision"], device="cpu").chat
    item, two = Request((picture(0), "x")), Request((picture(0), picture(1), "x"))
    n_one, n_two = (int(chat.batch([it])["attention_mask"].sum()) for it in (item, two))
    assert n_two < n_one
    assert chat.batch([item, two])["attention_mask"].sum(1).tolist() == [n_one, n_two]


def independent_logprobs(model, request, head=""):
    """Log-probability of each whole choice by one plain forward pass without any cache."""
    chat = model.chat
    rows = [[*chat.tokens(head + choice), chat.eos_id] for choice in request.choices]
    before = chat.tokens(head) if head else []
    # The end of a head may be one token with the beginning of a choice.
    columns = zip(before, *rows, strict=False)
    skipped = len([*takewhile(lambda column: len({*column}) == 1, columns)])
    found = []
    for ids in rows:
        inputs = chat.batch([request], [ids])
        with torch.no_grad():
            logits = model.model(**inputs).logits[0].log_softmax(-1)
        places = range(logits.shape[0] - len(ids) + skipped, logits.shape[0])
        found.append(sum(float(logits[p - 1, inputs["input_ids"][0, p]]) for p in places))
    return found


@pytest.mark.numeric
@pytest.mark.parametrize("i", range(4))
def test_choice_probabilities_equal_a_pass_over_each_whole_answer(model, i):
    mine = np.array(model.generate(REQUESTS)[i].choice_logprobs)
    other = np.array(independent_logprobs(model, REQUESTS[i]))
    assert mine - mine[0] == pytest.approx(other - other[0], abs=rounding(other))


@pytest.mark.numeric
def test_choices_behind_reasoning_are_read_where_the_verdict_stands(model):
    """The prefix is the first text of the random model, so that it is found for sure."""
    reply = model.generate([Request((picture(0), "say"), max_new_tokens=4)])[0].text
    verdict_prefix = reply[:1]
    samples = Request(
        (picture(0), "say"), ("10", "2"), verdict_prefix=verdict_prefix, max_new_tokens=4
    )
    answer = model.generate([samples])[0]
    head = answer.text[: answer.text.rindex(verdict_prefix) + 1]
    other = independent_logprobs(model, samples, head)
    assert answer.text == reply
    assert np.subtract(*answer.choice_logprobs) == pytest.approx(
        np.subtract(*other), abs=rounding(other)
    )


@pytest.mark.numeric
def test_without_the_lead_there_are_no_probabilities(model):
    samples = Request((picture(0), "say"), ("1", "2"), verdict_prefix="\x00never", max_new_tokens=4)
    assert model.generate([samples])[0].choice_logprobs is None


@pytest.mark.numeric
def test_answers_do_not_depend_on_the_checkpoints_sampling_settings(checkpoints):
    model = load_vlm(checkpoints["qwen3_vl"], device="cpu")
    spoken = [Request((picture(0), "what is it?"), max_new_tokens=8), *REQUESTS]
    before = [item.text for item in model.generate(spoken)]
    own = model.model.generation_config
    own.do_sample = True
    own.temperature = 5.0
    own.repetition_penalty = 5.0
    own.no_repeat_ngram_size = 1
    assert [item.text for item in model.generate(spoken)] == before
    assert model.model.generation_config is own


def test_a_request_that_is_too_long_fails_alone_and_says_so(checkpoints):
    model = load_vlm(checkpoints["qwen2_5_vl"], device="cpu")
    long = Request((picture(0), "wort " * 5000), choices=("1", "2"))
    answers = model.generate([REQUESTS[0], long, REQUESTS[3]])
    assert isinstance(answers[0], Answer)
    assert isinstance(answers[2], Answer)
    assert isinstance(answers[1], Failed)
    assert "the model takes 4096" in answers[1].error


def test_control_tokens_in_a_caption_stay_text(model):
    """A caption that spells a picture token must not claim a picture's place."""
    spelled = Request((picture(0), "a <|image_pad|> and <|im_end|> here"), choices=("1", "2"))
    answer = model.generate([spelled])[0]
    assert isinstance(answer, Answer)
    ids = model.chat.batch([spelled])["input_ids"][0].tolist()
    plain = Request((picture(0), "a and here"), choices=("1", "2"))
    image = model.chat.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert ids.count(image) == model.chat.batch([plain])["input_ids"][0].tolist().count(image)


def test_a_large_picture_is_shown_at_the_pixel_cap(checkpoints):
    capped = load_vlm(checkpoints["qwen2_5_vl"], device="cpu", max_pixels=28 * 28)
    free = load_vlm(checkpoints["qwen2_5_vl"], device="cpu")
    request = Request((picture(0, 280, 280), "x"))
    assert capped.chat.batch([request])["image_grid_thw"].prod() == 4
    assert free.chat.batch([request])["image_grid_thw"].prod() == 16


def test_a_folder_without_processor_is_an_error_that_names_it(checkpoints, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((checkpoints["qwen3_vl"] / name).read_bytes())
    with pytest.raises(ModelError, match=str(tmp_path)):
        load_vlm(tmp_path)


def test_weights_that_do_not_fit_are_refused(checkpoints, tmp_path):
    from safetensors.torch import load_file, save_file

    for file in checkpoints["qwen3_vl"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    lost = weights.pop(sorted(weights)[-1])
    save_file(weights | {"extra.weight": lost}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"missing_keys: .*unexpected_keys: extra\.weight"):
        load_vlm(tmp_path)


@pytest.fixture
def adapter(checkpoints, tmp_path):
    """A folder with an adapter whose base stands beside it, and the adapted model."""
    shutil.copytree(checkpoints["qwen3_vl"], tmp_path / "base")
    model = load_vlm(tmp_path / "base", device="cpu").model
    # Seeded, since float32 is just exact enough: the weights must not depend on earlier tests.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj", "qkv"]))
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.2)
    adapted.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", adapted


def rename_base(folder, name):
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = name
    (folder / "adapter_config.json").write_text(json.dumps(config))


def logits(model, chat):
    with torch.no_grad():
        return model(**chat.batch(REQUESTS[:1])).logits


@pytest.mark.numeric
@pytest.mark.parametrize("where", ["as it was saved", "beside", "deeper"])
def test_an_adapter_is_loaded_as_its_base_with_the_adapter_merged_in(adapter, where, checkpoints):
    folder, adapted = adapter
    if where == "deeper":
        folder = folder.rename(folder.parent / "base" / "adapter")
    if where != "as it was saved":
        rename_base(folder, {"beside": "../base", "deeper": ".."}[where])
    loaded = load_vlm(folder, device="cpu")
    base = load_vlm(checkpoints["qwen3_vl"], device="cpu")
    wanted = logits(adapted, loaded.chat)
    assert torch.allclose(logits(loaded.model, loaded.chat), wanted, atol=rounding(wanted))
    assert not torch.allclose(logits(base.model, base.chat), wanted, atol=1e-2)
    assert set(loaded.model.state_dict()) == set(base.model.state_dict())
    assert loaded.name == str(folder)


@pytest.mark.numeric
def test_an_adapter_on_an_adapter_has_both(adapter):
    folder, _ = adapter
    first = load_vlm(folder, device="cpu")
    second = peft.get_peft_model(first.model, peft.LoraConfig(target_modules=["o_proj"]))
    second.save_pretrained(folder.parent / "second")
    loaded = load_vlm(folder.parent / "second", device="cpu")
    wanted = logits(load_vlm(folder, device="cpu").model, first.chat)
    assert torch.allclose(logits(loaded.model, loaded.chat), wanted, atol=rounding(wanted))


def test_the_processor_of_an_adapter_comes_before_that_of_its_base(adapter):
    folder, _ = adapter
    base = folder.parent / "base"
    processor = load_vlm(base, device="cpu", max_pixels=32 * 32).chat.processor
    processor.save_pretrained(folder)
    (base / "processor_config.json").unlink()
    size = load_vlm(folder, device="cpu").chat.processor.image_processor.size
    assert size["longest_edge"] == 32 * 32


def test_a_pickled_adapter_is_refused(adapter):
    folder, _ = adapter
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"no adapter_model.safetensors, and pickled weights are"):
        load_vlm(folder)


def test_an_adapter_that_does_not_fit_is_refused(adapter):
    from safetensors.torch import load_file, save_file

    folder, _ = adapter
    weights = load_file(folder / "adapter_model.safetensors")
    lost = sorted(weights)[-1]
    weights["base_model.model.extra.weight"] = weights.pop(lost)
    save_file(weights, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"base .*missing_keys: .*unexpected_keys: .*extra.weight"):
        load_vlm(folder)
    save_file({lost: torch.zeros(1, 1)}, folder / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="size mismatch for base_model"):
        load_vlm(folder)
    (folder / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelError, match="does not fit its base"):
        load_vlm(folder)


@pytest.mark.parametrize(
    ("named", "result"),
    [
        ("/gone/base", "base '/gone/base', which is not another folder"),
        ("../gone", "base '../gone', which is not another folder"),
        ("../adapter", "base '../adapter', which is not another folder"),
        ("", "base '', which is not another folder"),
        (None, "names no base_model_name_or_path: TypeError"),
        ("gone/base", "gone/base cannot be loaded"),
    ],
)
def test_an_adapter_whose_base_is_missing_names_it(adapter, named, result):
    rename_base(adapter[0], named)
    with pytest.raises(ModelError, match=re.escape(result)):
        load_vlm(adapter[0])


def test_adapters_that_are_the_bases_of_one_another_are_refused(tmp_path):
    for name, base in (("a", "../b"), ("b", "../a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_model.safetensors").touch()
        config = json.dumps({"base_model_name_or_path": base})
        (tmp_path / name / "adapter_config.json").write_text(config)
    with pytest.raises(ModelError, match="has itself below its base"):
        load_vlm(tmp_path / "a")


def test_a_path_without_a_folder_is_told_as_such(tmp_path):
    with pytest.raises(ModelError, match=r"gone cannot be loaded .*: there is no such folder"):
        load_vlm(tmp_path / "gone")


def test_an_adapter_that_is_no_json_is_an_error(adapter):
    (adapter[0] / "adapter_config.json").write_text("no JSON")
    with pytest.raises(ModelError, match=r"adapter_config.json names no base_model_name_or_path"):
        load_vlm(adapter[0])


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_vlm(tmp_path)


def test_remote_code_is_never_run(checkpoints, tmp_path):
    for file in checkpoints["qwen3_vl"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoModelForImageTextToText": "evil.Evil"}
    config["model_type"] = "evil"
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text("open('ran', 'w').write('x')\nclass Evil: pass\n")
    with pytest.raises(ModelError):
        load_vlm(tmp_path)
