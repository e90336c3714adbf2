"""Frame indices of every rule."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unified_reward.core.errors import ConfigError, MediaError
from unified_reward.media import frame_indices


RULES = ("linspace_inclusive", "span_centres", "stride_floor")


@pytest.mark.parametrize(
    ("n_frames", "count", "rule", "expected"),
    [
        # linspace: i * (n - 1) / (count - 1), cut off. 15 / 7 = 2.14.
        (16, 8, "linspace_inclusive", (0, 2, 4, 6, 8, 10, 12, 15)),
        (16, 1, "linspace_inclusive", (0,)),
        (3, 8, "linspace_inclusive", (0, 0, 0, 0, 1, 1, 1, 2)),
        (1, 3, "linspace_inclusive", (0, 0, 0)),
        # centres: (i + 0.5) * n / count, cut off.
        (16, 8, "span_centres", (1, 3, 5, 7, 9, 11, 13, 15)),
        (16, 1, "span_centres", (8,)),
        (3, 8, "span_centres", (0, 0, 0, 1, 1, 2, 2, 2)),
        # floors: i * n / count, cut off.
        (16, 8, "stride_floor", (0, 2, 4, 6, 8, 10, 12, 14)),
        (17, 4, "stride_floor", (0, 4, 8, 12)),
        (3, 8, "stride_floor", (0, 0, 0, 1, 1, 1, 2, 2)),
    ],
)
def test_rules_agree_with_tables_made_by_hand(n_frames, count, rule, expected):
    assert frame_indices(n_frames, count, rule) == expected


@given(st.integers(1, 5000), st.integers(1, 300), st.sampled_from(RULES))
def test_indices_are_sorted_in_range_and_as_few_repeats_as_can_be(n_frames, count, rule):
    indices = frame_indices(n_frames, count, rule)
    assert len(indices) == count
    assert all(0 <= i < n_frames for i in indices)
    assert all(i <= j for i, j in pairwise(indices))
    if count > 1:
        assert len(set(indices)) == min(n_frames, count)


def test_sampling_nothing_or_by_no_rule_is_refused():
    with pytest.raises(MediaError, match="without frames"):
        frame_indices(0, 8, "stride_floor")
    with pytest.raises(ConfigError, match="cannot sample 0 frames"):
        frame_indices(8, 0, "stride_floor")
    with pytest.raises(ConfigError, match="no frame rule 'middle'; there are linspace_inclusive"):
        frame_indices(8, 1, "middle")
