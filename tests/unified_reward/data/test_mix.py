"""Mixing: every row is accounted for, and what comes out depends on rows and seed alone."""

import json
from collections import Counter
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.samples import Example
from unified_reward.data.mix import Mix, MixSource, mix
from unified_reward.data.pack import convert, rows_of
from unified_reward.io.config import load_config


ALL = {"train": 1.0}


def picture(folder, name, content=None):
    (folder / name).write_bytes((content or name).encode())
    return {"image": name}


def score(folder, name, prompt="p", content=None, **more):
    return {
        "id": name,
        "task": "image_generation",
        "prompt": prompt,
        "candidates": [picture(folder, f"{name.replace(':', '_')}.png", content)],
        "target": {"score": 3, "scale": [1, 5]},
    } | more


def pair(folder, name, first, second, winner="first", prompt="p", **more):
    candidates = [picture(folder, first), picture(folder, second)]
    target = {"winner": winner, "rationale": "Image 1 is sharp", "aspects": {"style": 0.75}}
    return score(folder, name, prompt) | {"candidates": candidates, "target": target} | more


def talk(folder, name, prompt="p", **more):
    text = [{"from": "human", "value": f"<image>\nRate it.\nCaption: [{prompt}]"}]
    text += [{"from": "gpt", "value": "Final Score: 3"}]
    row = score(folder, name, prompt) | {"messages": text, "prompt": "", "candidates": []}
    return row | {"context": [picture(folder, f"{name}.png")]} | more


def written(path, rows):
    lines = [item if isinstance(item, str) else json.dumps(item) for item in rows]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def run(folder, *sources, **options):
    """Mix, and the report with all rows written, by split."""
    options = {"splits": ALL} | options
    given_ = tuple(item if isinstance(item, MixSource) else MixSource(item) for item in sources)
    report = mix(Mix(given_, **options), folder / "out")
    assert json.loads((folder / "out" / "report.json").read_text()) == report
    contents = {}
    for split in options["splits"]:
        contents[split] = [item.content for item in rows_of(folder / "out" / f"{split}.jsonl")]
        assert all(hasattr(item, "id") for item in contents[split])
        assert report["splits"][split] == len(contents[split])
    return report, contents


def totals(report):
    counts = Counter()
    for source in report["sources"]:
        for cell in source["cells"].values():
            counts.update(cell)
    return {name: n for name, n in counts.items() if n}


def ids(contents, split="train"):
    return [item.id for item in contents[split]]


def test_rows_are_written_as_they_are_and_find_their_media_from_the_new_folder(tmp_path):
    rows = [score(tmp_path, "a"), pair(tmp_path, "b", "x", "y"), talk(tmp_path, "c")]
    path = written(tmp_path / "in.jsonl", rows)
    report, contents = run(tmp_path, path)
    given_ = [item.content for item in rows_of(path)]
    for before, after in zip(given_, contents["train"], strict=True):
        assert after.target == before.target
        assert after.messages == before.messages
        for old, new in zip(before.media, after.media, strict=True):
            assert Path(new.source).read_bytes() == Path(old.source).read_bytes()
    assert not (tmp_path / "out" / "media").exists()
    (source,) = report["sources"]
    assert source["read"] == 3
    assert set(source["cells"]) == {"image_generation.score", "image_generation.compare"}


def test_a_bad_row_costs_one_row_and_is_counted_by_its_reason(tmp_path):
    gone = score(tmp_path, "gone")
    rows = [score(tmp_path, "a"), "no json", gone, score(tmp_path, "a"), score(tmp_path, "b")]
    (tmp_path / "gone.png").unlink()
    report, contents = run(tmp_path, written(tmp_path / "in.jsonl", rows))
    assert ids(contents) == ["a", "b"]
    (source,) = report["sources"]
    assert source["read"] == 5
    assert sorted(source["bad"].values()) == [1, 1, 1]
    assert source["bad"]["missing media"] == 1
    assert source["bad"]["line …: duplicate id … (first on line …)"] == 1


def test_a_source_without_a_usable_row_stops_the_mix_and_nothing_is_written(tmp_path):
    good = written(tmp_path / "good.jsonl", [score(tmp_path, "a")])
    bad = written(tmp_path / "bad.jsonl", ["no", "no"])
    empty = written(tmp_path / "empty.jsonl", [])
    for path, result in (
        (bad, r"bad.jsonl as records has no usable row: .*\(2\)"),
        (empty, "none"),
    ):
        with pytest.raises(DataError, match=result):
            run(tmp_path, good, path)
    assert not (tmp_path / "out").exists()


