"""Chat templates around an answer: reasoning, beginnings of texts, ends of answers."""

import numpy as np
import PIL.Image
import pytest
from transformers import AutoProcessor

from unified_reward.backends.chat import Chat
from unified_reward.checkpoints.pretrained import load_pretrained
from unified_reward.core.errors import ModelError
from unified_reward.core.requests import Request
from unified_reward.core.samples import Image
from unified_reward.train.dpo_vlm import AnswerPair, Collator, ProcessedPrompts
from unified_reward.train.scalar import ScalarCollator, ScalarExample
from unified_reward.train.sft import ChatCollator, ChatExample


PICTURE = PIL.Image.new("RGB", (56, 56), "teal")
REQUEST = Request((PICTURE, "rate picture: "))
THOUGHTLESS = {
    "qwen3_5": "<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "glm46v": "<|assistant|>\n<think></think>\n",
    "kimi_k25": "<|im_assistant|>assistant<|im_middle|><think></think>",
    "minicpmv4_6": "<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "ernie4_5_vl_moe": "\nAssistant: <think>\n\n</think>\n\n",
}
THINKING = "<|im_start|>assistant\n<think>\n"


def chat_of(folder, template=None):
    processor = load_pretrained(AutoProcessor, folder)
    if template is not None:
        processor.chat_template = template
    return Chat(processor)


def turns(header="<|im_start|>assistant\n", answer="{{ text.value }}<|im_end|>\n", prompt=None):
    """A template with its own header of a prompt, or that of an answered turn."""
    return (
        "{%- for m in messages -%}{%- set text = namespace(value='') -%}"
        "{%- if m.content is string -%}{%- set text.value = m.content -%}{%- else -%}"
        "{%- for p in m.content -%}{%- set text.value = text.value ~ "
        "('<|vision_start|><|image_pad|><|vision_end|>' if p.type == 'image' else p.text) -%}"
        "{%- endfor -%}{%- endif -%}"
        "{%- if m.role == 'assistant' -%}" + repr_of(header) + answer + "{%- else -%}"
        "{{ '<|im_start|>user\n' ~ text.value ~ '<|im_end|>\n' }}{%- endif -%}{%- endfor -%}"
        "{%- if add_generation_prompt -%}" + repr_of(header if prompt is None else prompt)
        + "{%- endif -%}"
    )  # fmt: skip


def repr_of(text):
    return "{{ " + repr(text) + " }}"


def prompts_in_training(chat):
    """The prompt of a request in batches of each kind of training, as text."""
    scalar = ScalarCollator(chat, [ScalarExample((REQUEST,), 0.5)])
    sft = ChatCollator(chat, [ChatExample(REQUEST, "red")])
    image = Image(np.asarray(PICTURE), "HWC")
    dpo = Collator(
        ProcessedPrompts(chat), [AnswerPair("rate picture: ", (image,), "red", "a circle")]
    )
    for collator, answers in ((scalar, [""]), (sft, ["red"]), (dpo, ["red", "a circle"])):
        batch = collator([{"row": 0}])
        for row, mask, answer in zip(
            batch["input_ids"], batch["attention_mask"], answers, strict=True
        ):
            n = len(chat.closed(answer)) if answer else 0
            yield chat.tokenizer.decode(row[mask.bool()].tolist()[: -n or None])


@pytest.mark.parametrize("name", THOUGHTLESS)
def test_a_prompt_has_no_reasoning_of_the_model_itself(checkpoints, name):
    chat = chat_of(checkpoints[name])
    end = THOUGHTLESS[name]
    assert chat.prompt(REQUEST).endswith(end)
    assert chat.tokenizer.decode(chat.prompt_tokens(REQUEST)).endswith(end)
    for prompt in prompts_in_training(chat):
        assert prompt.endswith(end)


