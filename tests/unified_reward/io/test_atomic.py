"""Files and folders appear whole or not at all."""

from pathlib import Path

import pytest

from unified_reward.core.errors import DataError
from unified_reward.io.atomic import replacing, replacing_folder, write_json


def test_a_file_is_as_it_was_after_an_error_and_nothing_lies_beside_it(tmp_path):
    path = tmp_path / "new" / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write(b"half" * (1 // 0))
    assert path.read_text() == '{\n "a": 1\n}\n'
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_appears_with_all_its_files_or_not_at_all(tmp_path):
    with pytest.raises(ZeroDivisionError), replacing_folder(tmp_path / "a") as folder:
        (folder / f"{1 // 0}.tar").touch()
    assert list(tmp_path.iterdir()) == []
    with replacing_folder(tmp_path / "a") as folder:
        (folder / "0.tar").write_bytes(b"whole")
    assert (tmp_path / "a" / "0.tar").read_bytes() == b"whole"


def test_a_place_that_cannot_be_written_is_an_error_with_its_path(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"a\.json cannot be written: "):
        write_json(tmp_path / "file" / "a.json", {})


def test_a_file_in_the_working_folder_itself_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="cannot be written: "):
        write_json(Path(), {})


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device is full")
def test_a_device_is_written_to_and_stays_a_device(tmp_path):
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(DataError, match="full cannot be written: No space left on device"):
        write_json(tmp_path / "full", {})
    assert (tmp_path / "full").is_char_device()
