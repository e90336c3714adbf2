"""Every protocol on a few rows in its published layout, and figures by hand."""

import json

import pytest

from tests.unified_reward.media.made import noise, picture
from unified_reward.bench.benchmark import BenchmarkOptions, item_hash
from unified_reward.bench.page import published_results, write_page
from unified_reward.bench.registry import benchmark_names, find_benchmark
from unified_reward.bench.run import run_benchmark
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.samples import Example
from unified_reward.judges.registry import open_reference


PICTURES = {"prompt": "a cat", "generations": ["0.png", "1.png", "2.png"], "ranking": [1, 2, 2]}


def answers(**more):
    return {"question": "what?", "chosen": "a cat", "rejected": "a dog", "video": "v.mp4"} | more


def vote_row(vote):
    return {"prompt": "a cat", "left_video": "l.mp4", "right_video": "r.mp4", "vote_type": vote}


def interleaved(name, **more):
    prompt = [["text", "draw"], ["image", "source.png"], ["text", "anew"]]
    response = {"response_content": [["text", "here:"], ["image", "a.png"]]}
    other = {"response_content": [["image", "b.png"]]}
    row = {"id": name, "prompt_content": prompt, "response_a": response, "response_b": other}
    return row | {"chosen": "A", "prompt_source": "isgbench"} | more


def video_row(i, model, *ratings):
    return {
        "id": i,
        "model": model,
        "prompt": f"a cat {i}",
        "static_quality": [3],
        "temporal_quality": [3],
        "alignment": [*ratings],
    }


ROWS = {
    "imagereward": ("test.json", [{"id": "x", **PICTURES}]),
    "hpdv2": (
        "test.json",
        [{"prompt": "a cat", "image_path": ["0.jpg", "1.jpg"], "rank": [2, 1]}],
    ),
    "pickapic_val500": (
        "pickapic_val500.json",
        [{"caption": "a cat", "image_0_uid": "0", "image_1_uid": "1", "label": "tie"}],
    ),
    "multimodal_rewardbench": (
        "all_data.json",
        [
            {
                "ID": name,
                "Text": "what?",
                "Image": "images/0.jpg",
                "Output1": "a cat",
                "Output2": "a dog",
                "Better": "Output2",
                "Category": category,
            }
            for name, category in (("pairs_1", "safety"), ("mmbench_1", "vqa"), ("m2", "reasoning"))
        ],
    ),
    "videorewardbench": (
        "data.json",
        [answers(dimension="long", id=1), answers(dimension="short")],
    ),
    "genai_bench_video": (
        "data.json",
        [vote_row("leftvote"), vote_row("tievote"), vote_row("bothbad_vote")],
    ),
    "mmrb2_interleaved": ("interleaved.json", {"pairs": [interleaved("1"), interleaved("2")]}),
    "mmrb2_t2i": ("t2i.json", {"pairs": [interleaved("1", chosen="B")]}),
    "mmrb2_edit": ("edit.json", {"pairs": [interleaved("1")]}),
    "mmrb2_reasoning": (
        "reasoning.json",
        {"pairs": [interleaved("1", response_b={"response_content": [["text", "two"]]})]},
    ),
    "nlvr": (
        "dev.json",
        [
            {"sentence": "two boxes", "label": label, "identifier": f"7-{i}", "directory": "1"}
            for i, label in enumerate(("true", "false", "true"))
        ],
    ),
    "fetv": (
        "human_ratings_all.jsonl",
        [
            video_row(0, "a", 5),
            video_row(0, "b", 1),
            video_row(0, "ground-truth", 5),
            video_row(1, "a", 3),
        ],
    ),
}


def written(folder, name):
    file, rows = ROWS[name]
    text = "\n".join(map(json.dumps, rows)) if file.endswith("jsonl") else json.dumps(rows)
    (folder / file).write_text(text, "utf-8")
    return folder


def examples(folder, name, **options):
    rows = find_benchmark(name).read_rows(folder, BenchmarkOptions(**options))
    return [row.content for row in rows if isinstance(row.content, Example)]


def measured(folder, name, judge="scripted:perfect", **options):
    truth = examples(written(folder, name), name)
    opened = open_reference(judge, truth=truth, opens_media=False)
    return run_benchmark(name, opened, folder, **options)


def scores(folder, **values):
    file = folder / "scores.csv"
    rows = [f"{name.replace('_', ':', 1)},{value}" for name, value in values.items()]
    file.write_text("\n".join(["id,value", *rows]) + "\n", "utf-8")
    return f"table:{file}"


