"""The table of sources, and reading by name."""

import json
import tracemalloc
from pathlib import Path

import pytest

from tests.unified_reward.data.sources.test_sharegpt import row
from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Example
from unified_reward.core.verdicts import Failed
from unified_reward.data.sources import SOURCES, read_source


PUBLISHED = (
    *("hpd", "oip", "evalmuse_pair", "evalmuse_point", "llava_critic_pair", "llava_critic_point"),
    *("videodpo", "lift_hra", "videofeedback", "hpd", "sharegptvideo_point"),
)


def test_the_eleven_published_sets_are_there_and_say_where_they_come_from():
    for name in PUBLISHED:
        source = SOURCES[name]
        assert source.name == name
        assert source.url.startswith("https://")
        assert (source.form == "compare") == (source.scale is None and not source.aspects)


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_source_has_a_reader(name, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("no row\n" * 2, "utf-8")
    rows = [*read_source(file, name)]
    assert rows
    assert all(isinstance(item.content, Failed) for item in rows)


def test_an_unknown_source_is_told_at_once_with_those_there_are(tmp_path):
    with pytest.raises(ConfigError, match=r"no source 'hps'; there are .*hpd"):
        read_source(tmp_path / "rows.json", "hps")


def test_a_repeated_id_fails_and_a_broken_row_does_not_stop_the_others(tmp_path):
    file = tmp_path / "train_data.json"
    broken = row("hpd", conversations=[])
    file.write_text(json.dumps([row("hpd"), broken, row("hpd"), row("hpd", id="b")])[:-1], "utf-8")
    rows = [*read_source(file, "hpd")]
    assert [(item.line, item.id.partition(" (")[0]) for item in rows] == [
        (1, "hpd-0"), (2, "row 2"), (3, "row 3"), (4, "b"), (5, "row 5"),
    ]  # fmt: skip
    assert "turns out of order" in rows[1].content.error
    assert rows[2].content.error == "duplicate id 'hpd-0' (first on row 1)"
    assert rows[4].content.error == "the file ends inside row 5"
    assert rows[0].content.source == "hpd"


def test_reading_holds_ids_and_no_rows(tmp_path):
    """For a file of 3.5 MB, what is held never grows by more than a few chunks of 64 kB."""
    file = tmp_path / "train_data.json"
    item = json.dumps(row("hpd", id="@", padding="x" * 1_500))
    file.write_text("[" + ",".join(item.replace("@", str(i)) for i in range(2_000)) + "]", "utf-8")
    tracemalloc.start()
    counted, start = 0, 0
    for read in read_source(file, "hpd"):
        counted += isinstance(read.content, Example) and not read.content.candidates
        if counted == 500:
            start = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert counted == 2_000
    assert peak - start < 500_000 < file.stat().st_size / 7


def test_every_published_source_stands_on_the_how_to_page():
    page = (Path(__file__).parents[4] / "docs" / "howto" / "prepare-data.md").read_text("utf-8")
    named = {name for name in SOURCES if not name.startswith("annotated.")}
    assert not {name for name in named if f"`{name}`" not in page}