def test_equal_media_prompt_and_answers_are_one_row_in_either_order(tmp_path):
    rows = [
        pair(tmp_path, "ab", "a", "b"),
        pair(tmp_path, "ba", "b", "a", "second"),
        pair(tmp_path, "case", "a", "b", prompt=" P "),
        pair(tmp_path, "other", "a", "b", prompt="q"),
        score(tmp_path, "s1", content="same"),
        score(tmp_path, "s2", content="same"),
        score(tmp_path, "s3", content="same", criteria="sharpness"),
        score(tmp_path, "s4", content="different"),
        talk(tmp_path, "t"),
    ]
    path = written(tmp_path / "in.jsonl", rows)
    report, contents = run(tmp_path, path)
    kept = set(ids(contents))
    assert len(kept & {"ab", "ba", "case"}) == 1
    assert len(kept & {"s1", "s2"}) == 1
    assert kept > {"other", "s3", "s4", "t"}
    assert totals(report)["duplicate"] == 3
    _, contents = run(tmp_path, path, dedup=False)
    assert len(ids(contents)) == 9


def test_the_same_files_twice_are_one_even_without_dedup_because_ids_are_equal_too(tmp_path):
    path = written(tmp_path / "in.jsonl", [score(tmp_path, "a"), score(tmp_path, "b")])
    report, contents = run(tmp_path, path, MixSource(path), dedup=False)
    assert sorted(ids(contents)) == ["a", "b"]
    assert totals(report) == {"read": 4, "written": 2, "duplicate": 2}


def test_one_id_of_two_rows_is_made_longer_so_that_the_file_can_be_read(tmp_path):
    item = written(tmp_path / "1.jsonl", [score(tmp_path, "a", "p")])
    two = written(tmp_path / "2.jsonl", [score(tmp_path, "a", "q"), score(tmp_path, "b")])
    names = [ids(run(tmp_path, *paths)[1]) for paths in ((item, two), (two, item))]
    assert sorted(names[0]) == sorted(names[1])
    assert len(set(names[0])) == 3
    assert sorted(name[:2] for name in names[0]) == ["a:", "a:", "b"]


def test_a_twin_is_turned_and_keeps_no_word_that_speaks_of_an_order(tmp_path):
    text = [{"from": "human", "value": "?"}, {"from": "gpt", "value": "Image 1 is better"}]
    rows = [pair(tmp_path, "p", "a", "b", messages=text), score(tmp_path, "s"), talk(tmp_path, "t")]
    report, contents = run(tmp_path, written(tmp_path / "in.jsonl", rows), twins=True)
    first, twin, *_ = contents["train"]
    assert ids(contents) == ["p", "p:twin", "s", "t"]
    assert (first.target.winner, twin.target.winner) == ("first", "second")
    assert twin.target.aspects == {"style": 0.25}
    assert twin.sample.candidates == first.sample.candidates[::-1]
    assert (first.messages, twin.messages) == (tuple(text), ())
    assert (first.target.rationale, twin.target.rationale) == ("Image 1 is sharp", "")
    assert totals(report) == {"read": 3, "written": 3, "twins": 1}


@pytest.mark.parametrize("dedup", [True, False])
def test_mixing_a_mix_again_makes_no_twin_of_a_twin(tmp_path, dedup):
    rows = [pair(tmp_path, f"{i}", f"a{i}", "b") for i in range(8)]
    once = run(tmp_path, written(tmp_path / "in.jsonl", rows), twins=True)[1]
    (tmp_path / "out" / "train.jsonl").rename(tmp_path / "out" / "again.jsonl")
    again = run(tmp_path, tmp_path / "out" / "again.jsonl", twins=True, dedup=dedup)[1]
    assert len(again["train"]) == 16
    assert again["train"] == once["train"]


