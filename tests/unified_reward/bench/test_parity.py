"""Published figures come out of published votes and scores; skipped where these are absent."""

import csv
import json
import re
from collections import Counter
from zipfile import ZipFile

import pytest

from unified_reward.bench.benchmark import BenchmarkOptions
from unified_reward.bench.diff import compare_runs
from unified_reward.bench.protocols.genai_bench import four_way_accuracy
from unified_reward.bench.registry import find_benchmark
from unified_reward.bench.run import run_benchmark
from unified_reward.core.samples import Example, Image, Sample, Task
from unified_reward.core.verdicts import Unparsed
from unified_reward.judges.registry import open_reference
from unified_reward.prompts.parse import bracketed_vote


VOTES = {
    "leftvote": "first",
    "rightvote": "second",
    "tievote": "both_good",
    "bothbad_vote": "both_bad",
}
FETV = {"CLIPScore": 0.6975, "CLIPScore-ft": 0.7160, "BLIPScore": 0.7346, "UMTScore": 0.7840}
FETV |= {"Otter-VQA": 0.3395}


def examples(name, folder):
    rows = find_benchmark(name).read_rows(folder, BenchmarkOptions())
    return [row.content for row in rows if isinstance(row.content, Example)]


def benchmark(name, folder, judge, **options):
    truth = examples(name, folder) if judge == "scripted:perfect" else None
    return run_benchmark(
        name, open_reference(judge, truth=truth, opens_media=False), folder, **options
    )


def table(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("id", "candidate", "value"), *rows])
    return f"table:{path}"


def read_vote(text):
    answer = bracketed_vote(str(text))
    return None if isinstance(answer, Unparsed) else answer


