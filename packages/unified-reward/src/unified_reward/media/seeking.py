"""Decode a few frames of a long video without decoding the others, to the bit as if all were.

Packets are read one by one, and those between the wanted groups of pictures are skipped: nothing
is asked of an index, which may be missing or wrong. Knows neither pixels nor seconds.
"""

from __future__ import annotations

from bisect import bisect, bisect_left
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from unified_reward.media.packets import UnclearError, picture_reader


if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet, PktSideDataT
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream


FEWEST_FRAMES = 1000
"""Shorter videos are decoded in full, which finds every damage."""
_LARGEST_SHARE = 0.5
"""Share of packets to decode above which all are."""
_CHANGES: tuple[PktSideDataT, ...] = ("new_extradata", "param_change", "palette")
"""Remarks of a container from which on a decoder works in another way."""


@dataclass(frozen=True)
class PacketWalk:
    """Packets of a video stream, each of which is one picture."""

    stamps: list[int]
    """Instant of each packet's picture, in the order of the file."""
    displayed: list[int]
    """Instants, ascending, without those an edit list cuts away."""
    starts: list[int]
    """Packets at which a decoder may begin, ascending: no later packet needs an earlier one,
    except for pictures displayed before it."""
    reorder_depth: int
    """Packets that a picture may wait for at most until it is displayed."""

    def runs(self, wanted: Collection[int]) -> list[tuple[int, int]]:
        """First and last packet of the runs that have to be decoded for frames, ascending.

        With them are the first packet, for what an encoder says of itself once, and the last, as
        files break off there. Behind a frame come as many packets as show whether a later one is
        really displayed before it.
        """
        places = {stamp: place for place, stamp in enumerate(self.stamps)}
        last = len(self.stamps) - 1
        runs = [(0, 0)]
        for place in {last, *(places[self.displayed[i]] for i in wanted)}:
            start = bisect(self.starts, place) - 1
            while self.stamps[place] < self.stamps[self.starts[start]]:
                start -= 1  # a leading picture
            runs.append((self.starts[start], min(place + self.reorder_depth, last)))
        merged: list[tuple[int, int]] = []
        for begin, end in sorted(runs):
            if merged and begin <= merged[-1][1]:
                merged[-1] = merged[-1][0], max(end, merged[-1][1])
            else:
                merged.append((begin, end))
        return merged


def walk_packets(container: InputContainer, stream: VideoStream) -> PacketWalk | None:
    """Read, but do not decode, all packets of a video.

    Returns:
        None where a decoder that skips packets might show other frames than one that does not:
        a codec other than H.264, HEVC, VP9 and AV1; opacity; packets that are not one frame each
        (fields, hidden or repeated pictures); parameters that change; instants that are missing
        or not unique; more reordering than the decoder expects; a file that begins within a group
        of pictures; or a packet whose structure is damaged.
    """
    from av.error import FFmpegError

    codec = stream.codec_context
    try:
        reads = picture_reader(codec.codec.canonical_name, codec.extradata)
        if reads is None or stream.metadata.get("alpha_mode") == "1":
            return None
        walk = PacketWalk([], [], [], codec.reorder_depth)
        cut: set[int] = set()
        for packet in _filled(container.demux(stream)):
            begins = reads(bytes(packet))
            stamp = _stamp(packet)
            place = bisect_left(walk.displayed, stamp)
            later = len(walk.displayed) - place
            if later > codec.reorder_depth or walk.displayed[place : place + 1] == [stamp]:
                return None
            if begins and not later:
                walk.starts.append(len(walk.stamps))
            walk.displayed.insert(place, stamp)
            walk.stamps.append(stamp)
            if packet.is_discard:
                cut.add(stamp)
    except (UnclearError, ValueError, IndexError, FFmpegError):
        return None
    if walk.starts[:1] != [0] or walk.displayed[0] != walk.stamps[0]:
        return None
    walk.displayed[:] = [stamp for stamp in walk.displayed if stamp not in cut]
    return walk


def saves_decoding(walk: PacketWalk, wanted: Collection[int]) -> bool:
    """Tell whether few enough packets have to be decoded for these frames."""
    n_decoded = sum(end + 1 - begin for begin, end in walk.runs(wanted))
    return n_decoded <= _LARGEST_SHARE * len(walk.stamps)


def sought_frames(
    container: InputContainer, stream: VideoStream, walk: PacketWalk, wanted: Collection[int]
) -> Iterator[tuple[int, VideoFrame]]:
    """Decode some frames.

    Yields:
        Number and frame, ascending.

    Raises:
        UnclearError: A decoded frame is damaged, or the decoder shows other frames than expected.
        FFmpegError: A packet cannot be decoded.
    """
    numbers = {walk.displayed[i]: i for i in wanted}
    kept = set(walk.displayed)
    packets = container.demux(stream)
    place = 0
    for begin, end in walk.runs(wanted):
        stamps = walk.stamps[begin : end + 1]
        expected = iter(sorted(one for one in stamps if one >= stamps[0] and one in kept))
        for frame in _decoded(stream, islice(packets, begin - place, end + 1 - place)):
            if frame.pts is not None and frame.pts < stamps[0]:
                continue  # a leading picture, of which some references were skipped
            if frame.is_corrupt or frame.pts != next(expected, None):
                raise UnclearError
            if frame.pts in numbers:
                yield numbers[frame.pts], frame
        if next(expected, None) is not None:
            raise UnclearError
        stream.codec_context.flush_buffers()
        place = end + 1


def _filled(packets: Iterator[Packet[VideoStream]]) -> Iterator[Packet[VideoStream]]:
    """Packets before the empty one, which tells a decoder that the stream ends."""
    for packet in packets:
        if packet.size:
            yield packet
        elif any(one.size for one in packets):
            raise UnclearError


def _stamp(packet: Packet[VideoStream]) -> int:
    if packet.pts is None or packet.is_corrupt or any(map(packet.has_sidedata, _CHANGES)):
        raise UnclearError
    return packet.pts


def _decoded(stream: VideoStream, packets: Iterator[Packet[VideoStream]]) -> Iterator[VideoFrame]:
    # Any: the stubs of PyAV leave the types of its packets open.
    context: Any = stream.codec_context
    for packet in packets:
        yield from context.decode(packet)
    yield from context.decode(None)
