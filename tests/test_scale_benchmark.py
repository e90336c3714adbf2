"""The benchmark of a million rows runs at a small size, and sees rows that are lost or doubled."""

import json

import pytest

from benchmarks import scale


def test_a_killed_run_goes_on_and_the_section_names_it(capsys):
    scale.main(["--json", "--rows", "700", "--small", "70", "--parts", "judge"])
    report = json.loads(capsys.readouterr().out)
    judged = report["judge"]
    assert judged["few"]["rows"] == 70
    assert judged["resumed"]["done"] >= 693
    assert judged["peak_ratio"] < 1.2
    section = scale.page(report)
    assert section.startswith("## A million rows\n")
    assert "every id once and in order" in section


@pytest.mark.parametrize("kept", [[0, 2], [0, 1, 1, 2], [1, 0, 2]])
def test_rows_that_are_lost_doubled_or_out_of_order_are_seen(tmp_path, kept):
    scale._write_rows(tmp_path / "in.jsonl", 3, 2, str)
    lines = (tmp_path / "in.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "out.jsonl").write_text("".join(lines[i] for i in kept))
    with pytest.raises((SystemExit, ValueError)):
        scale._check(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
