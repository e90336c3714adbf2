"""A benchmark continues where it was stopped, in bounded memory; two runs are compared."""

import gc
import json
import weakref
from dataclasses import replace

import numpy as np
import pytest

from unified_reward.bench.benchmark import Benchmark, BenchmarkOptions, pairwise_metrics
from unified_reward.bench.diff import compare_runs
from unified_reward.bench.registry import find_benchmark
from unified_reward.bench.run import majority_vote, run_benchmark
from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.samples import Example, Image, Sample, Target, Task, Video
from unified_reward.core.verdicts import Failed, Preferred, Unparsed
from unified_reward.io.lock import locked
from unified_reward.io.rows import Row
from unified_reward.judges.registry import JudgeOptions, open_reference


FIRST, TIE, SECOND = Preferred(1, 0, 0), Preferred(0, 1, 0), Preferred(0, 0, 1)


def example(i, first="a", second="b"):
    media = tuple(Image(f"{i}{side}") for side in (first, second))
    sample = Sample(Task.IMAGE_GENERATION, f"{i}", media, id=f"item {i}")
    return Example.of(sample, Target(winner="first"))


def toy(examples):
    """A benchmark of these examples."""

    def read_rows(_folder, _options):
        return (Row(line, each.id, each) for line, each in enumerate(examples, 1))

    return Benchmark("toy", "It is a toy.", "", read_rows, pairwise_metrics)


def toys(n):
    return toy([example(i) for i in range(n)])


class Named(BaseJudge):
    """Knows the better one by its name, and may be stopped."""

    name, family = "named", "toy"

    def __init__(self, stop_after=10**6):
        self.samples = []
        self.orders = set()
        self.stop_after = stop_after

    def ask(self, samples, *, orders=2, on_progress=None):
        if len(self.samples) >= self.stop_after:
            raise KeyboardInterrupt
        self.samples += samples
        self.orders.add(orders)
        if on_progress:
            on_progress(len(samples))
        return [FIRST if each.candidates[0].source.endswith("a") else SECOND for each in samples]


def test_half_of_the_comparisons_are_swapped_and_their_verdicts_mirrored():
    judge = Named()
    report = run_benchmark(toys(400), judge, orders=1).report
    assert report["metrics"]["pair_accuracy"]["value"] == 1
    swapped = sum(each.candidates[0].source.endswith("b") for each in judge.samples)
    assert 160 < swapped < 240  # four standard errors
    first = run_benchmark(toys(400), open_reference("scripted:first", opens_media=False), orders=1)
    assert first.report["metrics"]["pair_accuracy"]["value"] == 1 - swapped / 400


def test_swapping_depends_on_item_and_seed_alone():
    judge, again, other = Named(), Named(), Named()
    run_benchmark(toys(40), judge, seed=3)
    run_benchmark(toy([example(i) for i in range(40)][::-1]), again, seed=3)
    run_benchmark(toys(40), other, seed=4)
    assert judge.samples == again.samples[::-1]
    assert judge.samples != other.samples


def test_a_judge_without_an_order_is_never_swapped():
    judge = Named()
    judge.order_free = True
    run_benchmark(toys(40), judge)
    assert {each.candidates[0].source[-1] for each in judge.samples} == {"a"}


def test_a_run_that_was_killed_asks_only_what_is_missing_and_ends_the_same(tmp_path):
    whole = run_benchmark(toys(200), Named(), out=tmp_path / "whole")
    assert "200 items" in (tmp_path / "whole" / "page.html").read_text("utf-8")
    with pytest.raises(KeyboardInterrupt):
        run_benchmark(toys(200), Named(stop_after=100), out=tmp_path / "cut")
    file = tmp_path / "cut" / "verdicts.jsonl"
    assert len(file.read_bytes().splitlines()) == 128  # two chunks of 64 were done
    with file.open("ab") as out:
        out.write(b'{"id": "item 19')  # torn
    rest = Named()
    steps = []
    again = run_benchmark(toys(200), rest, out=tmp_path / "cut", on_progress=steps.append)
    assert steps == [64, 64, 64, 8]
    assert again.report == whole.report
    assert len(rest.samples) == 200 - 128
    assert file.read_bytes() == (tmp_path / "whole" / "verdicts.jsonl").read_bytes()
    idle = Named()
    assert run_benchmark(toys(200), idle, out=tmp_path / "cut").report == whole.report
    assert idle.samples == []


