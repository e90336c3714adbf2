"""The benchmark for a GPU: its dry run, published sizes, and errors that stop nothing else."""

import json

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_parts import card, models
from benchmarks.gpu_parts.run import guarded
from benchmarks.gpu_parts.scorer_files import MAKERS
from unified_reward.scorers import system


BILLIONS = {
    "Qwen2.5-VL-7B": 8.292,
    "Qwen3-VL-8B": 8.767,
    "clip-cosine": 0.428,
    "pickscore": 0.986,
    "hpsv2": 0.986,
    "imagereward": 0.446,
    "hpsv3": 7.750,
    "vqascore": 11.328,
    "videoscore-qwen2-vl": 7.746,
    "videoscore": 8.272,
}
"""Parameters of the released models; scorers without the head that speaks."""


def test_the_dry_run_measures_every_part(tmp_path, capsys):
    out = tmp_path / "gpu.json"
    gpu.main(["--tiny", "--device", "cpu", "--out", str(out), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert json.loads(out.read_text("utf-8")) == report
    assert [*report["parts"]] == [*gpu.PARTS]
    rows = {part: filled["rows"] for part, filled in report["parts"].items()}
    failed = [row for part in rows.values() for row in part if "error" in row]
    assert [row for row in failed if "flash_attn is not installed" not in row["error"]] == []
    assert all(row["ok"] for row in rows["numeric"])
    questions = [row for row in rows["language"] if "candidates" in row["name"]]
    assert len(questions) == 8
    assert all(row["apart"] < 0.02 for row in questions)
    page = gpu.page(report)
    assert page.startswith("## On one GPU\n")
    assert page.count("\n| ---") == 4
    assert "flash_attn is not installed" in page


@pytest.mark.parametrize("name", BILLIONS)
def test_models_have_the_sizes_of_the_released_ones(name, tmp_path):
    with torch.device("meta"):
        if name in models.VLMS:
            from transformers import AutoModelForImageTextToText

            config = models.config_of(name, tiny=False, ids={})
            model = AutoModelForImageTextToText.from_config(
                config, dtype=torch.bfloat16, trust_remote_code=False
            )
        else:
            shapes = MAKERS[name](tmp_path, tiny=False)
            state = {key: torch.empty(shape) for key, shape in shapes.items()}
            model = system(name).skeleton(state, tmp_path)
    found = sum(weight.numel() for weight in model.parameters()) / 1e9
    assert found == pytest.approx(BILLIONS[name], abs=0.001)


def test_a_part_runs_in_a_process_of_its_own_that_ends_with_its_time():
    rows = [*gpu.isolated("card", "cpu", 120.0, tiny=True)]
    assert [row["name"] for row in rows] == [
        "machine",
        "product, bfloat16",
        "product, float32",
        "copy",
    ]
    (late,) = gpu.isolated("card", "cpu", 0.1, tiny=True)
    assert late["error"] == "stopped after its 0 s"


def test_an_error_is_a_row_and_the_other_parts_go_on(monkeypatch):
    def broken(run):
        yield {"name": "first", "seconds": 1.0}
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(card, "measure", broken)
    *_, last = gpu.measure("cpu", ["card"], 10.0, tiny=True)
    assert [row.get("error") for row in last["parts"]["card"]["rows"]] == [
        None,
        "OutOfMemoryError: CUDA out of memory",
    ]

    def absent():
        raise ModuleNotFoundError(name="diffusers")

    row = guarded("a", absent)
    assert row == {"name": "a", "error": "diffusers is not installed: pip install diffusers"}


def test_without_a_gpu_the_command_says_what_the_dry_run_is(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "--tiny --device cpu is the dry run" in capsys.readouterr().err
