"""Rows written to a file and read back as a source."""

import json

from unified_reward.core.verdicts import Failed
from unified_reward.data.sources import read_source


def read(folder, name, *rows):
    """Read JSON rows as a source."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return list(read_source(path, name))


def reasons(rows):
    """Line and reason of every row that cannot be used."""
    return [(row.line, row.content.error) for row in rows if isinstance(row.content, Failed)]


def records(rows):
    """The usable ones by id."""
    return {row.id: row.content for row in rows if not isinstance(row.content, Failed)}
