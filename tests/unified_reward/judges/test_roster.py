"""`describe`: tasks, ranges, aspects, licences and revisions, read before a judge is asked."""

import json

import pytest

import unified_reward as ur
from tests.verdicts import Says
from unified_reward.core.base_judge import BaseJudge
from unified_reward.io.fingerprints import folder_revision
from unified_reward.judges.card import Card
from unified_reward.judges.checklist import CARDS, ChecklistJudge
from unified_reward.judges.generative import GenerativeJudge
from unified_reward.scorers.checklists import Checklist, Question


BOTH = ["score", "compare"]


def facts(judge):
    """The description after it was JSON, with every entry of the base class."""
    described = json.loads(json.dumps(judge.describe(), allow_nan=False))
    assert described["name"] == judge.name
    assert described["higher_is_better"] is True
    assert described.keys() >= BaseJudge.describe(judge).keys()
    return described


def test_a_generative_judge_has_the_tasks_and_scales_of_its_family(tiny):
    described = facts(tiny)
    assert described["kind"] == "generative"
    assert described["architecture"] == described["model"]["architecture"]
    assert described["tasks"]["video_generation"] == {
        "forms": BOTH,
        "scale": [1, 10],
        "aspects": {},
    }
    assert described["tasks"].keys() == {*ur.Task}
    assert described["revision"] == folder_revision(tiny.folder)
    assert described["licence"] == {"code": None, "weights": None}


def test_tasks_and_aspects_follow_from_the_templates_of_a_family():
    aspects, flex = (facts(GenerativeJudge(Says(None), Card(x))) for x in ("aspects", "flex"))
    assert aspects["tasks"]["image_editing"] == {
        "forms": BOTH,
        "scale": None,
        "aspects": {name: [0, 25] for name in ("success", "preservation", "naturalness")},
    }
    assert flex["tasks"].keys() == {"image_generation", "video_generation"}
    assert flex["tasks"]["image_generation"]["forms"] == ["compare"]
    assert flex["revision"] is None


def test_a_scalar_judge_scores_from_0_to_1():
    described = facts(ur.open_judge("tiny_scalar"))
    assert described["kind"] == described["head"] == "scalar"
    assert described["tasks"]["image_generation"]["scale"] == [0, 1]
    assert described["tasks"]["image_generation"]["forms"] == BOTH
    assert described["architecture"]


def test_a_control_and_a_table_have_kinds_of_their_own(tmp_path):
    file = tmp_path / "votes.csv"
    file.write_text("id,winner\na,first\n")
    control, votes = facts(ur.open_judge("scripted:tie")), facts(ur.open_judge(f"table:{file}"))
    assert (control["kind"], votes["kind"]) == ("scripted", "table")
    assert control["tasks"]["image_understanding"]["scale"] == [0, 100]
    assert votes["tasks"]["image_understanding"]["forms"] == ["compare"]
    file.write_text("id,value\na,3\n")
    scores = facts(ur.open_judge(f"table:{file}"))
    assert scores["tasks"]["image_understanding"]["forms"] == BOTH
    assert scores["revision"] != votes["revision"]


def test_a_checklist_has_the_range_of_its_card_and_its_questions_as_aspects():
    checklist = Checklist(CARDS["checklist-image"], [Question("Is it bright? ", 2.0)])
    described = facts(ChecklistJudge(checklist, Says(None)))
    (task,) = described["tasks"].values()
    assert described["kind"] == "checklist"
    assert task["scale"] == pytest.approx([-2.5369, 4.8912], abs=1e-4)
    assert task["aspects"] == {"Is it bright?": [0, 1]}
    assert described["licence"]["code"] == "Apache-2.0"


def test_the_commit_of_a_cached_hub_folder_is_its_revision(tmp_path):
    folder = tmp_path / "models--org--name" / "snapshots" / "0123abc"
    folder.mkdir(parents=True)
    assert folder_revision(folder) == "0123abc"
    (tmp_path / "weights.bin").write_bytes(b"1")
    before = folder_revision(tmp_path)
    (tmp_path / "weights.bin").write_bytes(b"22")
    assert folder_revision(tmp_path) != before
