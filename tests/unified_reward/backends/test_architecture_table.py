"""The table of docs/reference/architectures.md: each cell is measured again."""

import pytest

from tests.architectures import ARCHITECTURES, table


QUICK = ("mllama", "molmo2")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in ARCHITECTURES]
)
def test_a_row_of_the_table_holds(judges, tmp_path, name):
    models = [judges[name, dtype].model for dtype in ("float32", "bfloat16")]
    cells = table.row(name, models, tmp_path)
    assert table.read()[cells["architecture"]] == cells


def test_the_table_has_every_architecture():
    assert len(table.read()) == len(ARCHITECTURES) == len(table.PUBLISHED)
