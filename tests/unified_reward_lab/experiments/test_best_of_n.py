"""Controls whose curves are known, the estimator against all subsets, and the command."""

import io
import json
import math
from itertools import combinations, pairwise

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from unified_reward.cli import app
from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.samples import Task
from unified_reward.core.verdicts import Failed, Scale, Score, Scored, Unparsed
from unified_reward_lab.experiments import best_of_n as experiment
from unified_reward_lab.experiments.best_of_n import (
    BestOfNStudy,
    page,
    pick_probabilities,
    plot,
    run,
)
from unified_reward_lab.microworld import candidate_pool, true_utilities
from unified_reward_lab.microworld.items import TASKS


UNIT, OPEN = Scale(0.0, 1.0), Scale(None, None)
N, CAPTIONS = 8, 12
NOISE = np.random.default_rng(0)


class ByUtility(BaseJudge):
    """Scores, or says nothing, by a rule that sees the true utility."""

    name = "by utility"
    family = "native"

    def __init__(self, truth, rule):
        self._utility = {record.sample.id: record.target.score for record in truth}
        self._rule = rule

    def ask(self, samples, *, orders=2):
        texts = [self._rule(self._utility[sample.id]) for sample in samples]
        return [
            Scored(Score(entry, UNIT)) if isinstance(entry, float) else entry for entry in texts
        ]


RULES = {
    "inverted": lambda utility: 1.0 - utility,
    "constant": lambda _: 0.25,
    "noise": lambda _: float(NOISE.random()),
    "open": lambda utility: Scored(Score(10 * utility, OPEN)),
    "aspects": lambda utility: Scored(
        None, {"one": Score(1 + 4 * utility, Scale(1, 5)), "two": Score(1.0, Scale(1, 5))}
    ),
    "shy": lambda utility: Unparsed("?") if utility > 0.5 else utility,
    "lost": lambda utility: Failed("gone") if utility > 0.5 else utility,
    "empty": lambda _: Scored(None),
}


@pytest.fixture
def rules(monkeypatch):
    """Judges by the name of a rule."""

    def opened(reference, *, truth):
        return ByUtility(truth, RULES[reference])

    monkeypatch.setattr(experiment, "open_reference", opened)


def measured(reference, **options):
    config = BestOfNStudy({"it": reference}, n=N, captions=CAPTIONS, **options)
    report = run(config)
    return report["judges"]["it"], report


def values(curve):
    return [figure["value"] for figure in curve]


def utilities(task=Task.IMAGE_GENERATION):
    """True utilities, shape (captions, n)."""
    pools = [candidate_pool(task, n=N, split="test", seed=0, index=i) for i in range(CAPTIONS)]
    return np.array([true_utilities(pool) for pool in pools])


@pytest.mark.parametrize("task", TASKS)
def test_the_perfect_judge_picks_as_the_oracle_and_never_falls(task):
    judge, report = measured("scripted:perfect", task=task)
    assert judge["gold"] == judge["proxy"] == report["oracle"]
    gold = values(judge["gold"])
    assert gold == sorted(gold)
    assert gold[0] == pytest.approx(utilities(task).mean())
    assert gold[-1] == pytest.approx(utilities(task).max(axis=1).mean())
    nothing = {"value": 0.0, "ci95": [0.0, 0.0], "n": CAPTIONS}
    assert (judge["gap"], judge["fall"]) == (nothing, nothing)
    assert (judge["peak"], report["task"]) == (N, task.value)


@pytest.mark.usefixtures("rules")
def test_the_inverted_judge_s_gold_falls_to_the_worst_while_its_proxy_rises():
    """The best of all by 1 - u is the worst by u; the best of one is the mean."""
    judge, _ = measured("inverted")
    gold, proxy = values(judge["gold"]), values(judge["proxy"])
    assert all(later < earlier for earlier, later in pairwise(gold))
    assert proxy == pytest.approx([1 - entry for entry in gold])
    mean, worst, best = (f(utilities(), axis=1).mean() for f in (np.mean, np.min, np.max))
    assert (gold[0], gold[-1]) == pytest.approx((mean, worst))
    assert judge["gap"]["value"] == pytest.approx(best - worst)
    assert judge["fall"]["value"] == pytest.approx(worst - mean)
    assert judge["fall"]["ci95"][1] < 0
    assert judge["peak"] == 1


