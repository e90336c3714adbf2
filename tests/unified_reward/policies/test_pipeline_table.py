"""The table of docs/reference/pipelines.md: each cell is measured again."""

import pytest

from tests.diffusion import FAMILIES, PIPELINES, census, examine, table
from tests.diffusion.examine import Row
from unified_reward.core.errors import ModelError


PARTIAL = Row("yes", "no", "-", "-", "outputs are not rebuilt")


def test_the_census_names_classes_of_diffusers():
    assert not census.unknown()


def test_deprecated_pipelines_are_outside():
    found = census.text_pipelines()
    assert found["StableDiffusionSAGPipeline"] == "deprecated by diffusers after 0.33.1"
    assert found["AltDiffusionPipeline"] == "deprecated by diffusers"
    assert found["FluxControlPipeline"] == "needs a control image"
    assert found["FluxPipeline"] == ""


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("FluxPipeline schnell", "text to image"),
        ("WanPipeline", "text to video"),
        ("Flux2Pipeline", "text to image, image editing"),
        ("QwenImageEditPipeline", "image editing"),
        ("AnyFlowPipeline", "text to video"),
    ],
)
def test_tasks_are_those_of_the_signature(name, task):
    assert table.task(name) == task


def test_a_table_that_was_written_is_read(monkeypatch, tmp_path):
    monkeypatch.setattr(table, "PAGE", tmp_path / "pipelines.md")
    rows = table.rows(lambda name: PARTIAL)
    table.write(rows)
    assert table.read() == rows
    assert {name.partition(" ")[0] for name in [*census.text_pipelines(), *PIPELINES]} == {
        title.split("`")[1] for title in rows
    }


def test_a_refusal_is_a_cell_with_its_reason(monkeypatch):
    def refuse(pipeline, tiny):
        raise ModelError("its outputs are a | b")

    monkeypatch.setattr(examine, "CHECKS", {"dpo": refuse, "merged_adapters": lambda *_: False})
    row = examine.examine("StableDiffusionPipeline")
    assert row == Row("-", "no", "-", "wrong", "its outputs are a / b")


def test_every_pipeline_inside_has_a_tiny_one():
    assert not census.missing()


def test_the_table_lists_every_pipeline():
    rows = table.rows(lambda name: PARTIAL)
    written = table.read()
    assert written.keys() == rows.keys()
    measured = {table.title(name) for name in PIPELINES}
    assert {title: row for title, row in written.items() if title not in measured} == {
        title: row for title, row in rows.items() if title not in measured
    }


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n not in FAMILIES)) for n in PIPELINES],
)
def test_cells_of_a_pipeline_are_measured_again(name):
    assert table.cells(name, examine.examine(name)) == table.read()[table.title(name)]
