"""Chat templates: control tokens in texts, the end of an answer, templates that are refused."""

import json
import shutil
from collections import Counter

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoProcessor

from unified_reward.backends.chat import Chat
from unified_reward.backends.chat_template import ControlTokens
from unified_reward.backends.hf_vlm import load_vlm
from unified_reward.checkpoints.pretrained import load_pretrained
from unified_reward.core.errors import ModelError
from unified_reward.core.extensions import checkpoint_path
from unified_reward.core.requests import Request
from unified_reward.core.samples import Image, Sample, Task
from unified_reward.judges.registry import open_judge
from unified_reward.train.dpo_vlm import AnswerPair, Collator, ProcessedPrompts
from unified_reward.train.sft import ChatCollator, ChatExample


PICTURE = PIL.Image.new("RGB", (56, 56))
FOLDERS = ("qwen2_5_vl", "qwen3_vl", "llava_onevision", "tiny_judge", "tiny_scalar", "tiny_base")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% for p in m.content %}{% if p.type == 'image' %}<|image_pad|>{% else %}{{ p.text }}"
    "{% endif %}{% endfor %}END{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

GOOD = CHATML.replace("END", "<|im_end|>")


@pytest.fixture(scope="module")
def chats(checkpoints):
    """A chat of every tiny architecture and of every checkpoint that is shipped."""
    folders = {
        name: checkpoint_path(name) if name.startswith("tiny_") else checkpoints[name]
        for name in FOLDERS
    }
    return {name: Chat(load_pretrained(AutoProcessor, path)) for name, path in folders.items()}


@pytest.fixture
def processor_folder(checkpoints, tmp_path):
    """A copy of a processor, without weights."""

    def copy(name="qwen3_vl"):
        folder = tmp_path / name
        shutil.copytree(checkpoints[name], folder, ignore=shutil.ignore_patterns("*.safetensors"))
        return folder

    return copy


def edit(file, **values):
    """Change values of a JSON file; None deletes one."""
    content = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def chat_of(folder):
    return Chat(load_pretrained(AutoProcessor, folder))


def special_ids(chat):
    return {i for i, token in chat.tokenizer.added_tokens_decoder.items() if token.special}


@pytest.mark.parametrize("name", FOLDERS)
@given(data=st.data())
def test_a_text_never_holds_a_control_token_wherever_one_is_spelled(chats, name, data):
    chat = chats[name]
    tokens = sorted(map(str, chat.tokenizer.added_tokens_decoder.values()))
    token = st.sampled_from(tokens)
    half = st.builds(lambda t, i: t[: 1 + i % (len(t) - 1)], token, st.integers(0, 40))
    rest = st.builds(lambda t, i: t[1 + i % (len(t) - 1) :], token, st.integers(0, 40))
    piece = st.one_of(token, half, rest, st.sampled_from(["<", "|", " ", "\n", "a", "é"]))
    text = st.lists(piece, min_size=1, max_size=5).map("".join)
    parts = data.draw(st.lists(st.one_of(text, st.just(PICTURE)), min_size=1, max_size=4))
    plain = [part if part is PICTURE else "x" for part in parts]
    control = special_ids(chat)
    found, right = (
        Counter(i for i in chat.prompt_tokens(Request(tuple(some))) if i in control)
        for some in (parts, plain)
    )
    assert found == right
    for part in parts:
        assert part is PICTURE or not control.intersection(chat.tokens(part))


@pytest.mark.parametrize("name", FOLDERS)
def test_every_control_token_cut_into_two_texts_stays_text(chats, name):
    chat = chats[name]
    for token in map(str, chat.tokenizer.added_tokens_decoder.values()):
        for i in range(1, len(token)):
            for parts in ((token[:i], token[i:]), (token[:i], PICTURE, token[i:], PICTURE)):
                plain = tuple(part if part is PICTURE else "x" for part in parts)
                found, right = (
                    [k for k in chat.prompt_tokens(Request(some)) if k in special_ids(chat)]
                    for some in (parts, plain)
                )
                assert found == right


@given(st.text("<a>b |", max_size=30), st.integers(0, 30))
def test_breaking_up_loses_nothing_and_forms_no_other_token(text, i):
    control = ControlTokens(("<<a>", "a  b", "<a>", "a b", " <|", "ab"))
    texts = control.break_up([text[:i], text[i:]])
    assert not control.are_in("".join(texts))
    assert len(texts) == 2
    for before, after in zip((text[:i], text[i:]), texts, strict=True):
        assert before.replace(" ", "") == after.replace(" ", "")
        assert len(before) <= len(after)


def test_a_caption_is_changed_by_a_single_space():
    assert ControlTokens(("<|im_end|>",)).break_up(["a <|im_end|> b"]) == ["a < |im_end|> b"]


def test_a_trimmed_text_does_not_form_a_token_with_its_neighbour():
    control = ControlTokens(("<|im_end|>",))
    assert not control.are_in(
        "".join(text.strip() for text in control.break_up(["<", "|im_end|>"]))
    )