@pytest.mark.usefixtures("rules")
def test_the_constant_judge_stays_at_the_mean():
    """All candidates share every pick, so the gold of any n is the mean of the utilities."""
    judge, _ = measured("constant")
    assert values(judge["gold"]) == pytest.approx([utilities().mean()] * 4)
    assert values(judge["proxy"]) == pytest.approx([0.25] * 4)
    assert judge["fall"]["value"] == pytest.approx(0)


@pytest.mark.usefixtures("rules")
def test_noise_raises_the_proxy_and_not_the_gold():
    """The best of 8 uniform scores is 8/9 on average; the gold of a random pick is the mean."""
    judge, _ = measured("noise")
    assert values(judge["proxy"])[-1] == pytest.approx(8 / 9, abs=0.08)
    low, high = judge["gold"][-1]["ci95"]
    assert low < utilities().mean() < high


@pytest.mark.usefixtures("rules")
def test_an_open_score_is_taken_as_it_is_and_aspects_by_their_mean():
    """Aspects: u and 0 on [0, 1], so the mean is u / 2."""
    for reference, factor in (("open", 10), ("aspects", 0.5)):
        judge, report = measured(reference)
        assert judge["gold"] == report["oracle"]
        expected = [factor * entry for entry in values(report["oracle"])]
        assert values(judge["proxy"]) == pytest.approx(expected)


@pytest.mark.usefixtures("rules")
@pytest.mark.parametrize(("reference", "counted"), [("shy", "n_unparsed"), ("lost", "n_failed")])
def test_candidates_without_a_score_are_counted_and_never_picked(reference, counted):
    """The others are scored by their utility, so the best of all is the best at most 0.5."""
    judge, report = measured(reference)
    true = utilities()
    lost = true > 0.5
    counts = {"n_unparsed": 0, "n_failed": 0} | {counted: int(lost.sum())}
    assert {key: judge[key] for key in counts} == counts
    assert {key: report[key] for key in counts} == counts
    able = ~lost.all(axis=1)
    seen = np.where(lost, -1, true)[able].max(axis=1)
    assert judge["gold"][-1]["value"] == pytest.approx(seen.mean())
    assert judge["gold"][-1]["n"] == able.sum()
    assert judge["gap"]["value"] == pytest.approx((true[able].max(axis=1) - seen).mean())
    assert report["oracle"][-1]["value"] == pytest.approx(true.max(axis=1).mean())


@pytest.mark.usefixtures("rules")
def test_a_judge_without_any_score_has_no_figures_and_is_still_shown():
    judge, report = measured("empty")
    assert judge["n_unparsed"] == N * CAPTIONS
    assert values(judge["gold"]) == [None] * 4
    assert (judge["fall"]["value"], judge["peak"]) == (None, None)
    assert "| it | gold | - | - | - | - |" in page(report)
    assert plot(report).startswith(b"\x89PNG")


def brute_force(scores, golds, n):
    """Mean over all subsets of the mean gold of the subset's best."""
    means = []
    for pools in combinations(range(len(scores)), n):
        best = max(scores[i] for i in pools)
        means.append(np.mean([golds[i] for i in pools if scores[i] == best]))
    return np.mean(means)


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1)), min_size=1, max_size=7), st.data())
def test_the_estimator_is_the_mean_over_all_subsets(rated, data):
    scores, golds = zip(*rated, strict=True)
    n = data.draw(st.integers(1, len(rated)))
    weights = pick_probabilities(scores, n)
    assert weights.sum() == pytest.approx(1)
    assert weights @ np.array(golds) == pytest.approx(brute_force(scores, golds, n))


@pytest.mark.parametrize("n", [0, 3])
def test_more_than_there_are_cannot_be_drawn(n):
    with pytest.raises(ValueError, match=f"n must be from 1 to 2, given {n}"):
        pick_probabilities([0.1, 0.2], n)


def test_the_report_is_plain_json_with_the_divergence_of_every_step():
    """log n - (n - 1) / n: 0, 0.1931, 0.6363, 1.2044."""
    steps = []
    config = BestOfNStudy({"a": "scripted:tie", "b": "scripted:random"}, n=N, captions=2)
    report = run(config, steps.append)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert sum(steps) == config.total == 2 * 2 * N
    assert [step["n"] for step in report["steps"]] == [1, 2, 4, 8]
    kls = [0, math.log(2) - 1 / 2, math.log(4) - 3 / 4, math.log(8) - 7 / 8]
    assert [step["kl"] for step in report["steps"]] == pytest.approx(kls)
    assert list(report["judges"]) == ["a", "b"]
    assert values(report["judges"]["a"]["proxy"]) == [0.5] * 4


