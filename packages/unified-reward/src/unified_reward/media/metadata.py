"""Reduce an encoded image to what decides its pixels, so that broken metadata costs nothing.

Browsers pass over comments, profiles and texts they cannot read; Pillow refuses the image. What is
left here are pixels, transparency, animation and EXIF. Decodes nothing.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable
from typing import Literal


ImageFormat = Literal["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"]
Chunk = tuple[bytes, bytes]
"""Kind and body of a chunk of a PNG."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"acTL", b"fcTL", b"fdAT", b"IEND")
_SIGNATURES: tuple[tuple[bytes, ImageFormat], ...] = (
    (_PNG_SIGNATURE, "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
_BMP_HEADER_SIZES = [struct.pack("<I", n) for n in (12, 16, 40, 52, 56, 64, 108, 124)]
# Brands of the box `ftyp`. A file with one of the first is an image whatever else it claims to be;
# the second are sequences, which a video may name as compatible.
_STILL_BRANDS = {
    *("heic", "heix", "heim", "heis", "mif1", "mif2", "miaf", "avci", "avcs", "vvic", "evbi"),
    *("jpeg", "jxl", "jp2", "jpx", "jpm", "jxs", "crx"),
}
_SEQUENCE_BRANDS = {"hevc", "hevx", "hevm", "hevs", "msf1", "jpgs", "vvis", "evbs"}
# Tags of TIFF 6.0 and its supplements that decide pixels, and the orientation.
_TIFF_TAGS = {
    *(254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, 322),
    *(323, 324, 325, 332, 338, 339, 347, 512, 513, 514, 515, 519, 520, 521, 529, 530, 532, 50674),
}
_SUBFILE_TYPE, _ORIENTATION, _EXIF_SHORT = 254, 274, 3
_APP0, _APP1, _APP14, _APP15, _COMMENT = 0xE0, 0xE1, 0xEE, 0xEF, 0xFE


def image_format(head: bytes) -> ImageFormat | str | None:
    """Recognise an image by its first bytes.

    Args:
        head: First bytes of a file; 512 are enough.

    Returns:
        A format that is read, the brand of an ISO-BMFF image that is not read, or None.
    """
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    if head.startswith(b"BM") and head[14:18] in _BMP_HEADER_SIZES:
        return "BMP"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] != b"ftyp":
        return None
    size = min(int.from_bytes(head[:4], "big"), len(head))
    # The second word is a version; the first is the major brand.
    words = [head[i : i + 4].decode("latin-1").strip() for i in (8, *range(16, size - 3, 4))]
    if "avif" in words or "avis" in words:
        return "AVIF"
    if words[0] in _SEQUENCE_BRANDS:
        return words[0]
    return next((word for word in words if word in _STILL_BRANDS), None)


def is_hdr(data: bytes) -> bool:
    """Return True if an AVIF or a PNG states the transfer PQ, which looks grey as sRGB."""
    head = data[: data.find(b"IDAT")] if data.startswith(_PNG_SIGNATURE) else data
    return re.search(rb"colrnclx..\0\x10|\0\0\0\x04cICP.\x10", head, re.DOTALL) is not None


def essential_bytes(data: bytes, kind: ImageFormat) -> bytes:
    """Return an image file without metadata but EXIF.

    Raises:
        ValueError: A checksum of the pixels is wrong, or the file is the raw file of a camera.
        struct.error: The file ends within its header.
    """
    if kind == "JPEG":
        return _essential_jpeg(data)
    if kind == "TIFF":
        return _essential_tiff(data)
    if kind == "WEBP" and data[12:16] == b"VP8X" and data[20] & 0x02:
        # What no frame of an animation covers is transparent, though the header may deny it.
        return data[:20] + bytes([data[20] | 0x10]) + data[21:]
    if kind == "AVIF":
        # Its properties turn the image, never its EXIF, and Pillow fails where that is broken.
        return re.sub(rb"(infe(?:\x02.{7}|\x03.{9}))Exif", rb"\1skip", data, flags=re.DOTALL)
    return data


def exif_orientation(exif: bytes) -> int:
    """Read the orientation of an EXIF block; 1 where it has none or is broken."""
    block = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, start)
        for i in range(count):
            *kind, value = struct.unpack_from(order + "HHIH", block, start + 2 + 12 * i)
            if kind == [_ORIENTATION, _EXIF_SHORT, 1]:
                return value
    except struct.error:
        pass
    return 1


