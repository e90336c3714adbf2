"""Stages run once, again when what they depend on changed, and never from foreign leftovers."""

import json
from dataclasses import replace

import pytest
import yaml

from unified_reward._config import load_config
from unified_reward.bench.showcase import Showcase
from unified_reward.card import Calibration
from unified_reward.data.microworld import CELLS, write_microworld
from unified_reward.judge import load
from unified_reward.pipeline import CalibrationItems, MicroworldBench, Recipe, run
from unified_reward.train.judge import JudgeTraining
from unified_reward.train.optim import Optimisation
from unified_reward.types import ConfigError, Task


pytestmark = pytest.mark.slow


def run_told(recipe):
    """The report, and which stages were done and which were skipped."""
    told = []
    report = run(recipe, told.append)
    stages = [line for line in told if not line.startswith("open ")]
    skipped = {line.partition(":")[0] for line in stages if "done before" in line}
    return report, {line.partition(":")[0] for line in stages} - skipped, skipped


@pytest.fixture(scope="module")
def recipe(checkpoints, tmp_path_factory):
    optim = Optimisation(steps=2, batch_size=2, accumulate=1, lr=1e-2)
    judge = JudgeTraining(optim, base=str(checkpoints["qwen3_vl"]), family="compact", frames=2)
    out = tmp_path_factory.mktemp("run")
    return Recipe(out, judge=judge, bench=MicroworldBench(n=4), showcase=Showcase(each=1))


@pytest.fixture(scope="module")
def first(recipe):
    return run_told(recipe)


def losses_of(recipe):
    return run(recipe)["judge"]["losses"]


def test_the_report_has_one_figure_for_every_cell(recipe, first):
    report = json.loads((recipe.out / "report.json").read_text("utf-8"))
    assert report == json.loads(json.dumps(first[0]))
    for cell in CELLS:
        figure = report[f"judge.{cell}"]
        assert set(figure) == {"value", "ci95", "n"}
        assert len(figure["ci95"]) == 2
        assert figure["n"] <= 4
    assert len(report["judge"]["losses"]) == 2
    assert (recipe.out / "report.html").is_file()


def test_every_stage_keeps_its_configuration_and_its_environment(recipe, first):
    assert first[1] == {"judge", "bench", "showcase"}
    for stage in first[1]:
        assert "torch" in json.loads((recipe.out / stage / "environment.json").read_text("utf-8"))
    written = yaml.safe_load((recipe.out / "judge" / "config.yaml").read_text("utf-8"))
    file = recipe.out / "again.yaml"
    file.write_text(yaml.safe_dump({"out": str(recipe.out), "judge": written}))
    assert load_config(Recipe, file).judge == recipe.judge


def test_a_second_run_skips_every_stage_and_reports_the_same(recipe, first):
    report, done, skipped = run_told(recipe)
    assert (done, skipped) == (set(), {"judge", "bench", "showcase"})
    assert report == json.loads(json.dumps(first[0]))


def test_a_changed_stage_is_done_again_with_those_that_stand_on_it(recipe, first):
    asked = replace(recipe, bench=MicroworldBench(n=3, seed=1))
    report, done, skipped = run_told(asked)
    assert (done, skipped) == ({"bench", "showcase"}, {"judge"})
    assert (report["bench"]["n"], report["bench"]["seed"]) == (24, 1)
    faster = replace(recipe.judge, optim=replace(recipe.judge.optim, lr=2e-2))
    _, done, skipped = run_told(replace(asked, judge=faster, showcase=None))
    assert (done, skipped) == ({"judge", "bench"}, set())


def only_judge(recipe, out, **changes):
    optim = replace(recipe.judge.optim, **changes)
    return Recipe(out, judge=replace(recipe.judge, optim=optim))


def test_checkpoints_of_another_configuration_are_no_place_to_go_on_from(recipe, tmp_path):
    saving = only_judge(recipe, tmp_path / "one", save_every=1)
    slower = only_judge(recipe, tmp_path / "one", save_every=1, lr=1e-4)
    fresh = only_judge(recipe, tmp_path / "other", save_every=1, lr=1e-4)
    losses_of(saving)
    assert (tmp_path / "one" / "judge" / "checkpoints" / "checkpoint-2").is_dir()
    assert losses_of(slower) == losses_of(fresh)


def test_a_killed_run_goes_on_from_its_own_checkpoint(recipe, tmp_path, monkeypatch):
    """Killed while the weights are written: the last checkpoint is that of the last step."""
    saving = only_judge(recipe, tmp_path, save_every=1)
    monkeypatch.setattr("unified_reward.card.Card.write", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(saving)
    monkeypatch.undo()
    assert not (tmp_path / "judge" / "report.json").exists()
    state = tmp_path / "judge" / "checkpoints" / "checkpoint-2" / "trainer_state.json"
    before = state.stat().st_mtime_ns
    report, done, _ = run_told(saving)
    assert done == {"judge"}
    assert [step for step, _ in report["judge"]["losses"]] == [1, 2]
    assert state.stat().st_mtime_ns == before


def test_changed_records_train_the_judge_again(recipe, tmp_path):
    def write(seed):
        return write_microworld(
            tmp_path, task=Task.IMAGE_GENERATION, forms=["score"], n=4, seed=seed, split="train"
        )

    judge = replace(recipe.judge, data=str(write(0)))
    asked = Recipe(tmp_path / "run", judge=judge)
    assert run_told(asked)[1] == {"judge"}
    assert run_told(asked)[2] == {"judge"}
    write(1)
    assert run_told(asked)[1] == {"judge"}


def test_a_recipe_without_stages_is_refused(tmp_path):
    with pytest.raises(
        ConfigError, match="names no stage: base, judge, calibration, bench or showcase"
    ):
        run(Recipe(tmp_path))


def test_temperatures_are_fitted_once_and_the_bench_is_of_the_calibrated_judge(recipe, tmp_path):
    asked = replace(recipe, out=tmp_path, calibration=CalibrationItems(n=2), showcase=None)
    report, done, _ = run_told(asked)
    assert done == {"judge", "calibration", "bench"}
    card = load(tmp_path / "judge").card
    fitted = report["calibration"]
    assert card.calibration == Calibration(fitted["compare"], fitted["score"])
    assert fitted["n"] == 2 * len(CELLS)
    assert run_told(asked)[2] == {"judge", "calibration", "bench"}
    again = replace(asked, calibration=CalibrationItems(n=3))
    assert run_told(again)[1] >= {"calibration"}


def test_only_a_judge_of_the_recipe_is_calibrated(tmp_path):
    with pytest.raises(ConfigError, match="the judge that the recipe trains"):
        run(Recipe(tmp_path, calibration=CalibrationItems(n=2)))