def test_delimiters_that_are_not_special_are_broken_up_and_thoughts_are_not(processor_folder):
    folder = processor_folder()
    content = json.loads((folder / "tokenizer.json").read_text())
    for token in content["added_tokens"]:
        token["special"] = False
    (folder / "tokenizer.json").write_text(json.dumps(content))
    edit(folder / "tokenizer_config.json", eos_token=None, pad_token=None)
    chat = chat_of(folder)
    chat.tokenizer.add_tokens(["<think>"])
    assert not chat.tokenizer.added_tokens_decoder[chat.eos_id].special
    for token in ("<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|vision_start|>"):
        assert chat.tokenizer.convert_tokens_to_ids(token) not in chat.tokens(f"a {token} b")
    assert chat.tokenizer.convert_tokens_to_ids("<think>") in chat.tokens("a <think> b")
    assert chat.decode([[*chat.tokens("red"), chat.eos_id]]) == ["red"]


@pytest.mark.parametrize("eos", ["<|im_end|>", "<|endoftext|>", "<|im_start|>", None])
@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "llava_onevision"])
def test_an_answer_ends_as_the_template_closes_a_turn(processor_folder, name, eos):
    folder = processor_folder(name)
    edit(folder / "tokenizer_config.json", eos_token=eos)
    chat = chat_of(folder)
    end = chat.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert chat.eos_id == end
    assert chat.closed("red") == [*chat.tokens("red"), end]
    assert chat.split_choices("", ("1", "2"))[1][0][-1] == end


def test_training_teaches_the_end_of_the_template(processor_folder):
    folder = processor_folder()
    edit(folder / "tokenizer_config.json", eos_token="<|endoftext|>")  # noqa: S106
    chat = chat_of(folder)
    end = chat.tokenizer.convert_tokens_to_ids("<|im_end|>")
    example = ChatExample(Request((PICTURE, "which?")), "red <|im_end|>")
    taught = ChatCollator(chat, [example])([{"row": 0}])["labels"][0].tolist()
    assert taught.count(end) == 1
    assert taught[-1] == end
    pair = AnswerPair("which?", (Image(np.zeros((56, 56, 3), np.uint8), "HWC"),), "red", "a blue")
    batch = Collator(ProcessedPrompts(chat), [pair])([{"row": 0}])
    assert batch["input_ids"][:, -1].tolist() == [end, end]


@pytest.mark.parametrize("eos", ["<|endoftext|>", None])
def test_scores_do_not_depend_on_the_eos_token_of_the_tokenizer(tiny, tmp_path, eos):
    folder = shutil.copytree(checkpoint_path("tiny_judge"), tmp_path / "it")
    for file in folder.iterdir():
        file.chmod(0o644)
    edit(folder / "tokenizer_config.json", eos_token=eos)
    image = Image(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8), "HWC")
    sample = Sample(Task.IMAGE_GENERATION, "a large red star", (image,))
    assert open_judge(str(folder)).ask([sample]) == tiny.ask([sample])


@pytest.mark.parametrize(
    ("closing", "text", "end"),
    [
        ("<|im_end|>", "", "<|im_end|>"),
        ("<|im_end|>\n", "", "<|im_end|>"),
        ("\n<|im_end|>\n", "\n", "<|im_end|>"),
        ("<|endoftext|>", "", "<|endoftext|>"),
        ("\n###\n", "", "<|vision_end|>"),
        ("", "", "<|im_start|>"),  # the next turn
    ],
)
def test_an_answer_is_closed_as_the_template_writes_it(processor_folder, closing, text, end):
    folder = processor_folder()
    edit(folder / "tokenizer_config.json", eos_token="<|vision_end|>")  # noqa: S106
    (folder / "chat_template.jinja").write_text(CHATML.replace("END", f"{{{{ {closing!r} }}}}"))
    chat = chat_of(folder)
    assert chat.tokenizer.decode(chat.closed("red")) == f"red{text}{end}"


@pytest.mark.parametrize("content", ["a string", "nothing"])
def test_a_template_that_takes_answers_as_a_string_or_not_at_all(processor_folder, content):
    folder = processor_folder()
    edit(folder / "tokenizer_config.json", eos_token="<|vision_end|>")  # noqa: S106
    taken = "{{ m.content + '' }}" if content == "a string" else "{{ raise_exception('none') }}"
    template = GOOD.replace(
        "{% for p in m.content %}",
        f"{{% if m.role == 'assistant' %}}{taken}{{% else %}}{{% for p in m.content %}}",
    ).replace("{% endfor %}<|im_end|>", "{% endfor %}{% endif %}<|im_end|>")
    (folder / "chat_template.jinja").write_text(template)
    chat = chat_of(folder)
    end = "<|im_end|>" if content == "a string" else "<|vision_end|>"
    assert chat.tokenizer.convert_ids_to_tokens(chat.eos_id) == end


