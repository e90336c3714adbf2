"""The fuzzing finds nothing in its first inputs, and reports a fault that is planted."""

import PIL.ImageOps
import pytest

from benchmarks.fuzz import rows, runner
from benchmarks.fuzz.runner import KINDS, Counts, check_kind, open_kind, report, shares
from unified_reward import media


FOUND = {"input": "images:2", "figure": "tracebacks", "message": "KeyError: 'x'", "at": "a.py:1"}
CHEAP = [name for name in KINDS if name != "checkpoints"]


@pytest.mark.parametrize("name", CHEAP)
def test_the_first_inputs_of_a_kind_give_no_fault(name, tmp_path):
    counts = check_kind(open_kind(name, tmp_path), name, range(20), seed=0)
    assert counts.findings == []
    assert counts.read + counts.refused == counts.inputs == 20
    assert counts.read


def test_a_reader_that_drops_a_row_is_reported(tmp_path, monkeypatch):
    real = rows.read_examples
    monkeypatch.setattr(rows, "read_examples", lambda *a, **b: list(real(*a, **b))[1:])
    counts = check_kind(open_kind("rows", tmp_path), "rows", range(5), seed=0)
    assert counts.rows_lost == 5
    assert "lines [1] are lost" in counts.findings[0]["message"]


def test_a_reader_that_raises_and_one_that_shows_other_pixels_are_reported(tmp_path, monkeypatch):
    images = open_kind("images", tmp_path)
    real = media.open_image

    def broken(source, **_):
        raise KeyError("IHDR")

    def inverted(source, **_):
        return PIL.ImageOps.invert(real(source))

    monkeypatch.setattr(media, "open_image", broken)
    counts = check_kind(images, "images", range(5), seed=0)
    assert counts.tracebacks == 5
    assert counts.findings[0]["input"] == "images:0"
    monkeypatch.setattr(media, "open_image", inverted)
    counts = check_kind(images, "images", range(20), seed=0)
    assert counts.wrong_reads
    assert not counts.tracebacks


def test_an_input_that_hangs_is_a_traceback(monkeypatch):
    class Hanging:
        def check(self, rng):
            while True:
                rng.random()

    monkeypatch.setattr(runner, "TIME_LIMIT_S", 0.05)
    counts = check_kind(Hanging(), "images", range(1), seed=0)
    assert counts.tracebacks == 1
    assert "HangError" in counts.findings[0]["message"]


def test_the_report_has_all_figures_and_the_inputs_add_up(capsys):
    made = report({"images": Counts(3, 1, 1, 1, findings=[FOUND])}, seed=0)
    assert made["total"]["inputs"] == 3
    assert made["total"]["tracebacks"] == 1
    assert "images:2" in capsys.readouterr().out
    assert abs(sum(shares(CHEAP, 1000).values()) - 1000) < len(CHEAP)
