"""A table answers what stands in it, by id, and says which line of a file is wrong."""

import csv
import io
import json

import pytest

from unified_reward.core.errors import DataError
from unified_reward.core.samples import Example, Image, Pair, Sample, Target, Task
from unified_reward.core.verdicts import Failed, Preferred, Ranking, Scale, Score, Scored, Unparsed
from unified_reward.io.verdict_rows import verdict_row
from unified_reward.judges.table import TableJudge
from unified_reward.pairs.make import make_pairs


A, B = Image("a.png"), Image("b.png")


def scored(name):
    return Sample(Task.IMAGE_GENERATION, "x", (A,), id=name)


def compared(name):
    return Sample(Task.IMAGE_GENERATION, "x", (A, B), id=name)


def table(tmp_path, text, suffix=".csv"):
    path = tmp_path / f"t{suffix}"
    path.write_text(text, "utf-8", newline="")
    return TableJudge.read(path)


def test_a_point_is_looked_up_by_id_and_has_an_open_scale(tmp_path):
    found = table(tmp_path, "id,value\nq,7.25\n").ask([scored("q")])
    assert found == [Scored(Score(7.25, Scale(None, None)))]


def test_a_point_about_an_answer_alone_is_looked_up_too(tmp_path):
    alone = Sample(Task.IMAGE_UNDERSTANDING, "x", ("yes",), id="q")
    (found,) = table(tmp_path, "id,value\nq,7\n").ask([alone])
    assert found.score.value == 7


@pytest.mark.parametrize(
    ("first", "second", "winner"),
    [(2, 1, "first"), (1, 2, "second"), (1.5, 1.5, "tie")],
)
def test_a_comparison_follows_from_two_points(tmp_path, first, second, winner):
    read = table(tmp_path, f"id,candidate,value\nq,0,{first}\nq,1,{second}\n")
    assert read.ask([compared("q")])[0].winner == winner


def test_a_comparison_of_its_own_comes_before_the_points(tmp_path):
    rows = (
        '{"id": "q", "value": 9}\n{"id": "q", "candidate": 1, "value": 1}\n'
        '{"id": "q", "winner": "second"}\n'
    )
    read = table(tmp_path, rows, ".jsonl")
    assert read.ask([compared("q")]) == [Preferred(0, 0, 1)]
    assert read.ask([scored("q")])[0].score.value == 9


def test_a_probability_is_that_of_the_first(tmp_path):
    read = table(tmp_path, "id,winner,probability\nq,first,0.75\nr,tie,\n")
    assert read.ask([compared("q"), compared("r")]) == [
        Preferred(0.75, 0.0, 0.25),
        Preferred(0, 1, 0),
    ]


def test_an_id_that_is_not_there_fails_alone_and_is_named(tmp_path):
    read = table(tmp_path, "id,value\nq,1\n")
    lost, found, half = read.ask([scored("z"), scored("q"), compared("q")])
    assert isinstance(lost, Failed)
    assert "has no score for id 'z'" in lost.error
    assert isinstance(found, Scored)
    assert isinstance(half, Failed)
    assert "has no compare for id 'q'" in half.error


def test_zero_is_a_point_like_any_other(tmp_path):
    read = table(tmp_path, "id,candidate,value\nq,0,0\nq,1,-1\n")
    assert read.ask([scored("q")])[0].score.value == 0
    assert read.ask([compared("q")])[0].winner == "first"