@pytest.mark.parametrize(
    ("name", "switch"), [("qwen3_5", "enable_thinking"), ("kimi_k25", "thinking")]
)
def test_reasoning_that_is_left_on_is_another_prompt(checkpoints, name, switch):
    chat = chat_of(checkpoints[name])
    content = [{"type": "image"}, {"type": "text", "text": "rate picture: "}]
    for options in ({}, {switch: True}):
        thinking = chat.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, **options
        )
        assert thinking != chat.prompt(REQUEST)
        assert not thinking.endswith(THOUGHTLESS[name])


@pytest.mark.parametrize("name", ["qwen3_5", "glm46v"])
def test_an_answer_may_hold_a_thought_in_the_format_of_its_family(checkpoints, name):
    chat = chat_of(checkpoints[name])
    marks = chat.tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    thought = "<think>a red circle</think>first"
    ids = chat.tokens(thought)
    assert [i for i in ids if i in marks] == marks
    assert chat.decode([ids]) == [thought]


def test_a_thought_that_the_template_always_opens_is_closed_as_before_an_answer(checkpoints):
    template = turns("<|im_start|>assistant\n<think>\n\n</think>\n\n", prompt=THINKING)
    chat = chat_of(checkpoints["qwen3_5"], template)
    assert chat.prompt(REQUEST).endswith(THINKING + "\n</think>\n\n")
    request = Request((PICTURE, "rate"))
    assert chat.prompt_tokens(request) == chat_of(checkpoints["qwen3_5"]).prompt_tokens(request)


def test_a_thought_that_is_never_closed_is_refused(checkpoints):
    with pytest.raises(
        ModelError, match=r"ends a prompt with .*<think>.*not write before an answer"
    ):
        chat_of(checkpoints["qwen3_5"], turns(prompt=THINKING))


def test_a_space_before_an_answer_is_a_part_of_it(checkpoints):
    chat = chat_of(
        checkpoints["qwen3_vl"],
        turns("<|im_start|>assistant:", answer=" {{ text.value }}<|im_end|>"),
    )
    text = "<|im_start|>assistant: first<|im_end|>"
    assert chat.prompt(REQUEST).endswith("<|im_start|>assistant:")
    whole = chat.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert whole[-len(chat.closed("first")) :] == chat.closed("first") == chat.closed(" first")
    assert chat.split_choices("", ("first", "tie"))[1][0][0] == chat.closed("first")[0]


def test_an_answer_ends_where_the_next_turn_begins_if_nothing_else_ends_it(checkpoints):
    chat = chat_of(checkpoints["qwen3_vl"], turns(answer="{{ text.value }}"))
    assert chat.tokenizer.convert_ids_to_tokens(chat.eos_id) == "<|im_start|>"
    for name in ("glm4v", "glm46v", "glm4v_moe"):
        glm = chat_of(checkpoints[name])
        assert glm.tokenizer.convert_ids_to_tokens(glm.eos_id) == "<|user|>"


BEGINNINGS = ["idefics3", "perception_lm", "gemma3", "molmo2", "llava", "mistral3", "qwen3_vl"]


@pytest.mark.parametrize("name", BEGINNINGS)
def test_a_text_begins_once_in_judging_as_in_training(checkpoints, name):
    """Some templates write the token that begins a text, and some tokenizers add it."""
    chat = chat_of(checkpoints[name])
    request = Request(("rate picture: ",))
    judged = [*chat.prompt_tokens(request)]
    trained = chat.batch([request])["input_ids"][0].tolist()
    assert judged == trained
    if name != "qwen3_vl":
        bos = chat.tokenizer.bos_token_id
        assert judged[0] == bos
        assert judged[1] != bos


def test_tokens_of_a_processor_behind_a_prompt_are_refused(checkpoints):
    processor = load_pretrained(AutoProcessor, checkpoints["qwen3_vl"])
    call = type(processor).__call__

    class Ending(type(processor)):
        def __call__(self, *args, **options):
            inputs = call(self, *args, **options)
            inputs["input_ids"] = [[*row, 2] for row in inputs["input_ids"]]
            return inputs

    processor.__class__ = Ending
    with pytest.raises(ModelError, match="does not end a prompt where its chat template does"):
        Chat(processor)
