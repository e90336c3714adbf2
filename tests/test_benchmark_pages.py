"""The sections about speed in docs/results.md are what the code makes of the reports beside it."""

import pytest

from benchmarks.pages import DOCS, SECTIONS, reports, section
from unified_reward_lab.experiments.page import split_at_section


@pytest.mark.parametrize("name", SECTIONS)
def test_speeds_are_what_the_code_makes_of_the_committed_report(name):
    document = DOCS / "results.md"
    before, behind = split_at_section(document, name)
    written = document.read_text("utf-8")[len(before) : -len(behind)]
    report = reports().get(name)
    assert written.strip() == (section(name, report).strip() if report else "")
