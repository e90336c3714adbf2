"""Batches of similar sizes, and the search for the item that breaks one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unified_reward.backends.batching import MAX_PADDING, batches, bisect_failures
from unified_reward.core.verdicts import Failed


def padding(sizes, batch):
    longest = max(sizes[i] for i in batch)
    return sum(longest - sizes[i] for i in batch)


@given(st.lists(st.integers(1, 2000), max_size=40), st.integers(1, 16), st.sampled_from([1, 4000]))
def test_batches_hold_every_item_once_and_bound_size_and_padding(sizes, most, tokens):
    found = list(batches(sizes, most, tokens))
    assert sorted(i for batch in found for i in batch) == list(range(len(sizes)))
    for batch in found:
        assert len(batch) <= most
        assert padding(sizes, batch) <= MAX_PADDING
        assert len(batch) == 1 or len(batch) * max(sizes[i] for i in batch) <= tokens


def test_items_of_very_different_sizes_are_not_padded_to_each_other():
    assert list(batches([10, 10 + MAX_PADDING, 11 + MAX_PADDING], 16)) == [[0, 1], [2]]
    assert list(batches([10, 11 + MAX_PADDING], 16)) == [[0], [1]]


@pytest.mark.parametrize("kind", [ValueError, RuntimeError, OverflowError, IndexError, TypeError])
def test_the_item_that_breaks_a_batch_fails_alone(kind):
    def double(items):
        if 3 in items:
            raise kind("three")
        return [item * 2 for item in items]

    assert bisect_failures([1, 2, 3, 4, 5], double, "m") == [
        *(2, 4, Failed("m could not answer: three"), 8, 10)
    ]
