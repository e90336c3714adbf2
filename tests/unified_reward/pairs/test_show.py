"""The page of pairs or candidates."""

import json
import re

import pytest
import typer
from typer.testing import CliRunner

from tests.unified_reward.pairs.test_export import pair
from tests.unified_reward.pairs.test_preferences import row, written
from unified_reward.cli.show import show
from unified_reward.core.errors import DataError
from unified_reward.core.samples import Task
from unified_reward.pairs.show import page


def html(path, n=24, status=""):
    return page(path, n=n, status=status, advance=lambda _: None)[0].html()


def cards(text):
    """Text of each card, without its medium."""
    found = re.findall(r'<article class="card">(.*?)</article>', text, re.DOTALL)
    return [" | ".join(re.sub(r"<[^>]*>", "\n", item).split("\n")).strip(" |") for item in found]


def answer(card):
    return [word for word in card.split(" | ") if word]


def test_the_chosen_one_stands_first_then_the_rejected_then_the_others(tmp_path):
    given = pair(Task.IMAGE_GENERATION, tmp_path)
    text = html(written(tmp_path, given))
    by_side = {item["side"] or "": item["score"] for item in given["candidates"]}
    found = [answer(item) for item in cards(text)]
    assert found[:2] == [[side, f"score {by_side[side]:.4g}"] for side in ("chosen", "rejected")]
    others = [f"score {item['score']:.4g}" for item in given["candidates"] if item["side"] is None]
    assert found[2:] == [[item] for item in others]
    assert text.count("data:image/png") == 4
    assert re.search(rf"<h2 [^>]*>{given['prompt']}</h2>", text)


def test_of_several_winners_only_the_one_of_the_pair_is_marked_chosen(tmp_path):
    """For rank and sift every winner of a comparison is on the chosen side, twins on none."""
    given = pair(Task.IMAGE_UNDERSTANDING, tmp_path)
    parts = [
        {"text": "won too", "score": 0.4, "side": "chosen", "reason": None},
        given["chosen"] | {"score": 0.9, "side": "chosen", "reason": None},
        given["rejected"] | {"score": 0.1, "side": "rejected", "reason": None},
        given["chosen"] | {"score": None, "side": None, "reason": "the same as candidate 1"},
    ]
    scores = {"chosen_score": 0.9, "rejected_score": 0.1}
    text = html(written(tmp_path, given | scores | {"candidates": parts}))
    assert [answer(item) for item in cards(text)] == [
        ["context"],
        ["chosen", given["chosen"]["text"], "score 0.9"],
        ["rejected", given["rejected"]["text"], "score 0.1"],
        ["won too", "score 0.4"],
        [given["chosen"]["text"], "the same as candidate 1"],
    ]


def test_answers_stand_behind_the_clip_they_are_about(tmp_path):
    given = pair(Task.VIDEO_UNDERSTANDING, tmp_path)
    text = html(written(tmp_path, given))
    found = [answer(item) for item in cards(text)]
    assert [item[0] for item in found[:3]] == ["context", "chosen", "rejected"]
    assert found[1][1] == given["chosen"]["text"]
    assert found[2][1] == given["rejected"]["text"]
    assert text.count("data:image/webp") == 1


def test_rows_are_counted_by_status_and_reason_and_shown_in_order(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    bad = [{"image": "broken.png", "score": None, "side": None, "reason": "it was not judged"}]
    given = [
        row("1", judge_calls=7),
        row("2", status="dropped", reason="score 2 is not above 3", judge_calls=3),
        row("3", status="dropped", reason="score 4 is not above 5", judge_calls=0),
        row("4", status="failed", reason="no candidate", candidates=bad, judge_calls=0),
        row("5", status="failed", reason="no JSON", task=None, prompt=None, context=None),
        "no JSON",
    ]
    path = written(tmp_path, *given)
    text = html(path)
    assert "2 dropped, 2 failed, 1 kept, 1 unusable" in text
    # 7 + 3 + 4 calls over the five rows that are some.
    assert "2.8 judge calls a row" in text
    reason = '<td><div dir="auto">score … is not above …</div></td><td class="number">2</td>'
    assert reason in text
    assert [item for item in "1234" if f">{item} · image_generation" in text] == list("1234")
    assert "cannot be shown: " in text
    assert "broken.png: not an image; PNG" in text
    assert "it was not judged" in text
    assert html(path, n=1).count(" · image_generation") == 1
    assert ">4 · image_generation · failed · no candidate<" in html(path, n=1, status="failed")
    with pytest.raises(DataError, match="no row that is keep; its rows are kept, dropped, failed"):
        html(path, status="keep")


def test_a_status_that_no_row_has_says_which_rows_have_it(tmp_path):
    path = written(tmp_path, {key: row("1")[key] for key in ("id", "task", "prompt")})
    due = "its rows are without a status; rows that `unified-reward pairs` made are kept or dropped"
    with pytest.raises(DataError, match=due):
        html(path, status="kept")


def test_a_file_of_candidates_is_shown_as_it_is(tmp_path):
    given = pair(Task.IMAGE_GENERATION, tmp_path)
    parts = [{"image": item["image"]} for item in given["candidates"]]
    made = {name: given[name] for name in ("id", "reason", "task", "prompt", "context")}
    made |= {"status": "generated", "candidates": [parts[0], [{"text": "a star:"}, parts[1]]]}
    made |= {"criteria": "", "policy": "tiny", "seed": 0, "duplicates": 1}
    text = html(written(tmp_path, made))
    assert "1 generated" in text
    assert "judge calls" not in text
    assert [answer(item) for item in cards(text)] == [[], ["a star:"]]
    assert text.count("data:image/png") == 2


def test_the_command_writes_beside_the_file_or_where_it_is_told(tmp_path):
    app = typer.Typer()
    app.command()(show)
    path = written(tmp_path, pair(Task.IMAGE_GENERATION, tmp_path), row("2", status="dropped"))
    done = CliRunner().invoke(app, [str(path)])
    assert done.exit_code == 0
    assert done.stdout.strip() == str(tmp_path / "pairs.html")
    assert (tmp_path / "pairs.html").read_text("utf-8") == html(path)
    other = tmp_path / "other.html"
    CliRunner().invoke(app, [str(path), "--out", str(other), "--n", "5", "--status", "dropped"])
    assert other.read_text("utf-8") == html(path, 5, "dropped")
    assert json.loads(path.read_text().splitlines()[0])["prompt"] not in other.read_text("utf-8")


def test_the_command_ends_with_1_where_a_row_is_unusable(tmp_path):
    app = typer.Typer()
    app.command()(show)
    path = written(tmp_path, pair(Task.IMAGE_GENERATION, tmp_path), row("2", status="good"))
    assert CliRunner().invoke(app, [str(path)]).exit_code == 1
    assert (tmp_path / "pairs.html").is_file()
