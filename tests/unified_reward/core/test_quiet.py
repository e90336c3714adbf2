"""Warnings are silent while a block is open, and as before afterwards, in threads too."""

import sys
import threading
import warnings

import pytest

from unified_reward.core.quiet import quiet_warnings


@pytest.fixture(autouse=True)
def no_warn_options(monkeypatch):
    monkeypatch.setattr(sys, "warnoptions", [])


def test_blocks_of_two_threads_that_overlap_leave_warnings_as_they_were(recwarn):
    """The first to open is the first to close, in which order catch_warnings loses the filters."""
    opened, closed = threading.Event(), threading.Event()

    def first():
        with quiet_warnings():
            warnings.warn("of the first", stacklevel=1)
            opened.set()
            closed.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    opened.wait(10)
    with quiet_warnings():
        closed.set()
        thread.join()
        warnings.warn("while the second is open", stacklevel=1)
    warnings.warn("afterwards", stacklevel=1)
    assert [str(each.message) for each in recwarn] == ["afterwards"]


def test_many_blocks_in_many_threads_end_with_none_open(recwarn):
    def work():
        for _ in range(100):
            with quiet_warnings():
                warnings.warn("meanwhile", stacklevel=1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    warnings.warn("afterwards", stacklevel=1)
    assert [str(each.message) for each in recwarn] == ["afterwards"]


def test_filters_of_a_library_that_is_imported_meanwhile_do_not_show_its_warnings():
    with warnings.catch_warnings():
        with quiet_warnings():
            warnings.simplefilter("error")
        with quiet_warnings():
            warnings.warn("meanwhile", stacklevel=1)
        with pytest.raises(UserWarning, match="afterwards"):
            warnings.warn("afterwards", stacklevel=1)


def test_warnings_that_the_user_asks_for_are_shown_unless_all_are_hidden(monkeypatch, recwarn):
    monkeypatch.setattr(sys, "warnoptions", ["always"])
    with quiet_warnings():
        warnings.warn("meanwhile", stacklevel=1)
    with quiet_warnings(always=True):
        warnings.warn("hidden all the same", stacklevel=1)
    assert [str(each.message) for each in recwarn] == ["meanwhile"]
