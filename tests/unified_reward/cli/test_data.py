"""data check, convert, mix and stats on the command line: what they print and how they end."""

import json
import shutil
from pathlib import Path

import pytest

from tests.unified_reward.media.made import file_of, noise, picture


def row(name, media="a.png", **more):
    sample = {"id": name, "task": "image_generation", "prompt": f"prompt {name}"}
    return (
        sample | {"candidates": [{"image": media}], "target": {"score": 3, "scale": [1, 5]}} | more
    )


def written(name, *rows):
    lines = [one if isinstance(one, str) else json.dumps(one) for one in rows]
    Path(name).write_text("".join(f"{line}\n" for line in lines))


def table(name):
    return [json.loads(line) for line in Path(name).read_text().splitlines()]


@pytest.fixture
def bad(files):
    written("bad.jsonl", row("1"), "no json", row("3", "gone.png"), row("4"), row("5", "gone.png"))
    written("good.jsonl", row("1"), row("2", "b.png"))


@pytest.mark.usefixtures("bad")
def test_check_lists_every_bad_row_then_totals_and_ends_with_1(cli):
    code, out, _ = cli("data", "check", "bad.jsonl")
    lines = out.splitlines()
    assert code == 1
    assert lines[0].startswith("row 2: line 2: ")
    assert lines[1:3] == ["row 3: missing media: gone.png", "row 5: missing media: gone.png"]
    assert lines[3] == "2 x missing media"
    assert lines[-1] == "5 rows, 3 bad"
    assert cli("data", "check", "good.jsonl")[:2] == (0, "2 rows, 0 bad\n")