def test_prompts_media_and_ids_of_a_benchmark_are_left_out(tmp_path):
    bench = [score(tmp_path, "b1", "A  Red star"), score(tmp_path, "b2", "x", content="pixels")]
    bench.append(pair(tmp_path, "b3", "gone1", "gone2", prompt="y"))
    benchmark = written(tmp_path / "bench.jsonl", bench)
    (tmp_path / "gone1").unlink()
    names = tmp_path / "names.txt"
    names.write_text("\n by name \n")
    rows = [
        score(tmp_path, "prompt", "a red STAR"),
        score(tmp_path, "media", content="pixels"),
        score(tmp_path, "b3"),
        score(tmp_path, "by name"),
        talk(tmp_path, "inside", "a red star"),
        score(tmp_path, "part", "a red star and more"),
        talk(tmp_path, "free"),
    ]
    path = written(tmp_path / "in.jsonl", rows)
    report, contents = run(tmp_path, path, exclude=(benchmark, names))
    assert ids(contents) == ["part", "free"]
    assert totals(report) == {"read": 7, "leaked": 5, "written": 2}
    counts = {str(benchmark): {"rows": 3, "missing_media": 1}, str(names): {"ids": 1}}
    assert report["exclude"] == counts


def test_the_twin_of_an_excluded_id_is_left_out_too(tmp_path):
    rows = [pair(tmp_path, name, f"{name}1", f"{name}2") for name in ("b", "c")]
    run(tmp_path, written(tmp_path / "in.jsonl", rows), twins=True)
    names = tmp_path / "ids.txt"
    names.write_text("b\n")
    source = (tmp_path / "out" / "train.jsonl").rename(tmp_path / "out" / "mixed.jsonl")
    _, contents = run(tmp_path, source, exclude=(names,), dedup=False)
    assert ids(contents) == ["c", "c:twin"]


def test_a_benchmark_row_that_cannot_be_read_is_an_error_because_it_could_leak(tmp_path):
    path = written(tmp_path / "in.jsonl", [score(tmp_path, "a")])
    bench = written(tmp_path / "bench.jsonl", ["no json"])
    with pytest.raises(DataError, match=r"bench.jsonl: line 1.*cannot be excluded"):
        run(tmp_path, path, exclude=(bench,))
    with pytest.raises(DataError, match=r"gone.txt cannot be read"):
        run(tmp_path, path, exclude=(tmp_path / "gone.txt",))


def test_weights_share_n_counts_are_numbers_and_cells_divide_both(tmp_path):
    def rows(tag):
        some = [score(tmp_path, f"{tag}{i}", content=f"{tag}{i}") for i in range(30)]
        return some + [pair(tmp_path, f"{tag}p{i}", f"{tag}{i}", "z") for i in range(30)]

    paths = [written(tmp_path / f"{tag}.jsonl", rows(tag)) for tag in "abcde"]
    scored, compared = "image_generation.score", "image_generation.compare"
    report, _ = run(
        tmp_path,
        MixSource(paths[0], weight=3),
        MixSource(paths[1], weight=1, cells={scored: 3, compared: 1}),
        MixSource(paths[2], count=7),
        MixSource(paths[3], cells={compared: 5}),
        MixSource(paths[4]),
        n=32,
    )
    found = [
        {cell: counts["written"] for cell, counts in item["cells"].items()}
        for item in report["sources"]
    ]
    assert sum(found[0].values()) == 24
    assert found[1] == {scored: 6, compared: 2}
    assert sum(found[2].values()) == 7
    assert found[3] == {scored: 0, compared: 5}
    assert found[4] == {scored: 30, compared: 30}
    limits = [item["limits"] for item in report["sources"]]
    assert [item.get("all") for item in limits] == [24, None, 7, None, None]


def test_a_source_with_too_few_rows_gives_what_it_has_and_its_limit_is_told(tmp_path):
    path = written(tmp_path / "in.jsonl", [score(tmp_path, "a"), score(tmp_path, "b")])
    report, contents = run(tmp_path, MixSource(path, count=5))
    assert len(contents["train"]) == 2
    assert report["sources"][0]["limits"] == {"all": 5}


