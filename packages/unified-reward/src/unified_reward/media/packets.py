"""Pictures in the packets of a video, read without decoding them.

A reader is strict: it refuses whatever would make a decoder that skipped earlier packets differ
from one that saw all. Knows neither files nor times.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator


PictureReader = Callable[[bytes], bool]
"""Tells whether decoding may begin at a packet; called with all, in the order of the file."""


class UnclearError(Exception):
    """A packet is not plainly one picture that is displayed, with the parameters of all others."""


def picture_reader(codec: str, extradata: bytes | None) -> PictureReader | None:
    """Reader of the packets of a stream; None for a codec that has none.

    Args:
        codec: FFmpeg's name of the codec.
        extradata: Parameters the container keeps beside the packets.

    Raises:
        UnclearError: The parameters are not those of a plain stream.
    """
    if codec == "h264":
        return _H264(extradata or b"")
    if codec == "hevc":
        return _Hevc(extradata or b"")
    if codec == "vp9":
        return _read_vp9
    return _av1_reader() if codec == "av1" else None


class _Bits:
    """Bits of a parameter set, without the bytes that keep start codes apart."""

    def __init__(self, data: bytes) -> None:
        self._bits = "".join(f"{byte:08b}" for byte in data.replace(b"\0\0\3", b"\0\0"))
        self._place = 0

    def number(self, n_bits: int) -> int:
        self._place += n_bits
        return int(self._bits[self._place - n_bits : self._place], 2)

    def golombs(self, count: int) -> int:
        """Last of some numbers in Exp-Golomb code, unsigned."""
        return [self._golomb() for _ in range(count)][-1]

    def _golomb(self) -> int:
        n_zeros = self._bits.index("1", self._place) - self._place
        self._place += n_zeros
        return self.number(n_zeros + 1) - 1


class _Nal(ABC):
    """Packets of NAL units; there is one parameter set of each type in the whole stream."""

    def __init__(self, n_length_bytes: int) -> None:
        self._n_length_bytes = n_length_bytes
        """0 where start codes stand between the units."""
        self._sets: dict[int, bytes] = {}

    def units(self, data: bytes) -> Iterator[memoryview]:
        return _prefixed(data, self._n_length_bytes) if self._n_length_bytes else _marked(data)

    def keep(self, kind: int, unit: memoryview) -> None:
        """Keep a parameter set; another of its type would hold for the packets behind it."""
        data = bytes(unit).rstrip(b"\0")
        known = self._sets.setdefault(kind, data)
        if known is data:
            self.check(kind, data)
        elif known != data:
            raise UnclearError

    @abstractmethod
    def check(self, kind: int, data: bytes) -> None:
        """Refuse a parameter set that allows for packets that are not one frame."""


class _H264(_Nal):
    _SLICE, _IDR, _SEI, _SPS, _PPS, _DELIMITER, _FILLER = 1, 5, 6, 7, 8, 9, 12

    def __init__(self, extradata: bytes) -> None:
        if extradata[:1] != b"\1":
            super().__init__(0)
            sets = self.units(extradata)
        else:
            super().__init__((extradata[4] & 3) + 1)
            sets = _avcc_units(extradata)
        for unit in sets:
            if unit[0] & 31 in (self._SPS, self._PPS):
                self.keep(unit[0] & 31, unit)

    def __call__(self, data: bytes) -> bool:
        kinds: set[int] = set()
        n_pictures = 0
        for unit in self.units(data):
            kind = unit[0] & 31
            if kind in (self._SLICE, self._IDR):
                kinds.add(kind)
                n_pictures += unit[1] >> 7  # its first macroblock is 0
            elif kind in (self._SPS, self._PPS):
                self.keep(kind, unit)
            elif kind not in (self._SEI, self._DELIMITER, self._FILLER):
                raise UnclearError
        if n_pictures != 1 or len(kinds) != 1 or len(self._sets) != 2:
            raise UnclearError
        # No other picture begins anew for certain: a recovery point is a mere promise.
        return self._IDR in kinds

    def check(self, kind: int, data: bytes) -> None:
        """Refuse fields, of which two make a frame."""
        if kind != self._SPS:
            return
        bits = _Bits(data[1:])
        profile = bits.number(8)
        bits.number(16)
        bits.golombs(1)
        if profile not in (66, 77, 88):
            if bits.golombs(1) == 3:
                bits.number(1)
            bits.golombs(2)
            if bits.number(2) & 1:  # scaling lists
                raise UnclearError
        order = bits.golombs(2)
        if order == 1:
            raise UnclearError
        bits.golombs(2 if order == 0 else 1)
        bits.number(1)
        bits.golombs(2)
        if not bits.number(1):  # fields
            raise UnclearError


class _Hevc(_Nal):
    _SLICES, _IRAP = (*range(10), *range(16, 22)), range(16, 24)
    _IDR_RADL, _IDR, _CRA = 19, 20, 21
    _SETS = _VPS, _SPS, _PPS = 32, 33, 34
    _OTHERS = (35, 38, 39, 40, 62)
    """Delimiter, filler, SEI, and what Dolby Vision says of colours."""

    def __init__(self, extradata: bytes) -> None:
        if extradata[:1] != b"\1":
            super().__init__(0)
            sets = self.units(extradata)
        else:
            super().__init__((extradata[21] & 3) + 1)
            sets = _hvcc_units(extradata)
        for unit in sets:
            if (kind := self._kind(unit)) in self._SETS:
                self.keep(kind, unit)

    def _kind(self, unit: memoryview) -> int:
        if unit[0] & 1 or unit[1] >> 3:  # a second layer
            raise UnclearError
        return unit[0] >> 1 & 63

    def __call__(self, data: bytes) -> bool:
        kinds: set[int] = set()
        n_pictures = 0
        for unit in self.units(data):
            kind = self._kind(unit)
            if kind in self._SLICES:
                kinds.add(kind)
                n_pictures += unit[2] >> 7  # its first slice
                if kind in self._IRAP and unit[2] >> 6 & 1:  # pictures that wait are dropped
                    raise UnclearError
            elif kind in self._SETS:
                self.keep(kind, unit)
            elif kind not in self._OTHERS:
                raise UnclearError
        if n_pictures != 1 or len(kinds) != 1 or len(self._sets) != 3:
            raise UnclearError
        return not kinds.isdisjoint((self._IDR_RADL, self._IDR, self._CRA))

    def check(self, kind: int, data: bytes) -> None:
        """Refuse pictures that may be hidden."""
        if kind == self._PPS:
            bits = _Bits(data[2:])
            bits.golombs(2)
            if bits.number(2) & 1:
                raise UnclearError


def _prefixed(data: bytes, n_length_bytes: int) -> Iterator[memoryview]:
    """Units that follow their lengths; they fill the packet."""
    view, place = memoryview(data), 0
    while place < len(data):
        begin = place + n_length_bytes
        place = begin + int.from_bytes(data[place:begin], "big")
        if not begin < place <= len(data):
            raise UnclearError
        yield view[begin:place]


def _marked(data: bytes) -> Iterator[memoryview]:
    """Units that follow start codes, maybe with zeros behind them."""
    view, begin = memoryview(data), data.find(b"\0\0\1") + 3
    if data[: begin - 3].strip(b"\0"):
        raise UnclearError
    while begin >= 3:
        end = data.find(b"\0\0\1", begin)
        yield view[begin : end if end >= 0 else len(data)]
        begin = end + 3


def _counted(data: bytes, place: int, count: int) -> tuple[list[memoryview], int]:
    """Units that follow their lengths of two bytes, and the place behind them."""
    units: list[memoryview] = []
    for _ in range(count):
        size = int.from_bytes(data[place : place + 2], "big")
        units.append(memoryview(data)[place + 2 : place + 2 + size])
        place += 2 + size
    return units, place


def _avcc_units(extradata: bytes) -> list[memoryview]:
    """Parameter sets of ISO/IEC 14496-15, AVCDecoderConfigurationRecord."""
    sequence, place = _counted(extradata, 6, extradata[5] & 31)
    pictures, _ = _counted(extradata, place + 1, extradata[place])
    return sequence + pictures


def _hvcc_units(extradata: bytes) -> list[memoryview]:
    """Parameter sets of ISO/IEC 14496-15, HEVCDecoderConfigurationRecord."""
    units: list[memoryview] = []
    place = 23
    for _ in range(extradata[22]):
        count = int.from_bytes(extradata[place + 1 : place + 3], "big")
        of_kind, place = _counted(extradata, place + 3, count)
        units += of_kind
    return units


def _read_vp9(data: bytes) -> bool:
    """Read a frame, or a superframe: hidden frames before one that is displayed."""
    headers = [_vp9_header(data[place]) for place in _vp9_places(data)]
    if sum(is_shown for is_shown, _ in headers) != 1 or not headers[-1][0]:
        raise UnclearError
    is_shown, is_key = headers[0]
    return is_shown and is_key


def _vp9_places(data: bytes) -> list[int]:
    mark = data[-1]
    n_bytes, count = (mark >> 3 & 3) + 1, (mark & 7) + 1
    n_index = 2 + n_bytes * count
    if mark & 0xE0 != 0xC0 or len(data) < n_index or data[-n_index] != mark:
        return [0]
    index = data[1 - n_index : -1]
    places, place = list[int](), 0
    for i in range(0, len(index), n_bytes):
        places.append(place)
        place += int.from_bytes(index[i : i + n_bytes], "little")
    if place + n_index != len(data):
        raise UnclearError
    return places


def _vp9_header(byte: int) -> tuple[bool, bool]:
    """Tell of the first byte of a frame whether it is displayed, and a key frame."""
    if byte >> 6 != 2:
        raise UnclearError
    if byte & 0x30 == 0x30:  # profile 3 has a bit more
        byte <<= 1
    is_repeat = bool(byte & 8)
    return is_repeat or bool(byte & 2), not is_repeat and not byte & 4


_SEQUENCE, _HEADER, _FRAME = 1, 3, 6
_OTHER_UNITS = (2, 4, 5, 7, 15)
"""Delimiter, tiles, metadata, repeated header, padding."""


def _av1_reader() -> PictureReader:
    sequences: set[bytes] = set()

    def read(data: bytes) -> bool:
        begins = has_sequence = False
        n_shown = n_frames = 0
        for kind, unit in _av1_units(data):
            if kind == _SEQUENCE:
                has_sequence = True
                sequences.add(bytes(unit))
            elif kind in (_HEADER, _FRAME):
                is_repeat, is_shown = unit[0] >> 7, unit[0] >> 4 & 1
                is_key = not is_repeat and not unit[0] >> 5 & 3
                begins |= bool(n_frames == 0 and is_key and is_shown and has_sequence)
                n_shown += is_repeat or is_shown
                n_frames += 1
            elif kind not in _OTHER_UNITS:
                raise UnclearError
        if n_shown != 1 or len(sequences) != 1 or min(sequences)[0] & 0x18:  # of a still picture
            raise UnclearError
        return begins

    return read


def _av1_units(data: bytes) -> Iterator[tuple[int, memoryview]]:
    """Kind and content of the open bitstream units of a packet; there is one layer."""
    place = 0
    while place < len(data):
        head = data[place]
        if head & 0x84:  # forbidden, or of a layer
            raise UnclearError
        place += 1
        size, shift = (0, 0) if head & 2 else (len(data) - place, -1)
        while shift >= 0:
            size |= (data[place] & 127) << shift
            shift = shift + 7 if data[place] & 128 else -1
            place += 1
        if place + size > len(data):
            raise UnclearError
        yield head >> 3 & 15, memoryview(data)[place : place + size]
        place += size
