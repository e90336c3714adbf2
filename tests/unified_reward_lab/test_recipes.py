"""Stages run once, again when what they depend on changed, and never from foreign leftovers."""

import json
from argparse import Namespace
from dataclasses import replace

import pytest
import yaml
from typer.testing import CliRunner

from tests.unified_reward.pairs.candidate_files import read_rows
from unified_reward import policies
from unified_reward.cli import app
from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Task
from unified_reward.io.rows import read_examples
from unified_reward.judges.card import Calibration
from unified_reward.judges.registry import open_judge
from unified_reward.pairs.strategies import PairOptions, Strategy
from unified_reward.recipes.run import load_recipe, run
from unified_reward.recipes.stage import Recipe
from unified_reward.recipes.stages import BenchConfig, CalibrationConfig, calibration_examples
from unified_reward.train.dpo import PolicyDPO
from unified_reward.train.dpo_vlm import VLMDPO
from unified_reward.train.judge import JudgeTraining, training_examples
from unified_reward.train.optim import OptimConfig
from unified_reward_lab.alignment import (
    AlignedPolicy,
    AlignmentConfig,
    ExamConfig,
    PreferenceConfig,
)
from unified_reward_lab.examples import CELLS, EDITING, write_microworld
from unified_reward_lab.stages import ShowcaseStage


pytestmark = pytest.mark.slow


def run_stages(recipe):
    """The report, and which stages were done and which were skipped."""
    log = []
    report = run(recipe, log.append)
    stages = [line for line in log if not line.startswith("open ")]
    skipped = {line.partition(":")[0] for line in stages if "already done" in line}
    return report, {line.partition(":")[0] for line in stages} - skipped, skipped


@pytest.fixture(scope="module")
def recipe(checkpoints, tmp_path_factory):
    optim = OptimConfig(steps=2, batch_size=2, accumulate=1, lr=1e-2)
    base = str(checkpoints["qwen3_vl"])
    judge = JudgeTraining(optim, base, data="microworld", family="compact", frames=2)
    stages = {"judge": judge, "bench": benchmark(4), "showcase": ShowcaseStage(each=1)}
    return Recipe(tmp_path_factory.mktemp("run"), stages)


def benchmark(n, **options):
    return BenchConfig("microworld", limit=n, **options)


def changed(recipe, out=None, /, **stages):
    """The recipe with other stages; None leaves one out."""
    named = {name: config for name, config in (recipe.stages | stages).items() if config}
    order = ("judge", "calibration", "bench", "align", "dpo", "showcase")
    return Recipe(out or recipe.out, {name: named[name] for name in order if name in named})


@pytest.fixture(scope="module")
def first(recipe):
    return run_stages(recipe)


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
    assert load_recipe(file).stages == {"judge": recipe.stages["judge"]}


def test_a_second_run_skips_every_stage_and_reports_the_same(recipe, first):
    report, done, skipped = run_stages(recipe)
    assert (done, skipped) == (set(), {"judge", "bench", "showcase"})
    assert report == json.loads(json.dumps(first[0]))


def test_a_changed_stage_is_done_again_with_those_that_stand_on_it(recipe, first):
    other = changed(recipe, bench=benchmark(3, seed=1))
    report, done, skipped = run_stages(other)
    assert (done, skipped) == ({"bench", "showcase"}, {"judge"})
    assert (report["bench"]["n"], report["bench"]["seed"]) == (24, 1)
    judge = recipe.stages["judge"]
    faster = replace(judge, optim=replace(judge.optim, lr=2e-2))
    _, done, skipped = run_stages(changed(other, judge=faster, showcase=None))
    assert (done, skipped) == ({"judge", "bench"}, set())


