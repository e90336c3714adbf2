"""A fingerprint is that of contents: it moves with them, and with nothing else."""

import json
import os
import shutil

import numpy as np
import PIL.Image
import pytest
from safetensors.numpy import save_file

from unified_reward.core.samples import Image, Video
from unified_reward.io import fingerprints
from unified_reward.io.fingerprints import (
    example_fingerprint,
    file_fingerprint,
    folder_fingerprints,
)
from unified_reward.io.rows import read_row


ROW = {
    "id": "a",
    "task": "image_editing",
    "prompt": "make it red",
    "candidates": [{"image": "a.png"}, [{"text": "see"}, {"image": "b.png"}]],
    "context": [{"image": "b.png"}],
    "criteria": "hands",
    "target": {"winner": "first"},
    "tags": {"k": "v"},
}
READS = ("task", "prompt", "candidates", "context", "criteria", "tags")


@pytest.fixture
def folder(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(name.encode() * 100)
    return tmp_path


def fingerprint(folder, *, reads=READS, text=None, **changed):
    row = read_row((text or json.dumps(ROW | changed)).encode(), folder, strict=False)
    return example_fingerprint(row.content, reads, row.prompt)


def test_spelling_folder_and_what_nobody_reads_do_not_count(folder, tmp_path_factory):
    before = fingerprint(folder)
    spaced = json.dumps(dict(reversed(ROW.items())), indent=1).replace("\n", " ")
    copied = shutil.copytree(folder, tmp_path_factory.mktemp("other") / "copy")
    os.utime(copied / "a.png", (1, 1))
    assert {
        fingerprint(folder, text=spaced),
        fingerprint(folder, promt="x", id="b", source="s", raters=[3]),
        fingerprint(folder, target={"winner": "second"}),
        fingerprint(copied),
    } == {before}
    assert fingerprint(folder, reads=(*READS, "target")) != before


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": "make it red "},
        {"criteria": "feet"},
        {"tags": {"k": "w"}},
        {"context": [{"image": "a.png"}]},
        {"candidates": ROW["candidates"][::-1]},
        {"candidates": [{"image": "a.png"}, [{"image": "b.png"}, {"text": "see"}]]},
        {"candidates": [*ROW["candidates"], {"image": "a.png"}]},
        {"status": "failed", "candidates": []},
    ],
)
def test_what_is_asked_counts(changed, folder):
    assert fingerprint(folder, **changed) != fingerprint(folder)


def test_a_medium_that_is_exchanged_goes_or_comes_is_a_change(folder):
    seen = {fingerprint(folder)}
    (folder / "a.png").write_bytes(b"A" + b"a" * 99)
    seen.add(fingerprint(folder))
    (folder / "a.png").unlink()
    seen.add(fingerprint(folder))
    (folder / "a.png").mkdir()
    seen.add(fingerprint(folder))
    assert len(seen) == 4


def test_a_medium_that_is_exchanged_with_size_and_time_kept_is_a_change(folder):
    path = folder / "a.png"
    before, times = fingerprint(folder), path.stat()
    path.write_bytes(path.read_bytes()[::-1].replace(b"a", b"A"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_size == times.st_size
    assert fingerprint(folder) != before


def test_a_broken_line_has_the_fingerprint_of_what_is_wrong_wherever_it_stands(folder):
    two, seven, other = (
        example_fingerprint(row.content, READS, row.prompt)
        for row in (
            read_row(b'{"promt": 1}', folder),
            read_row(b'{"promt":  1 }', folder),
            read_row(b'{"prompt": 1}', folder),
        )
    )
    assert two == seven != other


@pytest.mark.parametrize("place", [0, 10_000_000, 19_999_999])
def test_of_a_large_file_the_ends_and_blocks_between_are_read(place, tmp_path):
    content = bytearray(20_000_000)
    (tmp_path / "a").write_bytes(content)
    content[place] = 1
    (tmp_path / "b").write_bytes(content)
    (tmp_path / "c").write_bytes(content[:-1])
    found = [file_fingerprint(tmp_path / name, whole=2**20, blocks=17) for name in "abc"]
    assert len(set(found)) == 3


def test_a_tensor_that_was_trained_alone_changes_a_large_checkpoint(tmp_path):
    frozen = np.zeros(2**18, np.uint8)
    for value in (0, 1):
        head = np.full(64, value, np.uint8)
        save_file({"a": frozen, "head": head, "z": frozen}, tmp_path / f"{value}.safetensors")
    found = [file_fingerprint(file, whole=0, blocks=2) for file in tmp_path.iterdir()]
    assert len({*found}) == 2


@pytest.mark.parametrize("header", [b"[]", b"{1", b'{"a": 1}', b'{"a": {"data_offsets": []}}'])
def test_a_large_file_with_a_broken_header_counts_by_its_blocks(tmp_path, header):
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(2**17))
    assert len(file_fingerprint(path, whole=0)) == 16


def test_a_file_of_many_rows_is_read_once(folder, monkeypatch):
    reads = []
    real = fingerprints._digest
    monkeypatch.setattr(fingerprints, "_digest", lambda text: reads.append(text) or real(text))
    (folder / "a.png").write_bytes(b"another")
    for prompt in range(5):
        fingerprint(folder, prompt=str(prompt), candidates=[{"image": "a.png"}, {"image": "b.png"}])
    assert reads.count(b"another") == 1


def test_pipes_and_paths_that_no_file_can_have_are_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert file_fingerprint(tmp_path / "pipe") == "no file"
    assert file_fingerprint("a\0b") == file_fingerprint("x" * 5000) == "missing"


def test_media_in_memory_count_by_content():
    red, blue = (PIL.Image.new("RGB", (4, 4), name) for name in ("red", "blue"))
    clip = np.zeros((2, 4, 4, 3), np.uint8)
    media = [
        *(Image(b"red"), Image(red), Image(blue), Video((Image(red), Image(blue)))),
        *(Video((Image(blue), Image(red))), Video(clip, "THWC", 8), Video(clip + 1, "THWC", 8)),
        *(Video(clip, "THWC", 4), Image(b"blue")),
    ]
    assert len({json.dumps(fingerprints._plain(medium)) for medium in media}) == len(media)
    again = [
        fingerprints._plain(Image(red.copy())),
        fingerprints._plain(Video(clip * 1, "THWC", 8)),
    ]
    assert again == [fingerprints._plain(media[1]), fingerprints._plain(media[5])]


def test_of_a_folder_all_count_but_notes_hidden_files_and_outputs_of_runs(tmp_path):
    inside = ["config.json", "model.safetensors", "unet/a.bin", "linked/b.bin"]
    outside = ["README.md", ".git/x", "out.jsonl", "out.jsonl.config.json", "checkpoints/1/a.bin"]
    outside += ["bench/verdicts.jsonl", "bench/report.json"]
    for name in (*inside[:3], *outside, "../elsewhere/b.bin"):
        (tmp_path / "judge" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "judge" / name).write_text(name)
    (tmp_path / "judge" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "judge" / "unet" / "loop").symlink_to(tmp_path / "judge")
    assert sorted(folder_fingerprints(tmp_path / "judge")) == sorted(inside)