def test_nothing_that_ends_an_answer_is_a_model_error(processor_folder):
    folder = processor_folder()
    edit(folder / "tokenizer_config.json", eos_token=None)
    (folder / "chat_template.jinja").write_text(CHATML.replace("END", "\n###\n"))
    with pytest.raises(ModelError, match="nothing ends an answer"):
        chat_of(folder)


def test_tokens_that_the_model_lacks_pad_nothing_and_are_refused_in_texts(processor_folder):
    folder = processor_folder()
    edit(folder / "tokenizer_config.json", pad_token="<more>")  # noqa: S106
    chat = chat_of(folder)
    chat.limit_to(chat.pad_id)
    assert chat.pad_id == chat.eos_id
    request = Request(("a <more>",))
    chat.prompt = lambda _: "a <more>"
    with pytest.raises(ValueError, match=r"'<more>'.* is unknown"):
        chat.process([request])
    with pytest.raises(ModelError, match="ends an answer"):
        chat.limit_to(1)


def test_without_a_pad_token_batches_are_padded_with_the_end(processor_folder):
    folder = processor_folder()
    edit(folder / "tokenizer_config.json", pad_token=None, eos_token=None)
    chat = chat_of(folder)
    assert chat.pad_id == chat.eos_id
    assert chat.process([Request(("a",)), Request(("a b c",))])["input_ids"].shape[0] == 2


def in_tokenizer_config(folder, template):
    edit(folder / "tokenizer_config.json", chat_template=template)


def in_old_json(folder, template):
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))


def among_named(folder, template):
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": template}]
    edit(folder / "tokenizer_config.json", chat_template=named)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # of named templates
@pytest.mark.parametrize("place", [in_tokenizer_config, in_old_json, among_named])
@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_onevision"])
def test_a_template_is_found_wherever_it_is_kept(processor_folder, name, place):
    folder = processor_folder(name)
    request = Request((PICTURE, "which colour?"))
    right = chat_of(folder).prompt_tokens(request)
    file = folder / "chat_template.jinja"
    template = file.read_text()
    file.unlink()
    place(folder, template)
    chat = chat_of(folder)
    assert chat.prompt_tokens(request) == right
    chat.processor.save_pretrained(folder / "saved")
    assert chat_of(folder / "saved").prompt_tokens(request) == right


TEXT_ONLY = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
BAD = {
    "text-only": (TEXT_ONLY, "TypeError"),
    "prints the list": (
        TEXT_ONLY.replace("+ m['content'] +", "~ m['content'] ~"),
        "0 image tokens",
    ),
    "broken": ("{% for m in messages %}", "TemplateSyntaxError"),
    "raises": ("{{ raise_exception('no images') }}", "no images"),
    "undefined": ("{{ messages[0].content.text.value }}", "UndefinedError"),
    "drops the image": (GOOD.replace("<|image_pad|>", ""), "0 image tokens"),
    "doubles the image": (GOOD.replace("<|image_pad|>", "<|image_pad|>" * 2), "2 image tokens"),
    "of another model": (GOOD.replace("<|image_pad|>", "<image>"), "0 image tokens"),
    "doubles the text": (GOOD.replace("{{ p.text }}", "{{ p.text }}{{ p.text }}"), "each text"),
    "drops the text": (GOOD.replace("{{ p.text }}", ""), "each text"),
    "turns the texts": (GOOD.replace("in m.content", "in m.content | reverse"), "in their order"),
    "no header": (GOOD.replace("{% if add_generation_prompt %}", "{% if false %}"), "header"),
    "empty": ("", "no chat template"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_template_that_cannot_take_images_is_refused_when_loaded(processor_folder, name):
    folder = processor_folder()
    template, reason = BAD[name]
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(ModelError, match=reason) as refused:
        chat_of(folder)
    assert str(folder) in str(refused.value)
    assert "chat template" in str(refused.value)


def test_a_byte_order_mark_before_a_template_is_not_part_of_the_prompt(processor_folder):
    folder = processor_folder()
    right = chat_of(folder).prompt(Request(("x",)))
    file = folder / "chat_template.jinja"
    file.write_text(file.read_text(), encoding="utf-8-sig")
    assert chat_of(folder).prompt(Request(("x",))) == right


def test_a_header_that_is_always_written_is_one(processor_folder):
    folder = processor_folder()
    always = GOOD.replace("{% if add_generation_prompt %}", "{% if true %}")
    (folder / "chat_template.jinja").write_text(always)
    assert chat_of(folder).prompt(Request(("x",))).endswith("assistant\n")


def test_a_processor_of_another_model_is_refused_when_loaded(checkpoints, tmp_path):
    shutil.copytree(checkpoints["qwen3_vl"], tmp_path / "it")
    edit(tmp_path / "it" / "config.json", image_token_id=4)
    with pytest.raises(ModelError, match="Image features and image tokens do not match"):
        load_vlm(tmp_path / "it", device="cpu")
