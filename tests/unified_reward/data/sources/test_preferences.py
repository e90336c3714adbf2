import pytest
from pyarrow import Table, parquet

from tests.unified_reward.data.sources.reading import read, reasons, records
from unified_reward.core.samples import Image, Video
from unified_reward.data.example_file import mirrored
from unified_reward.data.sources import read_source


def videos(**more):
    return {"path_A": "./a.mp4", "path_B": "b.mp4", "prompt": "a dog"} | more


def votes(**more):
    return {"id": 7, "prompt": "a fox", "video_left": "l.mp4", "video_right": "r.mp4"} | more


def test_aspects_are_shares_of_the_first_and_no_overall_is_no_winner(tmp_path):
    row = videos(VQ="A", MQ="same", TA="B", fps_A=24.0)
    [record] = records(read(tmp_path, "videoalign", row)).values()
    shares = {"visual_quality": 1.0, "motion_quality": 0.5, "text_alignment": 0.0}
    assert record.target.aspects == shares
    assert record.target.winner is None
    assert record.sample.candidates == (Video(tmp_path / "a.mp4"), Video(tmp_path / "b.mp4"))


@pytest.mark.parametrize(("reply", "winner"), [("A", "first"), ("same", "tie"), ("B", "second")])
def test_overall_verdict_names_the_winner_even_without_aspects(tmp_path, reply, winner):
    [record] = records(read(tmp_path, "videogen_rewardbench", videos(Overall=reply))).values()
    assert record.target.winner == winner
    assert record.target.aspects == {}


@pytest.mark.parametrize(
    ("row", "result"),
    [
        (videos(), "no verdict in column Overall or VQ or MQ or TA"),
        (videos(Overall="C"), "a verdict is A, same, B, not C"),
        (videos(Overall="a"), "not a"),
        (videos(VQ="A", MQ=1), "not 1"),
        (videos(Overall="A", prompt=" "), "not text"),
        (videos(Overall="A", path_B=""), "nothing in column path_B"),
    ],
)
def test_a_wrong_preference_costs_itself_and_says_why(tmp_path, row, result):
    rows = read(tmp_path, "videoalign", row, videos(Overall="A"))
    assert len(records(rows)) == 1
    [(line, why)] = reasons(rows)
    assert line == 1
    assert result in why


def test_the_same_row_again_is_an_error_and_another_verdict_is_not(tmp_path):
    rows = read(tmp_path, "videoalign", *[videos(VQ=word) for word in "AAB"])
    assert len(records(rows)) == 2
    [(line, why)] = reasons(rows)
    assert line == 2
    assert "duplicate id" in why


def test_label_0_of_pickapic_is_the_share_of_the_first(tmp_path):
    images = {"caption": "a hen", "image_0": "0.png", "image_1": "1.png"}
    rows = [images | {"ranking_id": i, "label_0": label} for i, label in enumerate([1, 0.5, 0.0])]
    found = records(read(tmp_path, "pickapic", *rows))
    assert {name: item.target.winner for name, item in found.items()} == {
        "0": "first",
        "1": "tie",
        "2": "second",
    }


def test_a_url_stands_for_the_file_of_its_last_name(tmp_path):
    row = {"id": 0, "caption": "a hen", "label": "1"}
    row |= {f"image_{i}_url": f"https://host/pictures/{i}.png?width=9" for i in (0, 1)}
    [record] = records(read(tmp_path, "pickapic_val500", row)).values()
    assert record.sample.candidates == (Image(tmp_path / "0.png"), Image(tmp_path / "1.png"))
    assert record.target.winner == "second"


@pytest.mark.parametrize("cell", [b"jpeg", {"bytes": b"jpeg", "path": "x.jpg"}])
def test_pictures_in_a_parquet_file_stay_in_memory(tmp_path, cell):
    columns = {"caption": ["a hen"], "jpg_0": [cell], "jpg_1": [cell], "label_0": [1.0]}
    parquet.write_table(Table.from_pydict(columns), tmp_path / "rows.parquet")
    [row] = read_source(tmp_path / "rows.parquet", "pickapic")
    assert row.content.sample.candidates == (Image(b"jpeg"), Image(b"jpeg"))
    assert row.content.target.winner == "first"


def test_an_embedded_picture_without_bytes_is_its_path(tmp_path):
    cell = {"bytes": None, "path": "x.jpg"}
    columns = {"caption": ["a hen"], "jpg_0": [cell], "jpg_1": [cell], "label_0": [0.0]}
    parquet.write_table(Table.from_pydict(columns), tmp_path / "rows.parquet")
    [row] = read_source(tmp_path / "rows.parquet", "pickapic")
    assert row.content.sample.candidates == (Image(tmp_path / "x.jpg"), Image(tmp_path / "x.jpg"))


@pytest.mark.parametrize(
    ("vote", "winner"),
    [
        ("leftvote", "first"),
        ("rightvote", "second"),
        ("tievote", "tie"),
        ("bothbad_vote", "tie"),
    ],
)
def test_four_votes_stay_four_and_are_no_rationale(tmp_path, vote, winner):
    [record] = records(read(tmp_path, "genai_bench_video", votes(vote_type=vote))).values()
    assert (record.id, record.target.winner, record.tags) == ("7", winner, {"vote": vote})
    assert record.target.rationale == ""


@pytest.mark.parametrize("vote", ["left", "Leftvote", None, 1])
def test_an_unknown_vote_is_no_tie(tmp_path, vote):
    [(line, why)] = reasons(read(tmp_path, "genai_bench_video", votes(vote_type=vote)))
    assert line == 1
    assert "verdict" in why


def test_an_edit_has_its_source_as_context(tmp_path):
    row = {"instruct_prompt": "add a hat", "source_image": "s.png", "vote_type": "leftvote"}
    row |= {"left_output_image": "l.png", "right_output_image": "r.png"}
    [record] = records(read(tmp_path, "genai_bench_edit", row)).values()
    assert record.sample.prompt == "add a hat"
    assert record.sample.context == (Image(tmp_path / "s.png"),)
    assert record.sample.candidates == (Image(tmp_path / "l.png"), Image(tmp_path / "r.png"))


def answered(ranking, **more):
    row = {"id": "m_1", "query": "How many?", "response": ["Two.", "Three."], "image": "m.png"}
    return row | {"human_ranking": ranking} | more


def test_rank_0_is_the_better_answer_and_an_id_may_name_two_rows(tmp_path):
    rows = read(tmp_path, "vl_rewardbench", answered([0, 1]), answered([1, 0]))
    found = records(rows)
    assert found["m_1"].target.winner == "first"
    assert found["m_1:2"].target.winner == "second"
    assert found["m_1"].sample.candidates == ("Two.", "Three.")
    assert found["m_1"].sample.context == (Image(tmp_path / "m.png"),)
    assert mirrored(found["m_1"]).target.winner == "second"


@pytest.mark.parametrize(
    ("row", "result"),
    [
        (answered([0, 0]), "not [0, 0]"),
        (answered([0, 1], response=["One."]), "not a list of two"),
        (answered([0, 1], response=["One.", ""]), "an answer is text"),
        (answered([0, 1], response="One."), "not a list of two"),
        (answered([0, 1], image=None), "nothing in column image"),
    ],
)
def test_wrong_answers_cost_their_row_and_say_why(tmp_path, row, result):
    [(line, why)] = reasons(read(tmp_path, "vl_rewardbench", row))
    assert line == 1
    assert result in why