def test_another_seed_draws_other_candidates():
    entry, other = (measured("scripted:perfect", seed=seed)[1]["oracle"] for seed in (0, 1))
    assert entry != other


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"judges": {}}, "best of n needs a judge"),
        ({"judges": {"a|b": ""}}, r"names of judges have letters.*given 'a\|b'"),
        ({"task": Task.IMAGE_EDITING}, "the microworld has no image_editing; it has"),
        ({"n": 48}, "n must be a power of two >= 2, given 48"),
        ({"n": 1}, "n must be a power of two >= 2, given 1"),
        ({"captions": 1}, "captions must be at least 2 for an interval, given 1"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        BestOfNStudy(**options)


def test_the_page_tells_protocol_and_figures():
    judge, report = measured("scripted:perfect", seed=3)
    text = page(report)
    assert text.startswith("## Best of 8\n")
    assert "12 held-out prompts of `image_generation` with 8 candidates each (seed 3)" in text
    gold = judge["gold"][-1]
    low, high = gold["ci95"]
    steps = f"{gold['value']:.3f} ({low:.3f} to {high:.3f}) |"
    assert sum(line.endswith(steps) for line in text.splitlines()) == 3
    assert "| it | 0.000 (0.000 to 0.000) | 0.000 (0.000 to 0.000) | 8 | 0 | 0 |" in text


def test_the_plot_has_a_panel_a_judge():
    sizes = []
    for judges in ({"a": "scripted:tie"}, {"a": "scripted:tie", "b": "scripted:random"}):
        report = run(BestOfNStudy(judges, n=2, captions=2))
        sizes.append(PIL.Image.open(io.BytesIO(plot(report))).size)
    (entry, height), (two, same) = sizes
    assert two - entry == 480  # 3.2 inches at 150 dots
    assert height == same


OPTIONS = ["judges={fair: scripted:perfect}", "n=4", "captions=2"]
MARKED = "# Results\n\n<!-- begin best_of_n -->\nold\n<!-- end best_of_n -->\n\nmore\n"


def test_the_command_writes_three_files_and_splices_the_page(tmp_path):
    document = tmp_path / "results.md"
    document.write_text(MARKED, "utf-8")
    out = tmp_path / "out"
    requests = ["experiment", "best_of_n", str(out), *OPTIONS, "--page", str(document)]
    result = CliRunner().invoke(app, requests)
    assert result.exit_code == 0
    assert {entry.name for entry in out.iterdir()} == {"report.json", "page.md", "best_of_n.png"}
    report = json.loads((out / "report.json").read_text("utf-8"))
    assert (report["n"], report["captions"], list(report["judges"])) == (4, 2, ["fair"])
    section = (out / "page.md").read_text("utf-8")
    assert section == page(report)
    assert document.read_text("utf-8") == MARKED.replace("old\n", section)
    assert (out / "best_of_n.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_ends_with_1_where_a_score_is_missing(tmp_path):
    requests = [
        "experiment",
        "best_of_n",
        str(tmp_path),
        "judges={a: scripted:silent}",
        *OPTIONS[1:],
    ]
    assert CliRunner().invoke(app, requests).exit_code == 1
    assert json.loads((tmp_path / "report.json").read_text("utf-8"))["n_unparsed"] == 8


def test_the_command_refuses_a_page_without_markers_before_it_asks_anybody(tmp_path):
    document = tmp_path / "results.md"
    document.write_text("# Results\n", "utf-8")
    out = tmp_path / "out"
    requests = ["experiment", "best_of_n", str(out), *OPTIONS, "--page", str(document)]
    result = CliRunner().invoke(app, requests)
    assert isinstance(result.exception, DataError)
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["captoins=3"], "captoins: Unexpected keyword argument"),
        (["n=5"], "n must be a power of two"),
    ],
)
def test_the_command_names_what_is_wrong(options, message, tmp_path):
    result = CliRunner().invoke(app, ["experiment", "best_of_n", str(tmp_path), *options])
    assert isinstance(result.exception, ConfigError)
    assert message in str(result.exception)


def test_the_command_refuses_a_file_as_folder(tmp_path):
    file = tmp_path / "out"
    file.touch()
    result = CliRunner().invoke(app, ["experiment", "best_of_n", str(file), *OPTIONS])
    assert "out/report.json cannot be written" in str(result.exception)