@pytest.mark.parametrize(
    ("text", "suffix", "result"),
    [
        ("id,value\na,1\nb,high\n", ".csv", "line 3: 'high' is not a number"),
        ("id,value\na,nan\n", ".csv", "line 2: score nan is not a finite number"),
        ("id,value\na,1_000\n", ".csv", "line 2: '1_000' is not a number"),
        ("id,value\na,inf\n", ".csv", "line 2: score inf is not a finite number"),
        ("id,value\na\n", ".csv", "line 2: "),
        ("name,value\na,1\n", ".csv", "line 2: no 'id'; a row has id,candidate,value or"),
        ("id,winner\na,left\n", ".csv", "line 2: winner 'left' is not first, tie or second"),
        ("id,winner,probability\na,first,1.5\n", ".csv", "line 2: probability 1.5 is not in"),
        ("id,candidate,value\na,-1,3\n", ".csv", "line 2: candidate -1 is not a whole number >= 0"),
        ("id,value\na,1\nb,1\na,2\n", ".csv", "line 4: id 'a', candidate 0, stands on line 2 al"),
        ("id,winner\na,tie\na,tie\n", ".csv", "line 3: id 'a' with a winner stands on line 2"),
        ('{"id": "a", "value": 1}\n{"id":\n', ".jsonl", "line 2: Invalid JSON"),
        ('["a", 1]\n', ".jsonl", "line 1 is not an object"),
        ("id,winner,probability\na,first,0.2\n", ".csv", "line 2: winner 'first' contradicts"),
        ("id,winner,probability\na,tie,0.9\n", ".csv", "line 2: winner 'tie' contradicts"),
        ("id,winner,probability\na,left,0.9\n", ".csv", "line 2: winner 'left' is not first"),
        ("id,p_first,p_tie,p_second\na,.5,.1,.1\n", ".csv", "line 2: probabilities .*sum to 1"),
        (
            "id,winner,p_first,p_tie,p_second\na,second,.5,.1,.4\n",
            ".csv",
            "line 2: winner 'second' contradicts the probabilities 0.5, 0.1, 0.4",
        ),
        (
            "id,probability,p_first,p_tie,p_second\na,.5,.5,.1,.4\n",
            ".csv",
            "line 2: probability 0.5 contradicts p_first",
        ),
        (
            '{"id": "a", "winner": "tie", "value": 1}\n',
            ".jsonl",
            "line 1: a value .* beside the wi",
        ),
        ('{"id": "a", "candidate": 0.5, "value": 1}\n', ".jsonl", "line 1: candidate 0.5 is not a"),
        ('{"id": true, "value": 1}\n', ".jsonl", "line 1: an id is text or a whole number"),
        ('{"id": 7, "value": 1}\n{"id": "7", "value": 1}\n', ".jsonl", "line 2: id '7', .*line 1"),
        ('{"id": 7, "value": 1, "value": 2}\n', ".jsonl", "line 1: .*'value' stands twice"),
        ("id;value\na;1\n", ".csv", "its cells are separated by ';'"),
        ("id,id,value\na,a,1\n", ".csv", "does not begin .*'id' stands twice"),
        ("id,value\na,1,2\n", ".csv", "line 2: 3 columns where the header names 2"),
        ('id,value\n"a,1\nb,2\n', ".csv", "line 2: the file ends inside row 2: a quote"),
        ("id,value\n", ".csv", "holds no row"),
        ("", ".jsonl", "holds no row"),
    ],
)
def test_a_row_of_neither_kind_is_told_by_its_line(tmp_path, text, suffix, result):
    with pytest.raises(DataError, match=rf"t{suffix}:? {result}"):
        table(tmp_path, text, suffix)


def test_a_line_separator_or_a_newline_in_an_id_is_part_of_it(tmp_path):
    rows = '{"id": "one\u2028two", "value": 3}\n\n{"id": "z", "value": 4}\r\n'
    read = table(tmp_path, rows, ".jsonl")
    assert [item.score.value for item in read.ask([scored("one\u2028two"), scored("z")])] == [3, 4]
    read = table(tmp_path, 'id,value\r\n"one\ntwo",3\r\n')
    assert read.ask([scored("one\ntwo")])[0].score.value == 3


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_table_that_cannot_be_read_is_an_error_with_its_path(tmp_path, suffix):
    with pytest.raises(DataError, match=rf"none{suffix} cannot be read"):
        TableJudge.read(tmp_path / f"none{suffix}")
    (tmp_path / f"picture{suffix}").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(DataError, match=rf"picture{suffix} .*not UTF-8"):
        TableJudge.read(tmp_path / f"picture{suffix}")


def test_the_truth_answers_targets_and_nothing_that_people_did_not_say():
    records = [
        Example.of(scored("s"), Target(score=4.0, scale=Scale(1, 5))),
        Example.of(compared("c"), Target(winner="tie")),
        Example.of(scored("unlabelled"), Target()),
    ]
    truth = TableJudge.truth(records)
    found = truth.ask([record.sample for record in records])
    assert found[:2] == [Scored(Score(4.0, Scale(1, 5))), Preferred(0, 1, 0)]
    assert isinstance(found[2], Failed)
    assert truth.name == "scripted:perfect"


