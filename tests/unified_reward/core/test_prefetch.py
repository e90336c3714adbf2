"""Windows of prepared values: each key once, one window ahead, nothing kept behind."""

import threading
import time

import pytest

from unified_reward.core.prefetch import prefetch


def test_each_window_has_its_keys_and_one_that_two_windows_share_is_prepared_once():
    prepared = []

    def prepare(key):
        prepared.append(key)
        return key * 10

    windows = [(1, 2), (2, 3), (4,)]
    for window, values in zip(windows, prefetch(windows, prepare), strict=True):
        assert {key: values[key] for key in window} == {key: key * 10 for key in window}
    assert sorted(prepared) == [1, 2, 3, 4]


def test_the_next_window_is_prepared_in_threads_and_the_one_after_it_is_not():
    prepared, main = set(), threading.get_ident()

    def prepare(key):
        assert threading.get_ident() != main
        prepared.add(key)

    windows = prefetch([(0,), (1,), (2,)], prepare)
    next(windows)
    deadline = time.monotonic() + 10
    while 1 not in prepared and time.monotonic() < deadline:
        time.sleep(0.001)
    assert prepared == {0, 1}
    next(windows)
    windows.close()


def test_values_of_a_window_that_is_done_are_dropped_unless_they_are_cached():
    windows = [(0, 1), (1, 2), (3,)]
    sizes = [len(values) for values in prefetch(windows, str)]
    assert sizes == [2, 2, 1]
    cache = {0: "before"}
    list(prefetch(windows, str, cache))
    assert cache == {0: "before", 1: "1", 2: "2", 3: "3"}


def test_an_error_is_raised_where_its_window_is_needed():
    windows = prefetch([(1,), (0,)], lambda key: 1 // key)
    assert next(windows) == {1: 1}
    with pytest.raises(ZeroDivisionError):
        next(windows)


def test_no_window_prepares_nothing():
    assert list(prefetch([], str)) == []
