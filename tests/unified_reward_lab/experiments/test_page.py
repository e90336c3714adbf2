"""A section goes between its markers, and nothing else changes."""

import pytest

from unified_reward.core.errors import DataError
from unified_reward_lab.experiments.page import replace_section


BEGIN, END = "<!-- begin a_b -->", "<!-- end a_b -->"


@pytest.fixture
def document(tmp_path):
    return tmp_path / "page.md"


def test_what_stands_between_the_markers_is_replaced_again_and_again(document):
    split_at_section = "# Title \u2013 é\r\n\n{}\n<!-- begin other -->\n<!-- end other -->\n"
    document.write_bytes(split_at_section.format(f"{BEGIN}\nold\n\nolder\n{END}").encode())
    for section in ("## New\n\ntext\n", "## Newer\n"):
        replace_section(document, "a_b", section)
        expected = split_at_section.format(f"{BEGIN}\n{section}{END}")
        assert document.read_bytes() == expected.encode()
    assert [one.name for one in document.parent.iterdir()] == ["page.md"]


def test_an_empty_place_is_filled(document):
    document.write_text(f"{BEGIN}{END}")
    replace_section(document, "a_b", "text")
    assert document.read_text() == f"{BEGIN}\ntext\n{END}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing", f"has {BEGIN} 0 times, not once"),
        (f"{BEGIN}\n", f"has {END} 0 times, not once"),
        (f"{BEGIN}\n{END}\n{BEGIN}\n", f"has {BEGIN} 2 times, not once"),
        (f"{BEGIN}\n{END}\n{END}\n", f"has {END} 2 times, not once"),
        (f"{END}\n{BEGIN}\n", f"has {END} above {BEGIN}"),
    ],
)
def test_missing_doubled_and_misplaced_markers_are_named(document, text, message):
    document.write_text(text)
    with pytest.raises(DataError, match=message):
        replace_section(document, "a_b", "new")
    assert document.read_text() == text


def test_a_document_that_cannot_be_read_is_named(document):
    with pytest.raises(DataError, match=r"page\.md cannot be read"):
        replace_section(document, "a_b", "new")
    document.write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"page\.md cannot be read"):
        replace_section(document, "a_b", "new")