@pytest.fixture(scope="module")
def fetv(shared, tmp_path_factory):
    """Reports by metric."""
    scores = json.loads((shared / "fetv/auto_metric_scores.json").read_text("utf-8"))
    folder = tmp_path_factory.mktemp("fetv")
    judges = {
        name: table(
            folder / f"{name}.csv",
            [(f"{i}:{model}", 0, x) for model, each in models.items() for i, x in each.items()],
        )
        for name, models in scores.items()
    }
    return {name: benchmark("fetv", shared / "fetv", judge) for name, judge in judges.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", FETV)
def test_fetv_has_the_published_pair_accuracies(fetv, name):
    """For the 162 strict pairs of alignment whose clips are there; equal scores are wrong."""
    found = fetv[name].report["metrics"]["pair_accuracy"]
    assert (round(found["value"], 4), found["n"]) == (FETV[name], 162)
    assert fetv[name].report["metrics"]["pair_accuracy_all"]["n"] == 3066


@pytest.mark.slow
@pytest.mark.parametrize("name", FETV)
def test_fetv_has_the_published_correlations(fetv, shared, name):
    file = shared / "fetv/published_correlation_alignment.json"
    metrics = fetv[name].report["metrics"]
    found = [round(metrics[kind]["value"], 3) for kind in ("kendall_tau_c", "spearman")]
    assert found == json.loads(file.read_text("utf-8"))[name]
    assert metrics["spearman"]["n"] == 3017


@pytest.mark.slow
def test_two_metrics_of_fetv_are_compared_by_aspect(shared, tmp_path):
    scores = json.loads((shared / "fetv/auto_metric_scores.json").read_text("utf-8"))
    values = {}
    for name in ("Otter-VQA", "UMTScore"):
        rows = [(f"{i}:{m}", 0, x) for m, each in scores[name].items() for i, x in each.items()]
        judge = open_reference(table(tmp_path / f"{name}.csv", rows))
        report = run_benchmark(
            "fetv", judge, shared / "fetv", limit=300, out=tmp_path / name
        ).report
        values[name] = report["groups"]["alignment"]["spearman"]["value"]
    found = compare_runs(tmp_path / "Otter-VQA", tmp_path / "UMTScore")["metrics"]
    row = found["spearman.alignment"]
    assert (row["a"], row["b"]) == (values["Otter-VQA"], values["UMTScore"])
    assert (row["n"], row["ci95"][0] > 0) == (300, True)
    assert "spearman" not in found  # nobody rated the clips as a whole


def test_all_54_cells_of_the_genai_bench_leaderboard_come_out(shared):
    """Also idefics2 on clips, which votes to the letter miss (16.28): it says [[A=B]]."""
    folder = shared / "genai_bench"
    votes = json.loads((folder / "votes_all_models.json").read_text("utf-8"))
    lines = (folder / "genaibench_results.txt").read_text("utf-8").splitlines()
    rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    board = {row[1]: row[3:6] for row in rows if row[2:3] == ["pairwise"]}
    tasks = ("image_generation", "image_edition", "video_generation")
    found = {}
    for place, task in enumerate(tasks):
        labels = [VOTES[entry] for entry in votes[task]["human"]]
        for judge, published in board.items():
            answer = [read_vote(entry) for entry in votes[task][judge]]
            share = four_way_accuracy(answer, labels, clusters=[*map(str, range(len(answer)))])
            found[task, judge] = abs(100 * share.value - float(published[place]))
    assert len(found) == 54
    assert max(found.values()) < 0.0051


def test_whole_answers_are_read_as_their_votes(shared):
    n = 0
    for file in (shared / "genai_bench").glob("raw_*.json"):
        for row in json.loads(file.read_text("utf-8")):
            assert read_vote(row["response"]) == read_vote(row["model_vote"])
            n += 1
    assert n == 550


@pytest.mark.parametrize(
    ("name", "keys", "accuracy"),
    [
        ("pickscore", ("prob_0", "prob_1"), 0.7506),
        ("HPSv2", ("score_0", "score_1"), 0.6635),
        ("ImageReward", ("score_0", "score_1"), 0.6400),
    ],
)
def test_pickapic_has_the_published_accuracies(shared, tmp_path, name, keys, accuracy):
    folder = shared / "mjbench_quality"
    rows = json.loads((folder / f"pickapic_val500_{name}.json").read_text("utf-8"))
    judge = table(tmp_path / "t.csv", [(r["id"], i, r[keys[i]]) for r in rows for i in (0, 1)])
    metrics = benchmark("pickapic_val500", folder, judge).report["metrics"]
    found = metrics["pair_accuracy"]
    assert (round(found["value"], 4), found["n"]) == (accuracy, 425)
    exact = accuracy * 425 / 500  # ties of people wrong, none said
    assert metrics["three_way_accuracy"]["value"] == pytest.approx(exact, abs=2e-4)
    assert metrics["half_point_accuracy"]["value"] == pytest.approx(
        exact + 0.5 * 75 / 500, abs=2e-4
    )


def test_vl_rewardbench_has_the_official_groups(shared):
    folder = shared / "unifiedreward"
    official = benchmark("vl_rewardbench", folder, "scripted:perfect")
    published = benchmark("vl_rewardbench_published_groups", folder, "scripted:perfect")
    sizes = [Counter(entry.group for entry in result.items) for result in (official, published)]
    assert sizes[0] == {"general": 183, "hallucination": 749, "reasoning": 318}
    assert sizes[1] == {"general": 631, "hallucination": 301, "reasoning": 318}


def test_the_four_pictures_of_imagereward_rank_as_published(shared, tmp_path):
    message = json.loads((shared / "imagereward/expected_scores.json").read_text("utf-8"))
    text = (shared / "imagereward/README_expected.txt").read_text("utf-8")
    rewards = [float(entry) for entry in re.findall(r"webp: (-?[\d.]+)", text)]
    judge = open_reference(
        table(tmp_path / "t.csv", [(i, 0, entry) for i, entry in enumerate(rewards)])
    )
    pictures = [Image(shared / "imagereward/assets/images" / name) for name in message["images"]]

    def sample(i):
        return Sample(Task.IMAGE_GENERATION, message["prompt"], (pictures[i],), id=str(i))

    order = judge.rank_samples(sample, len(pictures)).order
    assert [1 + place for place in order] == message["ranking"] == [1, 2, 3, 4]


def test_nlvr_has_834_pairs_that_find_their_pictures(shared, tmp_path):
    ZipFile(shared / "nlvr/dev_perm0.zip").extractall(tmp_path)
    (tmp_path / "dev.json").write_bytes((shared / "nlvr/dev.json").read_bytes())
    items = examples("nlvr", tmp_path)
    assert len(items) == 834
    assert all(entry.source.is_file() for item in items for entry in item.media)


AVAILABLE = {
    "vl_rewardbench": "unifiedreward",
    "genai_bench_video": "unifiedreward",
    "imagereward": "imagereward",
    "videogen_rewardbench": "videoalign",
    "nlvr": "nlvr",
    "pickapic_val500": "mjbench_quality",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", AVAILABLE)
def test_controls_give_what_follows_from_the_labels_alone(shared, name):
    """By hand from the counts of labels; half of the rows are exchanged, so first gets half."""
    folder = shared / AVAILABLE[name]
    found = {
        kind: benchmark(name, folder, f"scripted:{kind}", orders=1).report
        for kind in ("perfect", "first", "tie", "silent", "random")
    }
    items = examples(name, folder)
    labels = Counter(entry.target.winner for entry in items if entry.target.winner)
    n, decided = labels.total(), labels["first"] + labels["second"]

    def figure(kind, metric):
        return found[kind]["metrics"][metric]["value"]

    if not n:  # the example of VideoAlign has aspects alone
        assert found["perfect"]["n"] == 3
        return
    assert figure("perfect", "pair_accuracy") == figure("perfect", "three_way_accuracy") == 1
    assert figure("tie", "pair_accuracy") == 0
    assert figure("tie", "pair_accuracy_ties_half") == 0.5
    assert figure("tie", "three_way_accuracy") == pytest.approx(labels["tie"] / n)
    assert figure("silent", "pair_accuracy") == figure("silent", "three_way_accuracy") == 0
    assert found["silent"]["n_unparsed"] == len(items)
    assert abs(figure("first", "pair_accuracy") - 0.5) < 2 / decided**0.5
    assert abs(figure("random", "three_way_accuracy") - 1 / 3) < 1.5 / n**0.5
    assert all(report["n_failed"] == 0 for report in found.values())
