"""Families that another distribution adds by an entry point."""

import pytest

from unified_reward import prompts
from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Image, Sample, Task
from unified_reward.prompts.template import Template


IG = Task.IMAGE_GENERATION
MODULE = """
from unified_reward.core.samples import Task
from unified_reward.core.verdicts import Scale
from unified_reward.prompts.template import Family, Template

TERSE = Family("terse", verdict_first=True)
TEMPLATES = [
    Template(TERSE, Task.IMAGE_GENERATION, "score", "⟪media⟫⟪prompt⟫: 0-9?", scale=Scale(0, 9, 1))
]
OTHERS = [Template(Family("other"), Task.IMAGE_GENERATION, "score", "⟪media⟫")]
"""
ENTRY_POINTS = """[unified_reward.families]
terse = terse_family:TEMPLATES
misnamed = terse_family:OTHERS
lonely = terse_family:TERSE
broken = terse_family:NOTHING
"""


@pytest.fixture(autouse=True)
def distribution(tmp_path, monkeypatch):
    """A distribution installed for the test, as pip would lay it out."""
    (tmp_path / "terse_family.py").write_text(MODULE, "utf-8")
    info = tmp_path / "terse_family-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: terse-family\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    prompts._added_templates.cache_clear()
    yield
    prompts._added_templates.cache_clear()


def test_an_added_family_asks_and_reads_like_a_built_in_one():
    assert prompts.family("terse").verdict_first
    template = prompts.template("terse", IG, "score")
    assert isinstance(template, Template)
    sample = Sample(IG, "a cube", (Image("a.png"),))
    request = template.request(sample, lambda medium: [medium.source])
    assert request.parts == ("a.pnga cube: 0-9?",)
    assert template.parse("7").score.normalized == pytest.approx(7 / 9)


def test_a_form_that_an_added_family_lacks_is_an_error():
    with pytest.raises(ConfigError, match="'terse' has no compare template for image_generation"):
        prompts.template("terse", IG, "compare")


def test_an_unknown_family_is_told_the_added_ones():
    with pytest.raises(ConfigError, match=r"no family .tense.; there are aspects, .*, terse, th"):
        prompts.template("tense", IG, "score")


@pytest.mark.parametrize("name", ["misnamed", "lonely"])
def test_an_entry_point_that_is_no_family_of_its_name_is_refused(name):
    with pytest.raises(ConfigError, match=f"list or tuple of Template of a family named '{name}'"):
        prompts.family(name)


def test_a_broken_distribution_is_named():
    with pytest.raises(ConfigError, match="'broken' comes with terse-family, which fails to load"):
        prompts.family("broken")
