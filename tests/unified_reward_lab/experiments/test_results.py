"""The pages in docs/results.md are what the code makes of the reports beside it."""

import json
from pathlib import Path

import pytest

from unified_reward_lab.experiments import (
    alignment_page,
    annotators,
    best_of_n,
    evaluation_page,
    exam,
    gate,
    joint_learning,
    reinforcement_page,
    sifting,
    think,
    trust,
    votes,
    voting_page,
)
from unified_reward_lab.experiments.page import split_at_section


DOCS = Path(__file__).parents[3] / "docs"
PAGES = {
    "alignment": alignment_page.page,
    "annotators": annotators.page,
    "best_of_n": best_of_n.page,
    "evaluation": evaluation_page.page,
    "exam": exam.page,
    "gate": gate.page,
    "joint_learning": joint_learning.page,
    "reinforcement": reinforcement_page.page,
    "sifting": sifting.page,
    "think": think.page,
    "trust": trust.page,
    "votes": votes.page,
    "voting": voting_page.page,
}


@pytest.mark.parametrize("name", PAGES)
def test_results_are_what_the_code_makes_of_the_committed_report(name):
    document = DOCS / "results.md"
    before, behind = split_at_section(document, name)
    section = document.read_text("utf-8")[len(before) : -len(behind)]
    report = json.loads((DOCS / "results" / f"{name}.json").read_text("utf-8"))
    assert section.strip() == PAGES[name](report).strip()
