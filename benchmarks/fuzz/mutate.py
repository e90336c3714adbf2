"""Seeded mutations of bytes, of texts and of values of JSON."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any


_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
ODD_TEXTS = (
    *(
        "",
        " ",
        "\x00",
        "a\x00b",
        "\ufeff",
        "\u2028",
        "\u2029",
        "\x85",
        "\r",
        "\n",
        "\t",
        "é",
        "\U0001f600",
    ),
    *("nan", "NaN", "inf", "-Infinity", "1e999", "null", "true", "<image>", "<|im_end|>", "\u0664"),
    *(
        "../../etc/passwd",
        "/",
        "http://example.invalid/a.png",
        "data:image/png;base64,AAAA",
        "\x1b[31m",
    ),
    *("line 2", "line 1 again", "[bold]", "%s", "{0}", "x" * 5000),
)
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 7, 2**31, 2**63, 10**30, 10**400, 0.5, -0.0, 1e308, 1e-320),
    *(
        float("nan"),
        float("inf"),
        float("-inf"),
        [],
        {},
        [[]],
        [None],
        {"": None},
        "\ud800",
        "\udfff x",
    ),
    *ODD_TEXTS,
)


def mutate_bytes(data: bytes, rng: Random, others: Sequence[bytes] = ()) -> bytes:
    """Apply one general mutation to bytes."""
    kind = rng.choice(_BYTES)
    if not data:
        return rng.randbytes(rng.randrange(9))
    return kind(bytearray(data), rng, others)


def _flip(data: bytearray, rng: Random, _: Sequence[bytes]) -> bytes:
    for _ in range(rng.choice((1, 1, 1, 2, 8, 40))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def _overwrite(data: bytearray, rng: Random, _: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data))
    noise = rng.choice(
        (rng.randbytes(rng.randrange(1, 9)), b"\0" * rng.randrange(1, 9), b"\xff" * 4)
    )
    data[at : at + len(noise)] = noise
    return bytes(data)


def _number(data: bytearray, rng: Random, _: Sequence[bytes]) -> bytes:
    size, order = rng.choice("BHIQ"), rng.choice("<>")
    value = struct.pack(f"{order}{size}", rng.choice(_NUMBERS) & (256 ** struct.calcsize(size) - 1))
    at = rng.randrange(len(data))
    data[at : at + len(value)] = value
    return bytes(data)


def _truncate(data: bytearray, rng: Random, _: Sequence[bytes]) -> bytes:
    return bytes(data[: rng.randrange(len(data))])


def _behead(data: bytearray, rng: Random, _: Sequence[bytes]) -> bytes:
    return bytes(data[rng.randrange(min(len(data), 40)) :])


def _remove(data: bytearray, rng: Random, _: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice((1, 2, 4, 16, 200))]
    return bytes(data)


def _insert(data: bytearray, rng: Random, _: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.choice((1, 2, 4, 16, 200)))
    return bytes(data)


def _repeat(data: bytearray, rng: Random, _: Sequence[bytes]) -> bytes:
    start, end = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
    data[end:end] = data[start:end]
    return bytes(data)


def _suffix(data: bytearray, rng: Random, others: Sequence[bytes]) -> bytes:
    return bytes(data) + rng.choice((rng.randbytes(64), b"\0" * 64, b"<html>", *others[:2]))


def _splice(data: bytearray, rng: Random, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others) if others else bytes(data)
    if not other:
        return bytes(data)
    return bytes(data[: rng.randrange(len(data))]) + other[rng.randrange(len(other)) :]


def _header(data: bytearray, rng: Random, others: Sequence[bytes]) -> bytes:
    n = rng.choice((4, 8, 12, 16, 32))
    return (rng.choice(others) if others else b"\0" * n)[:n] + bytes(data[n:])


_Mutation = Callable[[bytearray, Random, Sequence[bytes]], bytes]
_BYTES: tuple[_Mutation, ...] = (
    *(_flip, _flip, _flip, _overwrite, _overwrite, _number, _number, _truncate, _behead),
    *(_remove, _insert, _repeat, _suffix, _splice, _header),
)

Chunk = tuple[bytes, bytes]


def png_chunks(data: bytes, *, whole: bool = False) -> list[Chunk]:
    """The chunks of a PNG file; if ``whole``, those with the right checksum."""
    chunks: list[Chunk] = []
    at = 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        end = at + 8 + size
        if not whole or zlib.crc32(data[at + 4 : end]).to_bytes(4, "big") == data[end : end + 4]:
            chunks.append((data[at + 4 : at + 8], data[at + 8 : end]))
        at += 12 + size
    return chunks


def png(chunks: Sequence[Chunk]) -> bytes:
    """Write chunks as a PNG file, with right lengths and checksums."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def _riff_chunks(data: bytes) -> list[Chunk]:
    chunks: list[Chunk] = []
    at = 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        chunks.append((data[at : at + 4], data[at + 8 : at + 8 + size]))
        at += 8 + size + size % 2
    return chunks