def test_a_run_with_other_settings_is_not_continued(tmp_path):
    run_benchmark(toys(3), Named(), out=tmp_path)
    with pytest.raises(ConfigError, match="seed was 0 and is 1"):
        run_benchmark(toys(3), Named(), seed=1, out=tmp_path)
    other = Named()
    other.name = "other"
    with pytest.raises(ConfigError, match="judge was 'named' and is 'other'"):
        run_benchmark(toys(3), other, out=tmp_path)
    with pytest.raises(ConfigError, match="benchmark was 'toy' and is 'toy 2'"):
        run_benchmark(replace(toys(3), name="toy 2"), Named(), out=tmp_path)


@pytest.mark.parametrize(
    "item",
    [
        replace(example(2), prompt="new"),
        replace(example(2), target=Target(winner="second")),
        replace(example(2), tags={"group": "new"}),
        replace(example(2), candidates=(Image(b"2a"), Image(b"2b"))),
    ],
)
def test_an_item_that_changed_under_its_id_is_named(item, tmp_path):
    run_benchmark(toys(3), Named(), out=tmp_path)
    before = (tmp_path / "verdicts.jsonl").read_bytes()
    with pytest.raises(ConfigError, match="changed under 'item 2'; give another output file"):
        run_benchmark(toy([example(0), example(1), item, example(3)]), Named(), out=tmp_path)
    assert (tmp_path / "verdicts.jsonl").read_bytes() == before
    report = run_benchmark(toy([example(0), example(3)]), Named(), out=tmp_path).report
    assert report["n"] == 2


def test_a_table_that_changed_is_named_when_a_benchmark_goes_on(tmp_path):
    table = tmp_path / "t.csv"
    for winner in ("first", "second"):
        table.write_text(f"id,winner\nitem 0,{winner}\n")
        judge = open_reference(f"table:{table}")
        if winner == "first":
            run_benchmark(toys(1), judge, out=tmp_path / "out")
    with pytest.raises(ConfigError, match=r"made with other files: .*t\.csv changed"):
        run_benchmark(toys(1), judge, out=tmp_path / "out")


def test_another_family_of_the_same_judge_is_another_run(tmp_path):
    for family in ("native", "think"):
        judge = open_reference("scripted:first", JudgeOptions(family=family), opens_media=False)
        if family == "native":
            run_benchmark(toys(1), judge, out=tmp_path)
    with pytest.raises(ConfigError, match="family was 'native' and is 'think'"):
        run_benchmark(toys(1), judge, out=tmp_path)


def test_items_that_failed_are_asked_again_and_no_others(tmp_path):
    class Broken(Named):
        def ask(self, samples, **options):
            verdicts = super().ask(samples, **options)
            lost = ("item 1", "item 3")
            return [
                Failed("no answer") if each.id in lost else verdict
                for each, verdict in zip(samples, verdicts, strict=True)
            ]

    whole = run_benchmark(toys(5), Named(), out=tmp_path / "whole").report
    assert run_benchmark(toys(5), Broken(), out=tmp_path / "out").report["n_failed"] == 2
    again = Named()
    report = run_benchmark(toys(5), again, out=tmp_path / "out", retry_failed=True).report
    assert [each.id for each in again.samples] == ["item 1", "item 3"]
    assert report == whole
    rows = [
        (tmp_path / name / "verdicts.jsonl").read_text().splitlines() for name in ("whole", "out")
    ]
    assert sorted(rows[0]) == sorted(rows[1])


def test_a_second_run_into_the_same_folder_is_refused(tmp_path):
    with locked(tmp_path / "verdicts.jsonl"), pytest.raises(ConfigError, match="by another run"):
        run_benchmark(toys(1), Named(), out=tmp_path)


def test_items_are_read_as_they_are_asked_and_no_pixels_are_kept():
    """For 2,000 videos in memory, those of two chunks and of the 12 worst are alive at most."""
    alive, most = weakref.WeakSet(), 0

    def examples():
        nonlocal most
        for i in range(2000):
            video = Video(np.zeros((2, 8, 8, 3), np.uint8), "THWC")
            alive.add(video)
            sample = Sample(Task.VIDEO_GENERATION, f"{i}", (video, video), id=f"{i}")
            most = max(most, len(alive))
            yield Example.of(sample, Target(winner="first"))

    class Guess(BaseJudge):
        name, family = "guess", "toy"

        def ask(self, samples, *, orders=2, on_progress=None):
            return [FIRST if each.candidates[0].layout else Failed("no media") for each in samples]

    result = run_benchmark(toy(examples()), Guess(), orders=1)
    assert (result.report["n"], result.report["n_failed"]) == (2000, 0)
    assert most <= 3 * 64 + 12
    gc.collect()
    assert len(alive) == len(result.worst) == 12
    assert all(item.example.media[0].layout for item in result.worst)


