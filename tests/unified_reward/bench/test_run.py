"""A benchmark goes on where it was stopped, says what it was asked, and two runs are compared."""

import json

import pytest

from unified_reward.bench.benchmark import Benchmark, BenchmarkOptions, pairwise_metrics
from unified_reward.bench.diff import compare_runs
from unified_reward.bench.run import Items, majority_vote, read_items, run
from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.samples import Example, Image, Sample, Target, Task
from unified_reward.core.verdicts import Preferred, Unparsed
from unified_reward.judges.registry import open_reference
from unified_reward_lab.bench.microworld import MICROWORLD


FIRST, TIE, SECOND = Preferred(1, 0, 0), Preferred(0, 1, 0), Preferred(0, 0, 1)
PLAIN = Benchmark("toy", "It is a toy.", "", lambda *_: iter(()), pairwise_metrics)


def items(n, winner="first"):
    return Items(
        [
            Example.of(
                Sample(
                    Task.IMAGE_GENERATION, f"{i}", (Image(f"{i}a"), Image(f"{i}b")), id=f"item {i}"
                ),
                Target(winner=winner),
            )
            for i in range(n)
        ],
        [],
    )


class Named(BaseJudge):
    """Knows the better one by its name, and may be stopped."""

    name, family = "named", "toy"

    def __init__(self, stop_after=10**6):
        self.asked = []
        self.stop_after = stop_after

    def ask(self, samples, *, orders=2):
        if len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        self.asked += samples
        return [FIRST if one.candidates[0].source.endswith("a") else SECOND for one in samples]


def test_half_of_the_comparisons_are_exchanged_and_their_verdicts_turned_back():
    judge = Named()
    report = run(PLAIN, judge, items(400), BenchmarkOptions(orders=1)).report
    assert report["metrics"]["pair_accuracy"]["value"] == 1
    exchanged = sum(one.candidates[0].source.endswith("b") for one in judge.asked)
    assert 160 < exchanged < 240  # four standard errors
    first = run(
        PLAIN,
        open_reference("scripted:first", opens_media=False),
        items(400),
        BenchmarkOptions(orders=1),
    )
    assert first.report["metrics"]["pair_accuracy"]["value"] == 1 - exchanged / 400


def test_exchanging_depends_on_item_and_seed_alone():
    one, again, other = Named(), Named(), Named()
    run(PLAIN, one, items(40), BenchmarkOptions(seed=3))
    run(PLAIN, again, Items(items(40).records[::-1], []), BenchmarkOptions(seed=3))
    run(PLAIN, other, items(40), BenchmarkOptions(seed=4))
    assert one.asked == again.asked[::-1]
    assert one.asked != other.asked


def test_a_run_that_was_killed_asks_only_what_is_missing_and_ends_the_same(tmp_path):
    whole = run(PLAIN, Named(), items(200), BenchmarkOptions(), out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(PLAIN, Named(stop_after=100), items(200), BenchmarkOptions(), out=tmp_path / "cut")
    file = tmp_path / "cut" / "verdicts.jsonl"
    with file.open("ab") as out:
        out.write(b'{"id": "item 19')  # torn
    rest = Named()
    again = run(PLAIN, rest, items(200), BenchmarkOptions(), out=tmp_path / "cut")
    assert again.report == whole.report
    assert len(rest.asked) == 200 - 128  # two chunks of 64 were done
    assert file.read_bytes() == (tmp_path / "whole" / "verdicts.jsonl").read_bytes()
    idle = Named()
    assert (
        run(PLAIN, idle, items(200), BenchmarkOptions(), out=tmp_path / "cut").report
        == whole.report
    )
    assert idle.asked == []


def test_a_run_begun_otherwise_is_not_gone_on_with(tmp_path):
    run(PLAIN, Named(), items(3), BenchmarkOptions(), out=tmp_path)
    with pytest.raises(ConfigError, match="seed was 0 and is 1"):
        run(PLAIN, Named(), items(3), BenchmarkOptions(seed=1), out=tmp_path)


@pytest.mark.parametrize(
    ("orders", "votes", "winner"),
    [
        ((FIRST, FIRST), 9, "first"),
        ((FIRST, SECOND), 1, {"first", "second"}),
        ((TIE, TIE), 10, "tie"),
    ],
)
def test_votes_are_drawn_among_the_orders(orders, votes, winner):
    merged = Preferred(0.5, 0, 0.5, orders=orders)
    found = majority_vote(merged, votes, seed=1)
    assert found.winner in (winner if isinstance(winner, set) else {winner})
    assert found.orders == orders


def test_equally_many_votes_are_a_tie_and_unreadable_ones_stay_so():
    merged = Preferred(0.5, 0, 0.5, orders=(FIRST, SECOND))
    seeds = [majority_vote(merged, 2, seed).winner for seed in range(40)]
    assert set(seeds) == {"first", "tie", "second"}
    assert majority_vote(Unparsed("?"), 3, 0) == Unparsed("?")


def test_an_empty_folder_of_items_is_an_error():
    nothing = Benchmark("none", "It is none.", "", lambda *_: iter(()), pairwise_metrics)
    with pytest.raises(DataError, match="holds no item of none"):
        read_items(nothing, None, BenchmarkOptions())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of the microworld's benchmark by judge."""
    folder = tmp_path_factory.mktemp("runs")
    how = BenchmarkOptions(limit=6)
    asked = read_items(MICROWORLD, None, how)
    for name in ("perfect", "first", "silent"):
        opened = open_reference(f"scripted:{name}", truth=asked.records)
        run(MICROWORLD, opened, asked, how, out=folder / name)
    return folder


def test_a_run_against_itself_differs_by_nothing(runs):
    found = compare_runs(runs / "perfect", runs / "perfect")
    assert found["n"] == 48
    assert {one["difference"] for one in found["metrics"].values()} == {0}


def test_the_difference_is_that_of_the_reports_and_tested_in_pairs(runs):
    found = compare_runs(runs / "silent", runs / "perfect")
    row = found["metrics"]["pair_accuracy"]
    assert (row["a"], row["b"], row["difference"], row["lost"]) == (0, 1, 1, 0)
    assert row["won"] == row["n"]
    assert row["p_value"] == pytest.approx(2 * 0.5 ** row["n"])
    assert set(found["groups"]) == set(
        json.loads((runs / "perfect/report.json").read_text())["groups"]
    )


def test_runs_without_a_common_item_are_refused(runs, tmp_path):
    how = BenchmarkOptions(limit=3, seed=9)
    run(
        MICROWORLD,
        open_reference("scripted:tie"),
        read_items(MICROWORLD, None, how),
        how,
        out=tmp_path,
    )
    with pytest.raises(ConfigError, match="share no item"):
        compare_runs(runs / "perfect", tmp_path)
    run(PLAIN, Named(), items(3), BenchmarkOptions(), out=tmp_path / "toy")
    with pytest.raises(ConfigError, match=r"of microworld and .* of toy"):
        compare_runs(runs / "perfect", tmp_path / "toy")
    with pytest.raises(DataError, match="bench --out"):
        compare_runs(runs, tmp_path)
