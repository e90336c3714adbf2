"""Lengths of prompts are those of the tokenizer's own cut."""

import pytest

from tests.unified_reward.policies import pipelines
from unified_reward.policies.prompt_lengths import Length, prompt_lengths


def read(tokenizer, text, limit, **named):
    return tokenizer(text, truncation=True, max_length=limit, **named)


@pytest.mark.parametrize(
    ("letters", "overflow"), [(6, None), (7, Length(9, 8)), (20, Length(22, 8))]
)
def test_a_prompt_that_is_cut_overflows(letters, overflow):
    """A letter is a token, and two more are its ends."""
    with prompt_lengths() as lengths:
        read(pipelines.tokenizer(), "a" * letters, 8)
    assert lengths.overflow() == overflow


def test_a_prompt_that_one_of_the_tokenizers_reads_to_its_end_does_not_overflow():
    short, long = pipelines.tokenizer(), pipelines.tokenizer()
    with prompt_lengths() as lengths:
        read(short, "a" * 10, 8)
        read(long, ["a" * 10, ""], 12)
    assert lengths.overflow() is None
    with prompt_lengths() as lengths:
        read(short, "a" * 11, 8)
        read(long, ["a" * 11], 12)
    assert lengths.overflow() == Length(13, 12), "the longest that is read"


def test_the_longest_text_of_a_tokenizer_counts():
    tokenizer = pipelines.tokenizer()
    with prompt_lengths() as lengths:
        read(tokenizer, "a" * 10, 8)
        read(tokenizer, "", 8)
    assert lengths.overflow() == Length(12, 8)


def test_without_special_tokens_none_is_counted():
    with prompt_lengths() as lengths:
        read(pipelines.tokenizer(), "a" * 9, 8, add_special_tokens=False)
    assert lengths.overflow() == Length(9, 8)


def test_texts_that_are_not_cut_have_no_limit_and_tokenizers_are_as_before():
    kind = type(pipelines.tokenizer())
    call = kind.__call__
    with prompt_lengths() as lengths:
        found = pipelines.tokenizer()("a" * 50).input_ids
    assert lengths.overflow() is None
    assert len(found) == 52
    assert kind.__call__ is call
