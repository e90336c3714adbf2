"""Files that are no text, recognised by their first bytes, and the command that takes them."""

from __future__ import annotations

from pathlib import Path


N_BYTES = 512
"""First bytes of a file that decide."""
_PARQUET = b"PAR1"
_PACKED = {
    b"\x1f\x8b": "compressed by gzip; unpack it first",
    b"BZh91AY&SY": "compressed by bzip2; unpack it first",
    b"(\xb5/\xfd": "compressed by zstd; unpack it first",
    b"\xfd7zXZ": "compressed by xz; unpack it first",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it first",
    b"PK\x03\x04": "a zip archive, as a spreadsheet is; unpack it, or save it as text, first",
    b"ARROW1\0\0": "an Arrow file; save it as Parquet or JSON lines first",
    b"\x89HDF\r\n": "an HDF5 file; write its rows as JSON lines first",
    b"SQLite format 3\0": "a database of SQLite; write its rows as JSON lines first",
    b"\x93NUMPY": "an array of NumPy; write its rows as JSON lines first",
    b"%PDF-": "a PDF; save it as text first",
}
_VIDEOS = (
    (0, b"\x1a\x45\xdf\xa3", "Matroska or WebM"),
    (8, b"AVI ", "AVI"),
    (4, b"ftyp", "MP4"),
    (0, b"\0\0\1\xba", "MPEG"),
    (0, b"FLV\1", "FLV"),
)
"""Place of the signature of a container, the signature, and the container's name."""
_SOUND = ("M4A", "M4B")
"""Brands of MP4 without pictures."""


def medium_of(head: bytes) -> str:
    r"""Name an image or a video, such as ``a PNG image``; empty for other files.

    Args:
        head: The first bytes of the file, `N_BYTES` or all.

    >>> medium_of(b"\x89PNG\r\n\x1a\n..."), medium_of(b'{"id": "BM"}')
    ('a PNG image', '')
    """
    if not _is_binary(head):
        return ""
    from unified_reward.media.metadata import image_format  # it brings Pillow and NumPy

    if kind := image_format(head):
        article = "an" if kind[0].upper() in "AEFHLMNRS" and kind.isupper() else "a"
        return f"{article} {kind.upper()} image"
    for place, signature, name in _VIDEOS:
        if head.startswith(signature, place) and head[8:11].decode("latin-1") not in _SOUND:
            return f"a video ({name})"
    return ""


def _is_binary(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start < len(head) - 3  # a character may be cut off
    return b"\0" in head


def refusal(path: Path, head: bytes) -> str:
    """Say why a file cannot be read as text; empty where its first bytes may be text.

    Args:
        path: The file.
        head: Its first bytes, `N_BYTES` or all.
    """
    if head.startswith(_PARQUET):
        return (
            f"{path} is a Parquet file; convert it first: "
            f"unified-reward data convert {path} OUT.jsonl"
        )
    for signature, kind in _PACKED.items():
        if head.startswith(signature):
            return f"{path} is no text but {kind}"
    if medium := medium_of(head):
        return (
            f"{path} is {medium}, not a file of text; to score it: "
            f"unified-reward score {path} --prompt TEXT --judge JUDGE"
        )
    return ""
