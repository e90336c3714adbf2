"""score, compare and rank on the command line: rows, order, exit codes, messages."""

import json
import subprocess
import sys

import pytest

from tests.unified_reward.io.test_rows import CONTRACT


def rows(out):
    """One JSON row a line, and nothing else."""
    return [json.loads(line) for line in out.splitlines()]


def test_score_gives_a_row_a_file_in_the_order_and_by_the_name_given(cli, files):
    names = ["b.png", "./a.png", f"../{files.name}/c.png"]
    code, out, _ = cli("score", *names, "--prompt", "p", "--judge", "scripted:tie", "--json")
    assert code == 0
    assert [row["id"] for row in rows(out)] == names
    for row in rows(out):
        assert list(row) == CONTRACT
        assert (row["status"], row["value"], row["normalized"]) == ("scored", 3.0, 0.5)
        assert (row["scale"], row["judge"], row["family"]) == ([1, 5], "scripted:tie", "native")


def test_a_folder_stands_for_the_media_in_it_in_natural_order(cli, files):
    (files / "shots" / "more").mkdir(parents=True)
    for name, shot in (("a.png", "10.png"), ("b.png", "9.png"), ("c.png", "more/1.png")):
        (files / name).rename(files / "shots" / shot)
    (files / "shots" / "prompts.txt").write_text("p")
    options = ("--prompt", "p", "--judge", "scripted:tie", "--json")
    code, out, _ = cli("score", "shots", *options)
    assert (code, [row["id"] for row in rows(out)]) == (
        0,
        ["shots/9.png", "shots/10.png", "shots/more/1.png"],
    )
    (files / "empty").mkdir()
    code, _, error = cli("score", "empty", *options)
    assert code == 2
    assert "empty is a folder without images or videos" in error