def test_the_worst_items_are_those_furthest_from_their_labels_first_ones_first():
    class Wrong(Named):
        def ask(self, samples, *, orders=2, on_progress=None):
            shares = [int(each.id.removeprefix("item ")) % 10 / 10 for each in samples]
            return [Preferred(share, 0, 1 - share) for share in shares]

    judge = Wrong()
    judge.order_free = True
    worst = run_benchmark(toys(100), judge).worst
    names = [*(f"item {i}0" for i in range(1, 10)), "item 1", "item 11"]
    assert [item.example.id for item in worst] == ["item 0", *names]
    assert worst[0].disagreement == 1
    assert worst[-1].disagreement == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("orders", "votes", "winner"),
    [
        ((FIRST, FIRST), 9, "first"),
        ((FIRST, SECOND), 1, {"first", "second"}),
        ((TIE, TIE), 10, "tie"),
    ],
)
def test_votes_are_sampled_among_the_orders(orders, votes, winner):
    merged = Preferred(0.5, 0, 0.5, orders=orders, notes=("the images were scaled",))
    found = majority_vote(merged, votes, seed=1)
    assert found.winner in (winner if isinstance(winner, set) else {winner})
    assert (found.orders, found.notes) == (orders, merged.notes)


def test_equally_many_votes_are_a_tie_and_unreadable_ones_stay_so():
    merged = Preferred(0.5, 0, 0.5, orders=(FIRST, SECOND))
    seeds = [majority_vote(merged, 2, seed).winner for seed in range(40)]
    assert set(seeds) == {"first", "tie", "second"}
    assert majority_vote(Unparsed("?"), 3, 0) == Unparsed("?")


def test_votes_ask_both_orders_and_differ_by_item_and_seed():
    class Split(Named):
        def ask(self, samples, *, orders=2, on_progress=None):
            super().ask(samples, orders=orders)
            return [Preferred(0.5, 0, 0.5, orders=(FIRST, SECOND)) for _ in samples]

    def winners(seed):
        judge = Split()
        result = run_benchmark(toys(40), judge, orders=1, votes=2, seed=seed)
        assert judge.orders == {2}
        assert result.report["votes"] == 2
        return [item.verdict.winner for item in result.items]

    assert {*winners(0)} == {"first", "tie", "second"}
    assert winners(0) == winners(0) != winners(1)


def test_a_folder_without_items_is_an_error_that_names_the_first_broken_row():
    with pytest.raises(DataError, match=r"holds no item of toy$"):
        run_benchmark(toys(0), Named())
    broken = replace(toys(0), read_rows=lambda *_: iter([Row(3, "x", Failed("no prompt"))]))
    with pytest.raises(DataError, match="holds no item of toy; row 3: no prompt"):
        run_benchmark(broken, Named())


def test_a_row_with_other_than_one_or_two_candidates_is_broken():
    many = replace(example(7), candidates=(Image("a"), Image("b"), Image("c")), id="many")
    result = run_benchmark(toy([example(0), many, replace(many, candidates=(), id="x")]), Named())
    assert (result.report["n"], result.report["n_broken_rows"]) == (1, 2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of the microworld's benchmark by judge."""
    folder = tmp_path_factory.mktemp("runs")
    rows = find_benchmark("microworld").read_rows(None, BenchmarkOptions(limit=2))
    truth = [row.content for row in rows]
    for name in ("perfect", "silent"):
        judge = open_reference(f"scripted:{name}", truth=truth)
        run_benchmark("microworld", judge, limit=2, out=folder / name)
    return folder


@pytest.mark.slow
def test_a_run_against_itself_differs_by_nothing(runs):
    found = compare_runs(runs / "perfect", runs / "perfect")
    assert found["n"] == 16
    assert {entry["difference"] for entry in found["metrics"].values()} == {0}


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
    run_benchmark("microworld", open_reference("scripted:tie"), limit=3, seed=9, out=tmp_path)
    with pytest.raises(ConfigError, match="share no item"):
        compare_runs(runs / "perfect", tmp_path)
    run_benchmark(toys(3), Named(), out=tmp_path / "toy")
    with pytest.raises(ConfigError, match=r"of microworld and .* of toy"):
        compare_runs(runs / "perfect", tmp_path / "toy")
    with pytest.raises(DataError, match="bench --out"):
        compare_runs(runs, tmp_path)