def test_all_rows_of_a_prompt_fall_into_one_split_and_shares_are_about_right(tmp_path):
    rows = [
        score(tmp_path, f"{i}-{k}", f"prompt {i}", content=f"{i}-{k}")
        for i in range(200)
        for k in range(2)
    ]
    path = written(tmp_path / "in.jsonl", rows)
    splits = {"train": 0.7, "test": 0.3}
    _, contents = run(tmp_path, path, splits=splits, seed=1)
    prompts = {name: {item.sample.prompt for item in rows} for name, rows in contents.items()}
    assert not prompts["train"] & prompts["test"]
    assert len(contents["train"]) + len(contents["test"]) == 400
    # 200 prompts at 0.3: four standard deviations are 26.
    assert abs(len(prompts["test"]) - 60) <= 26
    _, others = run(tmp_path, path, splits=splits, seed=2)
    assert {item.sample.prompt for item in others["test"]} != prompts["test"]


def test_what_is_taken_depends_on_the_seed_and_not_on_the_order_of_rows_and_files(tmp_path):
    rows = [score(tmp_path, f"{i}", f"p{i}") for i in range(40)]
    rows += [pair(tmp_path, f"d{i}", f"a{i // 2}", "b") for i in range(20)]
    halves = [rows[:30], rows[30:]]
    found = set()
    for k, order in enumerate(permutations([0, 1])):
        paths = []
        for i in order:
            half = halves[i][:: 1 if k else -1]
            paths.append(MixSource(written(tmp_path / f"{i}.jsonl", half), count=11))
        _, contents = run(tmp_path, *paths, twins=True, splits={"train": 0.5, "test": 0.5})
        found.add(tuple(tuple(sorted(ids(contents, name))) for name in ("train", "test")))
    assert len(found) == 1
    _, contents = run(tmp_path, *paths, twins=True, seed=5)
    assert tuple(sorted(ids(contents))) != tuple(sorted(sum(found.pop(), ())))