@pytest.mark.slow
@pytest.mark.usefixtures("files")
def test_the_tiny_judge_is_opened_by_its_name_and_loads_without_a_word():
    command = [sys.executable, "-m", "unified_reward", "score", "a.png", "--json"]
    command += ["--prompt", "a red cube", "--judge", "tiny_judge"]
    command += ["--device", "cpu", "--dtype", "float32", "--batch-size", "1"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    (row,) = rows(done.stdout)
    assert (row["judge"], row["status"]) == ("tiny_judge", "scored")
    assert 1 <= row["value"] <= 5


@pytest.mark.usefixtures("files")
def test_videos_are_recognised_by_content_and_scored_on_their_scale(cli, files):
    (files / "a.mp4").rename(files / "clip.png")
    _, out, _ = cli("score", "clip.png", "--prompt", "p", "--judge", "scripted:tie", "--json")
    assert rows(out)[0]["scale"] == [1, 10]


@pytest.mark.usefixtures("files")
def test_answers_about_an_image_are_scored_and_named_by_their_text(cli):
    arguments = ("--image", "a.png", "--prompt", "?", "--answer", "yes [b]", "--answer", "{no}")
    code, out, _ = cli("score", *arguments, "--judge", "scripted:tie", "--json")
    assert code == 0
    assert [row["id"] for row in rows(out)] == ["yes [b]", "{no}"]
    assert {tuple(row["scale"]) for row in rows(out)} == {(0, 100)}


@pytest.mark.usefixtures("files")
def test_compare_asks_in_both_orders_by_default(cli):
    arguments = (
        "compare",
        "a.png",
        "b.png",
        "--prompt",
        "p",
        "--judge",
        "scripted:first",
        "--json",
    )
    code, out, _ = cli(*arguments)
    (row,) = rows(out)
    assert code == 0
    assert list(row) == CONTRACT
    assert (row["status"], row["winner"], row["consistent"]) == ("preferred", "tie", False)
    assert [one["winner"] for one in row["orders"]] == ["first", "second"]
    (row,) = rows(cli(*arguments, "--orders", "1")[1])
    assert (row["winner"], row["consistent"], row["orders"]) == ("first", None, None)
    assert row["id"] == "a.png | b.png"


def test_rank_gives_places_in_the_order_given(cli, files):
    table = files / "t.csv"
    table.write_text("id,value\na.png,1\nb.png,3\nc.png,2\n")
    arguments = ("rank", "a.png", "b.png", "c.png", "--prompt", "p", "--judge", f"table:{table}")
    code, out, _ = cli(*arguments, "--json")
    (row,) = rows(out)
    assert code == 0
    assert list(row) == CONTRACT
    assert (row["status"], row["order"], row["scores"]) == ("ranked", [1, 2, 0], [1, 3, 2])
    code, out, _ = cli(*arguments)
    lines = [line.split() for line in out.splitlines()]
    assert (code, lines) == (
        0,
        [["1", "b.png", "3.00"], ["2", "c.png", "2.00"], ["3", "a.png", "1.00"]],
    )
    code, out, error = cli(*arguments, "none.png")
    assert (code, out.splitlines()[-1].split()) == (1, ["-", "none.png"])
    assert "none.png" in error


@pytest.mark.usefixtures("files")
def test_a_file_that_cannot_be_read_makes_exit_1_and_the_others_are_answered(cli):
    arguments = ("score", "a.png", "none.png", "b.png", "--prompt", "p", "--judge", "scripted:tie")
    code, out, err = cli(*arguments, "--json")
    assert code == 1
    assert [row["status"] for row in rows(out)] == ["scored", "failed", "scored"]
    assert "none.png: cannot be opened: No such file" in rows(out)[1]["reason"]
    assert list(rows(out)[1]) == CONTRACT
    code, out, err = cli(*arguments)
    assert (code, err) == (1, "")
    assert "failed: none.png: cannot be opened" in out


@pytest.mark.usefixtures("files")
def test_silence_is_unparsed_and_makes_exit_1(cli):
    for command in ("score", "rank", "compare"):
        arguments = (command, "a.png", "b.png", "--prompt", "p", "--judge", "scripted:silent")
        code, out, _ = cli(*arguments, "--json")
        assert code == 1
        for row in rows(out):
            assert row["value"] is row["winner"] is None
            assert row["reason"]
            assert row["order"] in (None, [])


USAGE = [
    (["score", "--prompt", "p"], "give files to judge, or --answer about one --image"),
    (["score", "a.png", "--answer", "x", "--image", "b.png", "--prompt", "p"], "not both"),
    (["score", "a.png", "--image", "b.png", "--prompt", "p"], "not both"),
    (["score", "--answer", "x", "--prompt", "p"], "give files to judge, or --answer"),
    (["score", "--image", "a.png", "--prompt", "p"], "give files to judge, or --answer"),
    (
        ["score", "--image", "a.png", "--video", "a.mp4", "--answer", "x", "--prompt", "p"],
        "one --image or --video",
    ),
    (["rank", "a.png", "a.mp4", "--prompt", "p"], "images and videos cannot be judged against"),
    (["score", "a.png"], "Missing option '--prompt'"),
    (["score", "a.png", "--prompt", "p", "--colour", "x"], "No such option: --colour"),
    (["score", "a.png", "--prompt", "p", "--orders", "2"], "No such option: --orders"),
    (
        ["compare", "a.png", "b.png", "--prompt", "p", "--orders", "3"],
        "Invalid value for '--orders'",
    ),
    (["compare", "a.png", "--prompt", "p"], "compare takes two candidates, not 1"),
    (["compare", "a.png", "b.png", "c.png", "--prompt", "p"], "not 3; use rank"),
    (["rank", "a.png", "b.png", "--prompt", "p", "--by", "luck"], "'luck' is not one of"),
    (["score", "a.png", "--prompt", "p"], "no judge is named, and there is no default"),
    (["rank", "a.png", "b.png", "--prompt", "p"], "installed by name: tiny_judge ("),
    (
        ["score", "a.png", "--prompt", "p", "--judge", "scripted:tie", "--quantize", "4bit"],
        "is for local vision-language checkpoints",
    ),
    (["score", "a.png", "--prompt", "p", "--quantize", "2bit"], "'2bit' is not one of"),
    (["score", "a.png", "--prompt", "p", "--judge", "nonsense"], "there is no judge 'nonsense'"),
    (["score", "a.png", "--prompt", "p", "--judge", "tiny_jugde"], "'tiny_jugde', but tiny_judge"),
    (["score", "a.png", "--prompt", "p", "--judge", "scripted:x"], "no scripted model 'x'"),
    (
        ["score", "a.png", "--prompt", "p", "--judge", "scripted:perfect"],
        "needs targets, which are not known here",
    ),
    (["score", "a.png", "--prompt", "p", "--judge", "table:t.csv"], "t.csv cannot be read"),
    (
        ["score", "a.png", "--prompt", "p", "--judge", "scripted:tie", "--family", "best"],
        "no family 'best'; there are",
    ),
    (
        ["score", "a.png", "--prompt", "p", "--judge", "CodeGoat24/UnifiedReward-qwen-7b"],
        "was trained on official wordings",
    ),
    (["score", "a.png", "--prompt", "p", "--judge", "[/b]x"], "there is no judge '[/b]x'; give"),
    (["judge", "none.jsonl", "out.jsonl"], "none.jsonl cannot be read"),
    (["judge", "a.png"], "Missing argument 'OUT.jsonl'"),
    (["jugde"], "No such command 'jugde'"),
]


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(("args", "message"), USAGE)
def test_wrong_usage_is_exit_2_and_a_message_for_people(cli, args, message):
    code, out, err = cli(*args)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_brackets_in_names_and_answers_are_shown_and_are_no_markup(cli, files):
    (files / "a.png").rename(files / "x[red].png")
    arguments = ("score", "x[red].png", "no[/b].png", "--prompt", "p", "--judge", "scripted:tie")
    code, out, _ = cli(*arguments)
    assert code == 1
    assert "x[red].png" in out
    assert "no[/b].png: cannot be opened" in out


@pytest.mark.usefixtures("files")
def test_edits_are_judged_with_the_image_before(cli):
    arguments = ("--prompt", "make it red", "--source", "a.png", "--json")
    _, out, _ = cli("compare", "b.png", "c.png", *arguments, "--judge", "scripted:second")
    assert rows(out)[0]["winner"] == "tie", "said in both orders, so it is no preference"
    _, out, _ = cli("score", "b.png", *arguments, "--judge", "scripted:tie")
    assert rows(out)[0]["scale"] == [0, 25]
    code, out, _ = cli("rank", "b.png", "c.png", *arguments, "--judge", "scripted:tie")
    assert (code, rows(out)[0]["status"]) == (0, "ranked")


@pytest.mark.usefixtures("files")
def test_a_source_goes_with_image_files_only(cli):
    arguments = ("score", "--prompt", "x", "--image", "a.png", "--answer", "b", "--source", "c.png")
    code, _, message = cli(*arguments)
    assert code == 2
    assert "give it with image files" in message