def test_greater_differences_are_surer_and_none_is_certain_before_the_last_digit(tmp_path):
    rows = "".join(f"q{i},0,{x}\nq{i},1,0\n" for i, x in enumerate((1e-20, 0.001, 2, 30)))
    result = table(tmp_path, "id,candidate,value\n" + rows).ask(
        [compared(f"q{i}") for i in range(4)]
    )
    shares = [item.p_first for item in result]
    assert 0.5 < shares[0] < shares[1] < shares[2] < shares[3] < 1
    assert shares[2] == pytest.approx(0.880797, abs=1e-6)  # 1 / (1 + exp(-2))


def test_candidates_of_a_longer_row_are_found_by_their_places(tmp_path):
    rows = "".join(f"a pool,{i},{value}\n" for i, value in enumerate((3, 1, 5)))
    read = table(tmp_path, "id,candidate,value\n" + rows)
    pool = Example(Task.IMAGE_GENERATION, "x", (A, B, Image("c.png")), id="a pool")
    assert [item.score.value for item in read.ask(pool.as_samples())] == [3, 1, 5]
    assert [result.chosen for result in make_pairs([pool], read, strategy="tournament")] == [2]
    (result,) = make_pairs([pool], read, strategy="score", readings=2)
    assert (result.chosen, result.rejected) == (2, 1)
    lost = read.ask([scored("a pool 3"), compared("a pool 0-3"), compared("a pool 0")])
    assert all(isinstance(item, Failed) for item in lost)


def test_the_truth_of_a_made_pair_is_its_chosen_candidate():
    pool = Example(Task.IMAGE_GENERATION, "x", (A, B), id="p", pair=Pair(1, 0))
    (found,) = TableJudge.truth([pool]).ask(pool.as_samples())
    assert found.winner == "first"


@pytest.mark.parametrize("kind", ["both_good", "both_bad"])
def test_two_kinds_of_ties_are_ties_of_that_kind(tmp_path, kind):
    (found,) = table(tmp_path, f"id,winner\nq,{kind}\n").ask([compared("q")])
    assert (found.winner, found.tie_kind, found.text) == ("tie", kind, "")


def test_verdicts_of_a_judge_are_a_table_and_a_tie_stays_one(tmp_path):
    verdicts = {
        "q": Preferred(0.3, 0.6, 0.1),
        "r": Preferred(0.5, 0.0, 0.5),
        "s": Scored(Score(3.0, Scale(1, 5))),
    }
    rows = [verdict_row(name, one, judge="j", family="f") for name, one in verdicts.items()]
    read = table(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), ".jsonl")
    assert read.ask([compared("q"), compared("r")]) == [verdicts["q"], verdicts["r"]]
    assert read.ask([scored("s")])[0].score.value == 3.0


def test_ids_of_any_text_and_length_are_found_in_a_table(tmp_path):
    names = ["a\nb", 'say "x"', "x" * 200_000, "snow \u2028\x85", "7"]
    content = io.StringIO()
    csv.writer(content).writerows([["id", "value"], *([name, i] for i, name in enumerate(names))])
    read = table(tmp_path, "\ufeff" + content.getvalue())
    found = read.ask([scored(name) for name in names])
    assert [verdict.score.value for verdict in found] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("value", ["1_000", "\u0663", "true"])
def test_a_number_is_one_that_any_program_reads_alike(tmp_path, value):
    with pytest.raises(DataError, match="line 2"):
        table(tmp_path, f"id,value\nq,{value}\n")


def test_an_array_of_json_names_the_formats_of_a_table(tmp_path):
    with pytest.raises(DataError, match=r"a table is .csv, .tsv or .jsonl"):
        table(tmp_path, '[{"id": "q", "value": 1}]', ".json")


def test_own_verdicts_are_answered_also_where_some_are_missing(tmp_path):
    aspects = Scored(None, {"style": Score(3, Scale(None, None))}, "style 3")
    three, four = Scored(Score(3, Scale(1, 5))), Scored(Score(4, Scale(1, 5)))
    ranking = Ranking((2, 0), (3, None, 4), (three, Failed("gone"), four))
    given = {"q": Unparsed("no score", "hm"), "r": Failed("gone"), "s": ranking, "t": aspects}
    rows = [verdict_row(name, one, judge="j", family="f") for name, one in given.items()]
    read = table(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), ".jsonl")
    assert read.ask([compared("q"), scored("r"), scored("t")]) == [given["q"], given["r"], aspects]
    assert read.ask([scored("s 2"), scored("q")]) == [
        Scored(Score(4, Scale(None, None))),
        given["q"],
    ]
    assert [type(one) for one in read.ask([scored("s 1"), compared("t")])] == [Failed, Failed]
