"""The benchmark of decoding runs, at a tiny size, and makes a section of its report."""

from benchmarks.decoding import KINDS, LONG, measure, page


def test_decoding_benchmark_finds_equal_frames_and_makes_a_section():
    report = measure(1, tiny=True)
    assert [row["equal"] for row in report["long"]] == [True] * len(LONG)
    decoded = [row["decoded"] for row in report["long"]]
    assert decoded == sorted(decoded)
    assert decoded[-1] == 1
    section = page(report)
    assert section.startswith("## Decoding")
    for name in (*LONG, *KINDS):
        assert section.count(f"| {name} |") in (1, 2)