def only_judge(recipe, out, **changes):
    judge = recipe.stages["judge"]
    return Recipe(out, {"judge": replace(judge, optim=replace(judge.optim, **changes))})


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
    monkeypatch.setattr("unified_reward.judges.card.Card.write", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(saving)
    monkeypatch.undo()
    assert not (tmp_path / "judge" / "report.json").exists()
    state = tmp_path / "judge" / "checkpoints" / "checkpoint-2" / "trainer_state.json"
    before = state.stat().st_mtime_ns
    report, done, _ = run_stages(saving)
    assert done == {"judge"}
    assert [step for step, _ in report["judge"]["losses"]] == [1, 2]
    assert state.stat().st_mtime_ns == before


def test_changed_records_train_the_judge_again(recipe, tmp_path):
    def write(seed):
        return write_microworld(
            tmp_path, task=Task.IMAGE_GENERATION, forms=["score"], n=4, seed=seed, split="train"
        )

    judge = replace(recipe.stages["judge"], data=str(write(0)))
    on_file = Recipe(tmp_path / "run", {"judge": judge})
    assert run_stages(on_file)[1] == {"judge"}
    assert run_stages(on_file)[2] == {"judge"}
    write(1)
    assert run_stages(on_file)[1] == {"judge"}


def test_a_judge_is_not_trained_over_its_own_base(recipe, first):
    made = recipe.out / "judge"
    weights = (made / "model.safetensors").read_bytes()
    for taken in ({"base": str(made)}, {"data": str(made / "records.jsonl")}):
        again = changed(recipe, judge=replace(recipe.stages["judge"], **taken))
        with pytest.raises(
            ConfigError, match=r"overwrite its own input .*judge.*another folder than out="
        ):
            run(again)
    assert (made / "model.safetensors").read_bytes() == weights
    assert (made / "report.json").exists()


def test_a_recipe_without_stages_is_refused(tmp_path):
    stages = "judge, calibration, bench, dpo, grpo, align, base, generator, showcase, speaker"
    with pytest.raises(ConfigError, match=f"names no stage; there are {stages}$"):
        run(Recipe(tmp_path, {}))


def test_temperatures_are_fitted_once_on_what_was_taught(recipe, tmp_path):
    judge = replace(recipe.stages["judge"], data_options={"cells": dict.fromkeys(EDITING, 1.0)})
    calibration = CalibrationConfig(n=2)
    calibrated = changed(recipe, tmp_path, judge=judge, calibration=calibration, showcase=None)
    report, done, _ = run_stages(calibrated)
    assert done == {"judge", "calibration", "bench"}
    card = open_judge(str(tmp_path / "judge")).card
    fitted = report["calibration"]
    n = 2 * len(EDITING)
    source = "new items of microworld"
    assert card.calibration == Calibration(fitted["compare"], fitted["score"], source, n)
    assert run_stages(calibrated)[2] == {"judge", "calibration", "bench"}
    again = changed(calibrated, calibration=CalibrationConfig(n=3))
    assert run_stages(again)[1] >= {"calibration"}


def test_only_a_judge_of_the_recipe_is_calibrated(tmp_path):
    with pytest.raises(ConfigError, match="the judge that the recipe trains"):
        run(Recipe(tmp_path, {"calibration": CalibrationConfig(n=2)}))


@pytest.fixture
def own_rows(tmp_path):
    """A file of a user's own examples, of both forms."""
    return write_microworld(
        tmp_path / "own",
        task=Task.IMAGE_GENERATION,
        forms=["score", "compare"],
        n=24,
        seed=0,
        split="train",
    )


def test_a_judge_of_own_data_is_calibrated_on_rows_held_back_from_it(recipe, own_rows, tmp_path):
    """Half of the prompts train; the others, and no item of the microworld, fit the card."""
    judge = replace(recipe.stages["judge"], data=str(own_rows), held_back=0.5)
    run(Recipe(tmp_path / "run", {"judge": judge, "calibration": CalibrationConfig()}))
    rows = [row.content for row in read_examples(own_rows)]
    trained = training_examples(judge)
    left = {trained[i].id for i in range(len(trained))}
    held_back, _ = calibration_examples(CalibrationConfig(), judge)
    kept = {example.id for example in held_back}
    assert left | kept == {row.id for row in rows}
    assert not left & kept
    assert min(len(left), len(kept)) >= 4
    fitted = open_judge(str(tmp_path / "run" / "judge")).card.calibration
    assert (fitted.data, fitted.n) == (f"0.5 of {own_rows}, held back", len(kept))


def test_made_pairs_teach_a_judge(recipe, own_rows, tmp_path):
    """Rows of one candidate make no pair; the twelve others are learned in either order."""
    made = tmp_path / "pairs.jsonl"
    options = ["--judge", "scripted:first", "--strategy", "random"]
    assert CliRunner().invoke(app, ["pairs", str(own_rows), str(made), *options]).exit_code == 1
    judge = replace(recipe.stages["judge"], data=str(made))
    report = run(Recipe(tmp_path / "run", {"judge": judge}))
    assert len(report["judge"]["losses"]) == 2
    trained = training_examples(judge)
    assert len(trained) == 12
    assert {trained[i].target.winner for i in range(12)} == {"first", "second"}


def test_a_judge_that_is_trained_again_is_calibrated_again(recipe, own_rows, tmp_path):
    judge = replace(recipe.stages["judge"], data=str(own_rows), held_back=0.5)
    stages = {"judge": judge, "calibration": CalibrationConfig()}
    run(Recipe(tmp_path / "run", stages))
    run(Recipe(tmp_path / "run", stages | {"judge": replace(judge, frames=3)}))
    assert open_judge(str(tmp_path / "run" / "judge")).card.calibration is not None


def test_a_judge_of_own_data_is_calibrated_on_a_file_of_its_own(recipe, own_rows, tmp_path):
    other = write_microworld(
        tmp_path / "other",
        task=Task.IMAGE_GENERATION,
        forms=["score", "compare"],
        n=8,
        seed=1,
        split="train",
    )
    judge = replace(recipe.stages["judge"], data=str(own_rows))
    calibration = CalibrationConfig(data=str(other), n=6)
    run(Recipe(tmp_path / "run", {"judge": judge, "calibration": calibration}))
    fitted = open_judge(str(tmp_path / "run" / "judge")).card.calibration
    assert (fitted.data, fitted.n) == (str(other), 6)


@pytest.mark.parametrize("data", ["", "the same"])
def test_a_calibration_without_examples_of_its_own_is_refused(recipe, own_rows, tmp_path, data):
    judge = replace(recipe.stages["judge"], data=str(own_rows))
    calibration = CalibrationConfig(data=str(own_rows) if data else "")
    with pytest.raises(ConfigError, match=r"set judge\.held_back to the share of rows"):
        run(Recipe(tmp_path / "run", {"judge": judge, "calibration": calibration}))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("order", [["calibration"], ["calibration", "judge"]])
def test_a_calibration_without_a_judge_stage_before_it_is_refused(recipe, tmp_path, order):
    stages = {"calibration": CalibrationConfig(), "judge": recipe.stages["judge"]}
    with pytest.raises(ConfigError, match="put a judge stage before"):
        run(Recipe(tmp_path / "run", {name: stages[name] for name in order}))


def test_a_benchmark_of_no_items_is_refused():
    with pytest.raises(ConfigError, match=r"bench\.limit is at least 1, not 0"):
        benchmark(0)


SPOKEN = Task.IMAGE_UNDERSTANDING
STAGES = {f"{SPOKEN.value}/{entry}" for entry in ("candidates", "pairs", "dpo", "exam")}


def aligning(out, **changes):
    """A tiny policy aligned by the tiny judge, on pairs of the best and the worst of two."""
    optim = OptimConfig(steps=2, batch_size=2, accumulate=1, lr=1e-2, lora_rank=2)
    config = AlignmentConfig(
        {SPOKEN: AlignedPolicy("tiny_vlm", vlm=VLMDPO(optim))},
        "tiny_judge",
        PreferenceConfig(prompts=4, n=2, pairing=PairOptions(Strategy.SCORE)),
        ExamConfig(n=4),
    )
    return Recipe(out, {"align": replace(config, **changes)})


def of(stages, *names):
    return {f"{SPOKEN.value}/{name}" for name in names} == stages


@pytest.fixture(scope="module")
def aligned(tmp_path_factory):
    """A finished run that the tests change; its recipe and its log."""
    recipe = aligning(tmp_path_factory.mktemp("aligned"))
    return recipe, run_stages(recipe)


def test_an_alignment_has_four_stages_and_four_figures_on_top(aligned):
    recipe, (result, done, _) = aligned
    assert done == STAGES
    report = json.loads((recipe.out / "report.json").read_text("utf-8"))
    assert report == json.loads(json.dumps(result))
    exam = report[f"{SPOKEN.value}/exam"]
    for side in ("before", "after"):
        figures = {f"dpo.{SPOKEN.value}.{side}": "oracle"}
        figures |= {f"dpo.{SPOKEN.value}.judge_reward.{side}": "judge_reward"}
        for name, kind in figures.items():
            assert set(report[name]) == {"value", "ci95", "n"}
            assert report[name] == exam[side][kind]
            assert report[name]["n"] == 4
            low, high = report[name]["ci95"]
            assert 0 <= low <= report[name]["value"] <= high <= 1
    gained = exam["after"]["oracle"]["value"] - exam["before"]["oracle"]["value"]
    assert exam["gain"]["value"] == pytest.approx(gained)


def test_every_stage_of_an_alignment_keeps_its_configuration(aligned):
    folder = aligned[0].out / SPOKEN.value
    for stage in STAGES:
        assert (aligned[0].out / stage / "environment.json").is_file()
    written = yaml.safe_load((folder / "candidates" / "config.yaml").read_text("utf-8"))
    assert written["policy"] == "tiny_vlm"
    assert written["preferences"]["prompts"] == 4
    assert SPOKEN in policies.load(folder / "dpo", device="cpu").tasks
    rows = read_rows(folder / "pairs" / "pairs.jsonl")
    kept = [row for row in rows if row["status"] == "kept"]
    assert kept
    assert all(row["chosen_score"] > row["rejected_score"] for row in kept)


def test_a_second_alignment_skips_every_stage(aligned):
    recipe, (result, _, _) = aligned
    report, done, skipped = run_stages(recipe)
    assert (done, skipped) == (set(), STAGES)
    assert report == json.loads(json.dumps(result))


def test_another_exam_is_taken_by_the_policies_that_are_there(aligned):
    _, done, skipped = run_stages(aligning(aligned[0].out, exam=ExamConfig(n=3)))
    assert of(done, "exam")
    assert skipped == STAGES - done


def test_a_changed_option_of_dpo_redoes_dpo_and_the_exam_alone(aligned):
    recipe = aligned[0]
    entry = recipe.stages["align"].policies[SPOKEN]
    left = recipe.out / SPOKEN.value / "dpo" / "left.txt"
    left.write_text("of the other configuration")
    other = replace(entry, vlm=replace(entry.vlm, beta=0.3))
    _, done, skipped = run_stages(aligning(recipe.out, policies={SPOKEN: other}))
    assert of(done, "dpo", "exam")
    assert skipped == STAGES - done
    assert not left.exists()


def test_candidates_of_another_seed_leave_nothing_of_the_old_ones(aligned):
    recipe = aligned[0]
    folder = recipe.out / SPOKEN.value / "candidates"
    settings = replace(recipe.stages["align"].preferences, prompts=3, seed=7)
    _, done, _ = run_stages(aligning(recipe.out, preferences=settings))
    assert done >= {f"{SPOKEN.value}/candidates", f"{SPOKEN.value}/pairs"}
    wanted = [f"{SPOKEN.value}-brief-train-7-{i}" for i in range(3)]
    assert [row["id"] for row in read_rows(folder / "candidates.jsonl")] == wanted
    assert [row["id"] for row in read_rows(folder.parent / "pairs" / "pairs.jsonl")] == wanted
    visible = {row["context"][0]["image"] for row in read_rows(folder / "candidates.jsonl")}
    assert {f"media/{file.name}" for file in (folder / "media").iterdir()} == visible


def test_candidates_of_a_killed_run_are_gone_on_with(aligned, tmp_path):
    recipe = aligning(tmp_path)
    run_stages(recipe)
    folder = tmp_path / SPOKEN.value / "candidates"
    whole = (folder / "candidates.jsonl").read_bytes()
    first = whole[: whole.index(b"\n") + 1]
    (folder / "candidates.jsonl").write_bytes(first.replace(b'"generated"', b'"generated" '))
    (folder / "report.json").unlink()
    run_stages(recipe)
    rows = (folder / "candidates.jsonl").read_bytes()
    assert rows == whole.replace(first, first.replace(b'"generated"', b'"generated" '))


def test_a_calibrated_judge_makes_other_pairs(recipe, tmp_path):
    """The temperatures stand in the card, not in the weights."""
    align = replace(aligning(tmp_path).stages["align"], judge="")
    whole = changed(recipe, tmp_path, bench=None, showcase=None, align=align)
    run_stages(whole)
    _, done, skipped = run_stages(changed(whole, calibration=CalibrationConfig(n=2)))
    assert skipped >= {"judge", f"{SPOKEN.value}/candidates"}
    assert done >= {"calibration", f"{SPOKEN.value}/pairs"}


def test_the_page_shows_policies_before_and_after(aligned, recipe, tmp_path):
    align = replace(aligned[0].stages["align"], judge="")
    run_stages(changed(recipe, tmp_path, align=align, bench=None))
    page = (tmp_path / "report.html").read_text("utf-8")
    for words in ("Image understanding: aligned by the judge", "judge reward, after", "worth "):
        assert words in page


def test_the_stage_of_one_policy_makes_a_policy(aligned, tmp_path):
    pairs = tmp_path / "pairs.jsonl"
    source = aligned[0].out / SPOKEN.value / "pairs" / "pairs.jsonl"
    rows = read_rows(source)
    for row in rows:
        for entry in row["context"]:
            entry["image"] = str((source.parent / entry["image"]).resolve())
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = aligned[0].stages["align"].policies[SPOKEN].vlm
    aligning_one = Recipe(tmp_path / "run", {"dpo": PolicyDPO("tiny_vlm", pairs, settings)})
    report, done, _ = run_stages(aligning_one)
    assert done == {"dpo"}
    assert report["dpo"]["pairs"] == report["dpo"]["rows"]["kept"]
    assert run_stages(aligning_one)[2] == {"dpo"}
    pairs.write_text(json.dumps(next(row for row in rows if row["status"] == "kept")) + "\n")
    report, done, _ = run_stages(aligning_one)
    assert (done, report["dpo"]["pairs"]) == ({"dpo"}, 1)


def test_align_is_refused_under_several_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "unified_reward_lab.stages.PartialState", lambda: Namespace(num_processes=2)
    )
    with pytest.raises(ConfigError, match="align runs in one process"):
        run(Recipe(tmp_path, {"align": AlignmentConfig({})}))