@given(
    made=st.lists(
        st.tuples(
            st.sampled_from(["score", "pair", "talk", "bad", "gone"]),
            st.integers(0, 3),
            st.integers(0, 3),
        ),
        max_size=25,
    ),
    count=st.integers(1, 9),
    twins=st.booleans(),
    dedup=st.booleans(),
    seed=st.integers(0, 5),
)
def test_every_row_read_is_bad_leaked_duplicate_subsampled_or_written(
    made, count, twins, dedup, seed, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("mix")
    rows = [score(folder, "always", "always")]
    for i, (kind, prompt, content) in enumerate(made):
        match kind:
            case "score":
                rows.append(score(folder, f"{i}", f"p{prompt}", content=f"c{content}"))
            case "pair":
                rows.append(pair(folder, f"{i}", f"c{content}", "z", prompt=f"p{prompt}"))
            case "talk":
                rows.append(talk(folder, f"{i}", f"p{prompt}"))
            case "bad":
                rows.append("no json")
            case "gone":
                rows.append(pair(folder, f"{i}", "z", "z") | {"candidates": [{"image": "none"}]})
    path = written(folder / "in.jsonl", rows)
    bench = written(folder / "bench.jsonl", [score(folder, "bench", "p3", content="bench")])
    report, contents = run(
        folder, MixSource(path, count=count), twins=twins, dedup=dedup, seed=seed, exclude=(bench,)
    )
    counts = Counter(totals(report))
    (source,) = report["sources"]
    assert source["read"] == len(rows)
    states = ("leaked", "duplicate", "subsampled", "written")
    assert sum(source["bad"].values()) + sum(counts[name] for name in states) == len(rows)
    assert counts["leaked"] == sum(
        prompt == 3 and kind in ("score", "pair", "talk") for kind, prompt, _ in made
    )
    assert 1 <= counts["written"] <= count
    assert len(contents["train"]) == counts["written"] + counts["twins"]
    compared = [item for item in contents["train"] if isinstance(item, Example)]
    compared = [item for item in compared if item.form == "compare"]
    assert len(compared) == counts["twins"] * 2 or not twins


def test_packed_media_are_written_beside_the_mix(tmp_path):
    path = written(tmp_path / "in.jsonl", [score(tmp_path, "a"), pair(tmp_path, "b", "x", "y")])
    convert(rows_of(path), tmp_path / "p.tar", lambda _: None)
    for file in tmp_path.glob("*.png"):
        file.unlink()
    _, contents = run(tmp_path, tmp_path / "p.tar", twins=True)
    stored = {Path(item.source).read_bytes() for row in contents["train"] for item in row.media}
    assert stored == {b"a.png", b"x", b"y"}
    assert len(list((tmp_path / "out" / "media").iterdir())) == 3


def test_a_file_that_changes_between_the_passes_is_noticed_and_nothing_is_left(tmp_path):
    rows = [score(tmp_path, f"{i}") for i in range(4)]
    changes = [rows[:3], rows[::-1], [*rows, score(tmp_path, "new")], [*rows[:3], "no json"]]
    other = written(tmp_path / "other.jsonl", [score(tmp_path, "other")])
    for changed in changes:
        path = written(tmp_path / "in.jsonl", rows)
        seen = iter(range(100))

        def progress(_, changed=changed, path=path, seen=seen):
            if next(seen) == len(rows):
                written(path, changed)

        with pytest.raises(DataError, match=r"in.jsonl changed while it was read"):
            mix(Mix((MixSource(path), MixSource(other))), tmp_path / "out", progress)
        assert list((tmp_path / "out").iterdir()) == []


RECIPE = """
sources:
  - {path: in.jsonl, weight: 2, cells: {image_generation.score: 1}}
n: 4
exclude: [bench.jsonl]
"""


def test_a_recipe_is_read_from_yaml_with_overrides(tmp_path):
    (tmp_path / "mix.yaml").write_text(RECIPE)
    recipe = load_config(Mix, tmp_path / "mix.yaml", ["seed=3", "splits={all: 1.0}"])
    (source,) = recipe.sources
    assert (source.path, source.source, source.weight) == (Path("in.jsonl"), "records", 2)
    assert (recipe.n, recipe.seed, recipe.splits) == (4, 3, {"all": 1.0})


WRONG = [
    ({"sources": ()}, "at least one of sources"),
    ({"n": 4}, "both or none"),
    ({"n": 0}, "n is at least 1"),
    ({"sources": (MixSource(Path("a"), weight=1),)}, "both or none"),
    ({"splits": {"train": 0.5, "test": 0.4}}, "sum to 1, not 0.9"),
    ({"splits": {}}, "sum to 1, not 0"),
    ({"splits": {"../x": 1.0}}, "splits are file names"),
]


@pytest.mark.parametrize(("options", "result"), WRONG)
def test_a_recipe_that_cannot_be_meant_is_refused(options, result):
    with pytest.raises(ConfigError, match=result):
        Mix(**{"sources": (MixSource(Path("a")),), **options})


WRONG_SOURCES = [
    ({"weight": 1, "count": 1}, "a weight or a count, not both"),
    ({"weight": -1.0}, "above 0"),
    ({"count": 0}, "above 0"),
    ({"cells": {"image_generation.score": 0}}, "above 0"),
    ({"cells": {"images": 1}}, "no cell images; a cell is task.form"),
]


@pytest.mark.parametrize(("options", "result"), WRONG_SOURCES)
def test_a_source_that_cannot_be_meant_is_refused(options, result):
    with pytest.raises(ConfigError, match=result):
        MixSource(Path("a"), **options)


def test_what_was_dropped_or_failed_is_counted(tmp_path):
    rows = [score(tmp_path, "a"), score(tmp_path, "b", status="dropped", reason="tie")]
    rows += [{"id": name, "status": "failed", "reason": "no memory"} for name in "cd"]
    report, contents = run(tmp_path, written(tmp_path / "in.jsonl", rows))
    (source,) = report["sources"]
    assert (source["dropped"], source["failed"], source["read"]) == (1, 2, 1)
    assert ids(contents) == ["a"]
    lost = written(tmp_path / "lost.jsonl", rows[1:])
    with pytest.raises(DataError, match=r"no usable row: dropped \(1\), failed \(2\)"):
        mix(Mix((MixSource(lost),)), tmp_path / "none")


def test_rows_that_teach_nothing_are_bad_with_a_reason(tmp_path):
    three = [picture(tmp_path, name) for name in "xyz"]
    rows = [
        score(tmp_path, "a"),
        score(tmp_path, "prompt", candidates=[]),
        score(tmp_path, "three", candidates=three, target=None),
        score(tmp_path, "unlabelled", target=None),
    ]
    report, contents = run(tmp_path, written(tmp_path / "in.jsonl", rows))
    assert ids(contents) == ["a"]
    (source,) = report["sources"]
    assert sum(source["bad"].values()) == 3
    assert any(reason.startswith("no label") for reason in source["bad"])