def png_chunks(data: bytes) -> list[Chunk]:
    """List the chunks of a PNG that decide its pixels, and its EXIF; a truncated last one counts.

    Raises:
        ValueError: The checksum of a chunk of pixels is wrong, or a header stands twice.
    """
    chunks: list[Chunk] = []
    place = len(_PNG_SIGNATURE)
    while place + 8 <= len(data) and (not chunks or chunks[-1][0] != b"IEND"):
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 8 + length
        body, checksum = data[place + 8 : end], data[end : end + 4]
        place = end + 4
        if kind not in _PNG_CHUNKS:
            continue
        if kind == b"IHDR" and chunks:
            raise ValueError("its chunk IHDR stands twice")
        computed = zlib.crc32(body, zlib.crc32(kind)).to_bytes(4, "big")
        if computed != checksum and len(checksum) == 4 and kind != b"IEND":
            if kind in (b"tRNS", b"eXIf"):
                continue
            raise ValueError(f"the checksum of its chunk {kind.decode()} is wrong")
        if kind == b"tRNS" and chunks:
            body = _pillow_transparency(chunks[0][1], body)
        chunks.append((kind, body))
    return chunks


def _pillow_transparency(header: bytes, body: bytes) -> bytes:
    """Scale a transparent grey or colour to the 8 bits that Pillow compares it with."""
    depth, colour = header[8:10]
    values = struct.unpack(f">{len(body) // 2}H", body[: len(body) // 2 * 2])
    if colour == 0 and depth in (2, 4):
        values = tuple(value * 255 // (2**depth - 1) for value in values)
    elif colour == 2 and depth == 16:
        values = tuple(value >> 8 for value in values)
    else:
        return body
    return struct.pack(f">{len(values)}H", *values)


def png_of(chunks: Iterable[Chunk]) -> bytes:
    """Write a PNG of some chunks."""
    parts = [_PNG_SIGNATURE]
    for kind, body in chunks:
        checksum = zlib.crc32(body, zlib.crc32(kind))
        parts += [struct.pack(">I", len(body)), kind, body, struct.pack(">I", checksum)]
    return b"".join(parts)


def _essential_jpeg(data: bytes) -> bytes:
    """Drop comments, profiles, embedded images and texts before the first scan."""
    parts = [data[:2]]
    place = 2
    has_exif = False
    while data[place : place + 1] == b"\xff" and data[place + 1 : place + 2] != b"\xda":
        marker, length = struct.unpack_from(">xBH", data, place)
        if marker == 0xFF:  # padding
            place += 1
            continue
        segment = data[place : place + 2 + length]
        place += 2 + length
        is_exif = marker == _APP1 and segment[4:9] == b"Exif\0" and not has_exif
        has_exif = has_exif or is_exif
        if is_exif or _decides_pixels(marker, segment[4:]):
            parts.append(segment)
    return b"".join([*parts, data[place:]])


def _decides_pixels(marker: int, body: bytes) -> bool:
    if marker == _APP0:
        return body.startswith(b"JFIF\0") and len(body) >= 14
    if marker == _APP14:
        return body.startswith(b"Adobe") and len(body) >= 12
    return not _APP0 <= marker <= _APP15 and marker != _COMMENT


def _essential_tiff(data: bytes) -> bytes:
    """Drop the tags of the first page that do not decide its pixels, and all other pages."""
    order = "<" if data.startswith(b"II") else ">"
    is_big = data[2:4] in (b"+\0", b"\0+")
    counter, width, pointer = ("Q", 20, "Q") if is_big else ("H", 12, "I")
    (start,) = struct.unpack_from(order + pointer, data, 8 if is_big else 4)
    (count,) = struct.unpack_from(order + counter, data, start)
    first = start + struct.calcsize(counter)
    end = first + count * width
    if end > len(data):
        raise ValueError("its directory of tags ends behind the file")
    places = range(first, end, width)
    entries = [data[i : i + width] for i in places]
    tags = [struct.unpack_from(order + "H", entry)[0] for entry in entries]
    kept = [entry for tag, entry in zip(tags, entries, strict=True) if tag in _TIFF_TAGS]
    for tag, entry in zip(tags, entries, strict=True):
        if (
            tag == _SUBFILE_TYPE
            and struct.unpack_from(order + "I", entry, 12 if is_big else 8)[0] & 1
        ):
            raise ValueError("its first page is a thumbnail, as in raw files of cameras")
    page = (
        struct.pack(order + counter, len(kept)) + b"".join(kept) + bytes(struct.calcsize(pointer))
    )
    return data[:start] + page + data[start + len(page) :]