def _riff(chunks: Sequence[Chunk]) -> bytes:
    body = b"".join(
        name + struct.pack("<I", len(inner)) + inner + b"\0" * (len(inner) % 2)
        for name, inner in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def boxes(data: bytes) -> list[Chunk]:
    """The boxes of an ISO-BMFF file, or of the inside of one."""
    found: list[Chunk] = []
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size < 8:
            break
        found.append((data[at + 4 : at + 8], data[at + 8 : at + size]))
        at += size
    return found


def box_file(found: Sequence[Chunk]) -> bytes:
    """Write boxes with right lengths."""
    return b"".join(struct.pack(">I", len(body) + 8) + name + body for name, body in found)


def mutate_chunks(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Mutate a PNG, WebP or ISO-BMFF file chunk by chunk, so that lengths and checksums hold."""
    if data.startswith(b"\x89PNG"):
        split, join = png_chunks, png
    elif data[8:12] == b"WEBP":
        split, join = _riff_chunks, _riff
    elif data[4:8] == b"ftyp":
        split, join = boxes, box_file
    else:
        return mutate_bytes(data, rng, others)
    chunks = split(data)
    if not chunks:
        return mutate_bytes(data, rng, others)
    i, action = rng.randrange(len(chunks)), rng.randrange(6)
    name, body = chunks[i]
    if action == 0:
        del chunks[i]
    elif action == 1:
        chunks.insert(rng.randrange(len(chunks) + 1), chunks[i])
    elif action == 2:
        j = rng.randrange(len(chunks))
        chunks[i], chunks[j] = chunks[j], chunks[i]
    elif action == 3:
        other = rng.choice(others)
        of_other = split(other) if other[:4] == data[:4] or other[4:8] == data[4:8] else []
        chunks.insert(i, rng.choice(of_other) if of_other else (name, rng.randbytes(16)))
    elif name == b"moov" and action == 4:
        chunks[i] = name, mutate_inside(body, rng)
    else:
        chunks[i] = name, mutate_bytes(body, rng)
    return join(chunks)


def mutate_inside(body: bytes, rng: Random) -> bytes:
    """Mutate one box somewhere inside a box, and keep all lengths right."""
    inner = boxes(body)
    if not inner:
        return mutate_bytes(body, rng)
    i = rng.randrange(len(inner))
    name, content = inner[i]
    holds = name in (b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moov")
    inner[i] = name, mutate_inside(content, rng) if holds else mutate_bytes(content, rng)
    return box_file(inner)


def mutate_media(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Apply up to three mutations to a file of media; none to one in ten."""
    for _ in range(rng.choice((0, 1, 1, 1, 1, 1, 1, 2, 2, 3))):
        mutation = mutate_chunks if rng.random() < 0.5 else mutate_bytes
        data = mutation(data, rng, others)
    return data


def mutate_text(text: str, rng: Random) -> str:
    """Apply one mutation to a text."""
    at = rng.randrange(len(text) + 1)
    end = min(len(text), at + rng.choice((1, 1, 2, 10, 100)))
    return rng.choice(
        (
            text[:at] + rng.choice(ODD_TEXTS) + text[at:],
            text[:at] + text[end:],
            text[:end] + text[at:],
            text[:at]
            + chr(rng.choice((9, 10, 13, 34, 39, 44, 58, 92, 123, 125, 0x2028)))
            + text[end:],
            text[:at],
        )
    )


def mutate_value(value: Any, rng: Random) -> Any:
    """Apply one mutation somewhere inside a value of JSON."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        return _mutate_dict(dict(value), rng)
    if isinstance(value, list) and value and rng.random() < 0.85:
        items = list(value)
        i = rng.randrange(len(items))
        action = rng.randrange(6)
        if action == 0:
            del items[i]
        elif action == 1:
            items.append(items[i])
        else:
            items[i] = mutate_value(items[i], rng)
        return items
    if isinstance(value, str) and rng.random() < 0.4:
        return mutate_text(value, rng)
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.6:
        near = (str(value), -value, value * 10, 0, [value], True, False)
        return rng.choice((*near, float("nan"), float("inf"), float("-inf")))
    return rng.choice(ODD_VALUES)


def _mutate_dict(items: dict[str, Any], rng: Random) -> dict[str, Any]:
    key = rng.choice(list(items))
    action = rng.randrange(9)
    if action == 0:
        del items[key]
    elif action == 1:
        items[rng.choice((key + "s", key.upper(), *ODD_TEXTS[:6]))] = items[key]
    elif action == 2:
        items[key] = items[rng.choice(list(items))]
    else:
        items[key] = mutate_value(items[key], rng)
    return items


def json_text(value: Any, rng: Random) -> str:
    """Write a value as JSON, now and then in an unusual way."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.4)
    if rng.random() < 0.05:
        text = text.replace(": ", " :\t").replace(", ", " ,")
    return text


def with_a_key_twice(value: dict[str, Any], text: str) -> str:
    """Write the first key of an object a second time, before itself."""
    key = next(iter(value))
    return "{" + json.dumps({key: value[key]})[1:-1] + ", " + text[1:]