@pytest.mark.parametrize("name", [name for name in ROWS if name not in ("fetv", "mmrb2_edit")])
def test_a_perfect_judge_gets_1_and_a_silent_one_0_by_the_headline(name, tmp_path):
    headline = find_benchmark(name).headlines[0]
    perfect, silent = (
        measured(tmp_path, name, f"scripted:{entry}") for entry in ("perfect", "silent")
    )
    if perfect.report["metrics"][headline]["n"]:
        assert perfect.report["metrics"][headline]["value"] == 1
        assert silent.report["metrics"][headline]["value"] in (0, None)
    assert silent.report["n_unparsed"] == silent.report["n"] > 0
    assert json.loads(json.dumps(perfect.report, allow_nan=False)) == perfect.report


@pytest.mark.parametrize("name", [name for name in ROWS if name not in ("fetv", "mmrb2_edit")])
def test_a_judge_of_ties_is_right_about_ties_alone_and_one_of_places_asked_twice_undecided(
    name, tmp_path
):
    tie, first = (
        measured(tmp_path, name, f"scripted:{entry}").report for entry in ("tie", "first")
    )
    labels = [item.target.winner for item in measured(tmp_path, name).items]
    for report in (tie, first):
        metrics = report["metrics"]
        assert metrics["three_way_accuracy"]["value"] == labels.count("tie") / len(labels)
        assert metrics["pair_accuracy"]["value"] in (0, None)
        assert metrics["pair_accuracy_ties_half"]["value"] in (0.5, None)
        assert report["n_unparsed"] == report["n_failed"] == 0
    assert tie["metrics"]["consistency"]["value"] == 1
    assert first["metrics"]["consistency"]["value"] == 0


def test_edits_are_asked_about_with_the_picture_before(tmp_path):
    result = measured(tmp_path, "mmrb2_edit", "scripted:first")
    assert result.report["n_failed"] == 0
    assert result.items[0].example.sample.context


def test_hpdv2_takes_the_mean_over_prompts_with_equal_ranks_right(tmp_path):
    """For pictures ranked 1, 2, 2 the pair of equals is right, and all a silent judge has."""
    file, _ = ROWS["hpdv2"]
    three = {"prompt": "b", "image_path": ["0.jpg", "1.jpg", "2.jpg"], "rank": [1, 2, 2]}
    (tmp_path / file).write_text(json.dumps([*ROWS["hpdv2"][1], three]), "utf-8")
    result = run_benchmark("hpdv2", open_reference("scripted:silent", opens_media=False), tmp_path)
    metric = result.report["metrics"]["mean_by_prompt"]
    assert (metric["value"], metric["n"]) == (pytest.approx((0 + 1 / 3) / 2), 2)


def test_mmrb2_counts_each_order_by_itself_and_strictly_both(tmp_path):
    """A judge that always says first is right in one order of each pair, and never in both."""
    metrics = measured(tmp_path, "mmrb2_interleaved", "scripted:first").report["metrics"]
    assert (metrics["judgement_accuracy"]["value"], metrics["judgement_accuracy"]["n"]) == (0.5, 4)
    assert (metrics["strict_accuracy"]["value"], metrics["strict_accuracy"]["n"]) == (0, 2)


def test_mmrb2_keeps_text_and_pictures_in_their_order(tmp_path):
    written(tmp_path, "mmrb2_interleaved")
    sample = examples(tmp_path, "mmrb2_interleaved")[0].sample
    assert sample.prompt == "draw\nanew"
    assert [entry.source.name for entry in sample.context] == ["source.png"]
    text, picture = sample.candidates[0]
    assert (text, picture.source.name) == ("here:", "a.png")
    assert sample.candidates[1].source.name == "b.png"


def test_categories_are_those_of_the_official_script(tmp_path):
    groups = measured(tmp_path, "multimodal_rewardbench").report["groups"]
    assert [*groups] == ["safety/bias", "vqa", "reasoning/coding"]


def test_fetv_pairs_leave_real_clips_and_those_that_are_missing_out(tmp_path):
    folder = tmp_path / "videos" / "a"
    folder.mkdir(parents=True)
    (folder / "0.mp4").write_bytes(b"there")
    judge = scores(tmp_path, **{"0_a": 2, "0_b": 1, "0_ground-truth": 0, "1_a": 5})
    metrics = measured(tmp_path, "fetv", judge).report["metrics"]
    assert (metrics["pair_accuracy_all"]["value"], metrics["pair_accuracy_all"]["n"]) == (1, 1)
    assert metrics["pair_accuracy"]["n"] == 0
    (tmp_path / "videos" / "b").mkdir()
    (tmp_path / "videos" / "b" / "0.mp4").write_bytes(b"there")
    assert measured(tmp_path, "fetv", judge).report["metrics"]["pair_accuracy"]["n"] == 1


