"""Marks, torn tables and odd names cost their row alone in every command, with one line each."""

import codecs
import csv
import json
import os

import pytest
from typer.testing import CliRunner

from unified_reward.cli import app


JUDGE = ("--judge", "scripted:first")
FIRST = ("--strategy", "rank", "--orders", "1", *JUDGE)


def row(name, *images, **keys):
    candidates = [{"image": image} for image in images or ("a.png", "b.png")]
    plain = {"id": name, "task": "image_generation", "prompt": f"p {name}"}
    return plain | {"candidates": candidates, "target": {"winner": "first"}} | keys


def written(path, rows, mark=b""):
    path.write_bytes(mark + "".join(json.dumps(item) + "\n" for item in rows).encode())
    return path


def read(path):
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]


@pytest.fixture
def marked(files):
    return written(files / "in.jsonl", [row("r0"), row("r1")], codecs.BOM_UTF8)


COMMANDS = {
    "judge": ("judge", "in.jsonl", "out.jsonl", *JUDGE),
    "pairs": ("pairs", "in.jsonl", "out.jsonl", *FIRST),
    "check": ("data", "check", "in.jsonl"),
    "convert": ("data", "convert", "in.jsonl", "out.jsonl"),
    "pack": ("data", "convert", "in.jsonl", "out.parquet"),
    "stats": ("data", "stats", "in.jsonl"),
    "show": ("show", "in.jsonl"),
    "export": ("export", "in.jsonl", "out.json", "--format", "published"),
    "diffusers": ("export", "in.jsonl", "out.parquet", "--format", "diffusers"),
    "audit": ("audit", "--data", "in.jsonl", *JUDGE),
}
SEES_NO_FILE = {"convert", "stats", "show"}
"""Commands that leave media where they are, or show that one is missing."""


@pytest.mark.parametrize("name", COMMANDS)
def test_the_first_row_behind_a_mark_is_read(cli, marked, name):
    code, _, err = cli(*COMMANDS[name])
    assert code == 0, err


@pytest.mark.parametrize("name", COMMANDS)
def test_a_nul_in_a_path_fails_its_row_alone(cli, files, name):
    written(files / "in.jsonl", [row("r0"), row("nul", "a.png", "b\0.png"), row("r1")])
    code, _, err = cli(*COMMANDS[name])
    assert code == (0 if name in SEES_NO_FILE else 1)
    assert "Traceback" not in err