@pytest.mark.usefixtures("bad")
def test_check_in_json_prints_the_bad_rows_and_nothing_else(cli):
    code, out, _ = cli("data", "check", "bad.jsonl", "--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert code == 1
    assert [one["row"] for one in found] == [2, 3, 5]
    assert found[1] == {"row": 3, "id": "3", "reason": "missing media: gone.png"}
    assert cli("data", "check", "good.jsonl", "--json")[:2] == (0, "")


@pytest.mark.usefixtures("bad")
def test_check_decodes_only_when_told_to(cli, files):
    whole = file_of(picture(noise(64, 64, 3)), "JPEG")
    (files / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    written("cut.jsonl", row("1", "cut.jpg"))
    assert cli("data", "check", "cut.jsonl")[0] == 0
    code, out, _ = cli("data", "check", "cut.jsonl", "--decode")
    assert code == 1
    assert "row 1: unreadable media: cut.jpg: the image is broken" in out


@pytest.mark.usefixtures("bad")
def test_convert_writes_the_good_rows_tells_the_bad_ones_and_ends_with_1(cli):
    code, out, err = cli("data", "convert", "bad.jsonl", "packed.tar")
    assert (code, out) == (1, "packed.tar\n")
    assert "row 3: gone.png: cannot be opened" in err
    assert "5 rows, 3 bad" in err
    assert cli("data", "convert", "packed.tar", "back/out.jsonl")[0] == 0
    assert [one["id"] for one in table("back/out.jsonl")] == ["1", "4"]


@pytest.mark.usefixtures("bad")
def test_there_and_back_gives_the_same_picture(cli, files):
    for name in ("p.parquet", "p.tar", "shards"):
        assert cli("data", "convert", "good.jsonl", name)[0] == 0
        assert cli("data", "convert", name, f"{name}-back/out.jsonl")[0] == 0
        first = table(f"{name}-back/out.jsonl")[0]["candidates"][0]["image"]
        assert (Path(f"{name}-back") / first).read_bytes() == (files / "a.png").read_bytes()


SHAREGPT = [
    {
        "id": "one",
        "images": ["a.png", "b.png"],
        "conversations": [
            {"from": "human", "value": "<image>\n<image>\nWhich of these is nicer?"},
            {"from": "gpt", "value": "Image 1 is better than Image 2."},
        ],
    },
    {
        "id": "two",
        "images": ["a.png"],
        "conversations": [
            {"from": "human", "value": "<image>\nWhich?"},
            {"from": "gpt", "value": "Image 1 is better than Image 2."},
        ],
    },
]


def test_a_published_file_is_checked_where_its_media_lie_and_converted(cli, files):
    (files / "pics").mkdir()
    for name in ("a.png", "b.png"):
        shutil.move(name, "pics")
    Path("train_data.json").write_text(json.dumps(SHAREGPT))
    arguments = ("train_data.json", "--source", "hpd")
    code, out, _ = cli("data", "check", *arguments)
    assert code == 1
    assert "row 1: missing media: a.png; missing media: b.png" in out
    code, out, _ = cli("data", "check", *arguments, "--media", "pics")
    assert code == 1
    assert out.startswith("row 2: ")
    code, out, _ = cli(
        "data", "convert", *arguments[:1], "out.jsonl", *arguments[1:], "--media", "pics"
    )
    assert code == 1
    (written,) = table("out.jsonl")
    assert (written["id"], written["source"], written["target"]["winner"]) == (
        "one",
        "hpd",
        "first",
    )
    assert written["context"] == [{"image": "pics/a.png"}, {"image": "pics/b.png"}]
    assert written["messages"] == SHAREGPT[0]["conversations"]


MIX = """
sources:
  - {path: good.jsonl}
  - {path: bad.jsonl}
splits: {train: 1.0}
"""


@pytest.mark.usefixtures("bad")
def test_mix_shows_what_became_of_the_rows_and_ends_with_1_if_some_are_bad(cli):
    Path("mix.yaml").write_text(MIX)
    code, out, _ = cli("data", "mix", "mix.yaml", "out")
    assert code == 1
    assert "out/train.jsonl: 3 rows" in out
    assert out.splitlines()[0].split()[-2:] == ["dropped", "failed"]
    assert len(table("out/train.jsonl")) == 3
    code, out, _ = cli("data", "mix", "mix.yaml", "out", "sources=[{path: good.jsonl, count: 1}]")
    assert code == 0
    assert len(table("out/train.jsonl")) == 1


@pytest.mark.usefixtures("bad")
def test_stats_writes_a_page(cli):
    code, out, _ = cli("data", "stats", "bad.jsonl", "--n", "2", "--out", "page.html")
    assert (code, out) == (1, "page.html\n")
    html = Path("page.html").read_text("utf-8")
    assert "4 usable rows, 1 unusable" in html
    assert html.count("<article") == 2
    assert cli("data", "stats", "good.jsonl", "--out", "page.html")[0] == 0


USAGE = [
    (["check"], "Missing argument 'PATH'"),
    (["check", "gone.jsonl"], "gone.jsonl cannot be read"),
    (["check", "good.jsonl", "--source", "hdp"], "no source 'hdp'; there are"),
    (["check", "good.jsonl", "--media", "."], "scale and media are for published sources"),
    (["convert", "good.jsonl", "out.zip"], "out.zip is not .jsonl, .parquet, .tar"),
    (["mix", "gone.yaml", "out"], "gone.yaml cannot be read"),
    (["mix", "mix.yaml", "out", "colour=red"], "colour: Unexpected keyword argument"),
    (["mix", "mix.yaml", "out", "n=4"], "both or none"),
    (["stats", "gone.jsonl"], "gone.jsonl cannot be read"),
]


@pytest.mark.usefixtures("bad")
@pytest.mark.parametrize(("args", "message"), USAGE)
def test_wrong_usage_is_exit_2_and_a_message_for_people(cli, args, message):
    Path("mix.yaml").write_text(MIX)
    code, out, err = cli("data", *args)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_own_ratings_have_their_own_scale_and_their_agreement_is_told(cli, tmp_path):
    lines = ["prompt,image,annotator,score", "a,a.png,x,80", "a,a.png,y,80", "b,b.png,x,10"]
    (tmp_path / "own.csv").write_text("\n".join([*lines, "b,b.png,y,10"]))
    arguments = ("--source", "annotated.image_generation.score", "--scale", "0,100")
    out = tmp_path / "page.html"
    assert cli("data", "stats", tmp_path / "own.csv", *arguments, "--out", out)[0] == 0
    assert "1.000" in out.read_text("utf-8")
    converted = tmp_path / "own.jsonl"
    assert cli("data", "convert", tmp_path / "own.csv", converted, *arguments)[0] == 0
    targets = [json.loads(line)["target"] for line in converted.read_text().splitlines()]
    assert [(one["score"], one["scale"]) for one in targets] == [(80, [0, 100]), (10, [0, 100])]
    code, _, err = cli("data", "check", tmp_path / "own.csv", *arguments[:3], "5,1")
    assert (code, "two numbers that rise" in err) == (2, True)
    code, _, err = cli("data", "check", tmp_path / "own.csv", *arguments[:3], "0,inf")
    assert (code, "two numbers that rise" in err) == (2, True)
    code, _, err = cli("data", "check", tmp_path / "own.csv", "--source", "fetv", *arguments[2:])
    assert (code, "fetv has its own scale, 1 to 5" in err) == (2, True)