def test_votes_of_four_kinds_are_told_apart_only_by_a_judge_that_does(tmp_path):
    written(tmp_path, "genai_bench_video")
    names = [example.id for example in examples(tmp_path, "genai_bench_video")]
    file = tmp_path / "votes.csv"
    rows = zip(names, ("first", "both_good", "both_good"), strict=True)
    file.write_text("id,winner\n" + "".join(f"{a},{b}\n" for a, b in rows), "utf-8")
    metrics = measured(tmp_path, "genai_bench_video", f"table:{file}").report["metrics"]
    assert metrics["four_way_accuracy"]["value"] == pytest.approx(2 / 3)
    judge, out = open_reference(f"table:{file}"), tmp_path / "out"
    run_benchmark("genai_bench_video", judge, tmp_path, out=out)
    again = run_benchmark("genai_bench_video", judge, tmp_path, out=out)  # verdicts are read back
    assert again.report["metrics"] == metrics
    assert metrics["three_way_accuracy"]["value"] == 1
    plain = measured(tmp_path, "genai_bench_video", "scripted:tie").report["metrics"]
    assert "four_way_accuracy" not in plain


def test_a_folder_without_the_official_file_says_which_is_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"holds no data/all_data.json or all_data.json"):
        examples(tmp_path, "multimodal_rewardbench")
    with pytest.raises(ConfigError, match="needs --data"):
        examples(None, "fetv")


def test_an_id_that_is_in_two_files_counts_once_and_is_reported(tmp_path):
    for name in ("a.json", "b.json"):
        row = answers(dimension="long", id=1)
        (tmp_path / name).write_text(json.dumps([row]), "utf-8")
    judge = open_reference("scripted:first", opens_media=False)
    result = run_benchmark("videorewardbench", judge, tmp_path)
    assert [item.example.id for item in result.items] == ["long:1"]
    assert result.report["n_broken_rows"] == 1


def test_a_limit_samples_items_by_seed_and_keeps_their_order(tmp_path):
    file, rows = ROWS["pickapic_val500"]
    many = [rows[0] | {"id": i} for i in range(50)]
    (tmp_path / file).write_text(json.dumps(many), "utf-8")
    samples = [
        [example.id for example in examples(tmp_path, "pickapic_val500", limit=9, seed=seed)]
        for seed in (0, 0, 1)
    ]
    assert samples[0] == samples[1] != samples[2]
    assert [len(names) for names in samples] == [9, 9, 9]
    assert samples[0] == sorted(samples[0], key=int)
    lowest = sorted(map(str, range(50)), key=lambda name: item_hash(name, 0))[:9]
    assert {*samples[0]} == {*lowest}


def test_a_limit_keeps_broken_rows_in_their_place(tmp_path):
    file, rows = ROWS["pickapic_val500"]
    many = [rows[0] | {"id": i} for i in range(20)]
    (tmp_path / file).write_text(json.dumps([*many[:7], {"id": 99}, *many[7:]]), "utf-8")
    options = BenchmarkOptions(limit=20)
    read = [*find_benchmark("pickapic_val500").read_rows(tmp_path, options)]
    assert [row.line for row in read] == [*range(1, 22)]
    few = [*find_benchmark("pickapic_val500").read_rows(tmp_path, BenchmarkOptions(limit=3))]
    assert [isinstance(row.content, Example) for row in few].count(True) == 3
    assert len(few) == 4


def test_published_figures_name_their_metric_group_and_source():
    for name in benchmark_names():
        for row in published_results(name):
            assert 0 <= float(row["value"]) <= 1
            assert row["kind"] in ("claimed", "independent")
            assert row["comparable"] in ("yes", "partly", "no")
            assert row["why"]
            assert row["source"].startswith("https://")
        assert find_benchmark(name).description.endswith(".")


def test_the_page_shows_figures_published_rows_and_the_worst_disagreement(tmp_path):
    folder = tmp_path / "data" / "test_images"
    folder.mkdir(parents=True)
    for name in PICTURES["generations"]:
        picture(noise(8, 8)).save(folder / name)
    votes = tmp_path / "votes.csv"
    votes.write_text("id,winner\nx:0-1,second\nx:0-2,first\nx:1-2,tie\n", "utf-8")
    result = measured(tmp_path, "imagereward", f"table:{votes}")
    write_page(find_benchmark("imagereward"), result.report, result.worst, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text("utf-8")
    assert "Share of pairs of images of different rank" in text
    assert "PickScore" in text
    assert "label: first" in text
    assert text.count("<img ") == 2  # those of the only wrong verdict