def test_a_row_behind_one_with_a_nul_is_judged_also_when_the_run_is_resumed(cli, files):
    source = written(files / "in.jsonl", [row("nul", "b\0.png", target=None), row("r1")])
    for _ in range(2):
        assert cli("judge", source, files / "out.jsonl", *JUDGE)[0] == 1
    assert [item["status"] for item in read(files / "out.jsonl")] == ["failed", "preferred"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_an_excluded_id_behind_a_mark_stays_out_of_the_mix(cli, files, encoding):
    written(files / "in.jsonl", [row(f"r{i}") for i in range(3)])
    (files / "ids.txt").write_bytes("r0\r\nr2\u2028\r".encode(encoding))
    recipe = "sources: [{path: in.jsonl}]\nexclude: [ids.txt]\nsplits: {train: 1.0}\ndedup: false\n"
    (files / "mix.yaml").write_bytes(recipe.encode(encoding))
    assert cli("data", "mix", "mix.yaml", "out")[0] == 0
    assert [item["id"] for item in read(files / "out" / "train.jsonl")] == ["r1"]


def test_lines_inside_a_long_cell_are_never_votes(cli, files):
    cell = "x" * 131_100 + "\n" + "a.png,injected,evil,eve,1\n" * 3
    with (files / "votes.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "prompt", "answer", "annotator", "score"])
        table.writerow(["a.png", "q1", "short", "ann", 3])
        table.writerow(["a.png", "q2", cell, "ann", 5])
        table.writerow(["a.png", "q3", "short", "bob", 4])
    source = "annotated.image_understanding.score"
    assert cli("data", "convert", "votes.csv", "out.jsonl", "--source", source)[0] == 0
    rows = {item["prompt"]: item for item in read(files / "out.jsonl")}
    assert {name: item["target"]["score"] for name, item in rows.items()} == {
        "q1": 3,
        "q2": 5,
        "q3": 4,
    }
    assert rows["q2"]["candidates"] == [{"text": cell}]


@pytest.fixture
def odd(files):
    """A folder whose name is no UTF-8, as old archives have them."""
    folder = files / os.fsdecode(b"dir\xe9")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes names in UTF-8 alone")
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes((files / name).read_bytes())
    written(folder / "in.jsonl", [row("r0"), row("r1")])
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_a_folder_whose_name_is_no_utf8_is_read(cli, odd, name):
    given = [odd / "in.jsonl" if part == "in.jsonl" else part for part in COMMANDS[name]]
    code, _, err = cli(*given)
    assert "Traceback" not in err
    assert code == (2 if name in ("convert", "export") else 0), "paths that no file can hold"


def test_names_that_are_no_utf8_are_written_with_replacement(cli, odd, files):
    out = files / "out.jsonl"
    assert cli("pairs", odd / "in.jsonl", out, *FIRST)[0] == 0
    assert {item["chosen"]["image"] for item in read(out)} <= {"dir?/a.png", "dir?/b.png"}
    assert cli("pairs", odd / "in.jsonl", out, *FIRST)[0] == 0, "resumed"
    code, printed, _ = cli("score", odd / "a.png", "--prompt", "x", *JUDGE, "--json")
    assert (code, json.loads(printed)["id"][-10:]) == (0, "dir?/a.png")
    assert "dir?/a.png" in cli("score", odd / "a.png", "--prompt", "x", *JUDGE)[1]


def test_an_output_whose_name_is_no_utf8_is_printed_with_replacement(odd):
    out = odd / os.fsdecode(b"page\xe9.html")
    result = CliRunner().invoke(app, ["show", str(odd / "in.jsonl"), "--out", str(out)])
    assert (result.exit_code, result.exception) == (0, None)
    assert result.stdout.endswith("dir?/page?.html\n")


@pytest.mark.parametrize("option", ["--prompt", "--answer"])
def test_a_text_on_the_command_line_that_is_no_utf8_is_one_line(cli, files, option):
    texts = {"--prompt": "x", "--answer": "y"} | {option: os.fsdecode(b"caf\xe9")}
    given = [part for pair in texts.items() for part in pair]
    code, _, err = cli("score", "--image", "a.png", *given, *JUDGE)
    assert code == 2
    assert err == "error: the text 'caf\\udce9' is not UTF-8\n"


def test_a_file_of_cells_separated_by_semicolons_is_one_line(cli, files):
    (files / "t.csv").write_text("id;value\nr0;1\n")
    written(files / "in.jsonl", [row("r0")])
    code, _, err = cli("judge", "in.jsonl", "out.jsonl", "--judge", "table:t.csv")
    assert code == 2
    assert "its cells are separated by ';'; save it with ','" in err


@pytest.mark.parametrize(
    "command",
    [
        ("data", "convert", "in.jsonl", "./in.jsonl"),
        ("data", "stats", "in.jsonl", "--out", "in.jsonl"),
        ("data", "mix", "mix.yaml", "."),
        ("show", "in.jsonl", "--out", "link.jsonl"),
        ("export", "in.json", "in.json", "--format", "published"),
        ("judge", "in.jsonl", "link.jsonl", *JUDGE),
    ],
)
def test_no_command_writes_over_its_input(cli, files, command):
    for name in ("in.jsonl", "in.json", "train.jsonl"):
        written(files / name, [row("r0")])
    (files / "link.jsonl").symlink_to("in.jsonl")
    (files / "mix.yaml").write_text("sources: [{path: train.jsonl}]\nsplits: {train: 1.0}\n")
    before = [path.read_bytes() for path in sorted(files.glob("*.json*"))]
    code, _, err = cli(*command)
    assert code == 2
    assert "is the input; give another output file" in err
    assert [path.read_bytes() for path in sorted(files.glob("*.json*"))] == before


@pytest.mark.parametrize("device", ["/dev/full", "/dev/null"])
def test_a_device_is_neither_read_nor_gone_on_with(cli, files, device):
    written(files / "in.jsonl", [row("r0")])
    for given in (("in.jsonl", device), (device, "out.jsonl")):
        code, _, err = cli("judge", *given, *JUDGE)
        assert code == 2
        assert f"{device} is a pipe or a device" in err


def test_a_winner_of_two_equal_ones_is_refused_before_it_is_written(cli, files):
    votes = "prompt,image_a,image_b,annotator,vote\np,a.png,b.png,ann,a\nq,a.png,a.png,ann,a\n"
    (files / "votes.csv").write_text(votes)
    source = ("--source", "annotated.image_generation.compare")
    code, _, err = cli("data", "convert", "votes.csv", "out.jsonl", *source)
    assert code == 1
    assert "row 3: the target has the winner 'first', and both are the same" in err
    assert [item["prompt"] for item in read(files / "out.jsonl")] == ["p"]


@pytest.mark.parametrize("scale", ["0,inf", "nan,1", "0,1_0"])
def test_a_scale_without_two_finite_numbers_is_wrong_usage(cli, files, scale):
    assert "--scale" in cli("data", "check", "in.jsonl", "--scale", scale)[2]


@pytest.mark.parametrize("name", [*COMMANDS, "prompts", "votes"])
def test_a_picture_given_for_text_is_named_with_the_command_that_takes_it(cli, files, name):
    evaluated = ("evaluate", "shots", "--prompts", "p.txt", *JUDGE)
    (files / "shots").mkdir()
    (files / "c.png").rename(files / "shots/0.png")
    (files / "p.txt").write_text("a cat\n")
    others = {
        "prompts": ("evaluate", "shots", "--prompts", "a.png", *JUDGE),
        "votes": (*evaluated, "--votes", "a.png"),
    }
    given = ["a.png" if word == "in.jsonl" else word for word in COMMANDS.get(name, ())]
    code, _, err = cli(*(given or others[name]))
    assert code == 2
    assert (
        "a.png is a PNG image, not a file of text; to score it: unified-reward score a.png" in err
    )
    assert not (files / "out.jsonl").exists()
