"""Long videos: the frames, times and number of a full decode, from a part of the packets."""

import io
import struct

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unified_reward.core.errors import MediaError
from unified_reward.media import Limits, frame_indices, sample_frames, seeking, select_frames
from unified_reward.media.videos import open_stream

from .clips import clip_of
from .made import noise


X264 = {"g": "12", "preset": "fast", "sc_threshold": "0"}
X265 = {"preset": "superfast", "x265-params": "log-level=none:keyint=12:min-keyint=12"}
VP9 = {"g": "12", "lag-in-frames": "16", "auto-alt-ref": "1", "b": "60k", "cpu-used": "8"}
BROKEN = r"damaged|breaks off"
AV1 = {"g": "12", "preset": "12", "crf": "50"}


def x264(**params):
    return {**X264, "x264-params": ":".join(f"{k}={v}" for k, v in params.items())}


def moving(n, size=(48, 64)):
    """Frames of a picture that moves, so that each needs the one before."""
    height, width = size
    wide = np.kron(noise(height // 8, width // 8 + n, 3), np.ones((8, 8, 1), np.uint8))
    frames = [wide[:, 3 * i : 3 * i + width] for i in range(n)]
    return [
        av.VideoFrame.from_ndarray(np.ascontiguousarray(one), format="rgb24").reformat(
            format="yuv420p"
        )
        for one in frames
    ]


def clip(container, codec, options, n=40, instants=None):
    return clip_of(moving(n), container, codec, options, instants=instants)


def walk_of(data):
    with open_stream(io.BytesIO(data), "clip", Limits()) as (container, stream):
        return seeking.walk_packets(container, stream)


def whole(data):
    """All frames, decoded one after the other."""
    return select_frames(data, lambda n, _: tuple(range(n)))


# Frames of 40: first and last ones of groups of 12, leading ones, and others.
SOME = (0, 5, 10, 11, 12, 13, 22, 23, 24, 30, 35, 39)


def each_alone(data):
    return [select_frames(data, lambda n, _, i=i: (i,)) for i in SOME]


@pytest.fixture
def short(monkeypatch):
    """Seek in short videos too, whether that saves anything or not."""
    monkeypatch.setattr(seeking, "FEWEST_FRAMES", 1)
    monkeypatch.setattr(seeking, "_LARGEST_SHARE", 9.0)


@pytest.fixture
def only_sought(short, monkeypatch):
    """Fail where a video is decoded in full."""

    def refuse(*_, **__):
        raise AssertionError("decoded in full")

    monkeypatch.setattr("unified_reward.media.videos._decode", refuse)


def is_equal(found, full, indices):
    return (
        np.array_equal(found.pixels, full.pixels[list(indices)])
        and found.times_s == tuple(full.times_s[i] for i in indices)
        and found.n_source == full.n_source
    )


# Container, codec, options, and the least number of packets at which decoding may begin.
SOUGHT = {
    "B-frames": ("mp4", "libx264", x264(bframes=3), 4),
    "B-frames that others need": ("matroska", "libx264", x264(bframes=6, ref=5), 4),
    "in fragments": ("mp4", "libx264", X264, 4),
    "transport stream": ("mpegts", "libx264", X264, 4),
    "FLV": ("flv", "libx264", X264, 4),
    "AVI without B-frames": ("avi", "libx264", x264(bframes=0), 4),
    "an open group is no beginning in H.264": ("mp4", "libx264", x264(**{"open-gop": 1}), 1),
    "a recovery point is none": ("mpegts", "libx264", x264(**{"intra-refresh": 1}), 1),
    "HEVC with open groups": ("mp4", "libx265", X265, 3),
    "HEVC in a transport stream": ("mpegts", "libx265", X265, 3),
    "HEVC with closed groups": (
        "matroska",
        "libx265",
        {**X265, "x265-params": X265["x265-params"] + ":open-gop=0:radl=2"},
        3,
    ),
    "VP9 with hidden frames": ("webm", "libvpx-vp9", VP9, 4),
    "VP9 in MP4": ("mp4", "libvpx-vp9", VP9, 4),
    "AV1": ("webm", "libsvtav1", AV1, 4),
    "AV1 in MP4 with grain": (
        "mp4",
        "libsvtav1",
        {**AV1, "svtav1-params": "film-grain=20"},
        4,
    ),
}


@pytest.mark.parametrize("name", SOUGHT)
def test_each_frame_alone_equals_the_full_decode(name, only_sought, monkeypatch):
    container, codec, options, n_starts = SOUGHT[name]
    data = clip(container, codec, options)
    walk = walk_of(data)
    assert len(walk.starts) >= n_starts
    assert n_starts > 1 or len(walk.starts) == 1
    found = each_alone(data)
    monkeypatch.undo()
    full = whole(data)
    assert full.n_source == 40
    for i, frame in zip(SOME, found, strict=True):
        assert is_equal(frame, full, (i,))


IN_FULL = {
    "a codec without a reader": ("mp4", "mpeg4", {"g": "12", "bf": "2"}),
    "fields": ("mp4", "libx264", x264(interlaced=1)),
    "all key frames": ("avi", "mjpeg", {}),
}


@pytest.mark.parametrize("name", IN_FULL)
def test_what_is_not_plain_is_decoded_in_full(name, short):
    container, codec, options = IN_FULL[name]
    frames = moving(20)
    if codec == "mjpeg":
        frames = [one.reformat(format="yuvj420p") for one in frames]
    data = clip_of(frames, container, codec, options)
    assert walk_of(data) is None
    assert sample_frames(data, 4).n_source == 20


def test_avi_does_not_say_when_b_frames_are_displayed_and_is_decoded_in_full(short, monkeypatch):
    data = clip("avi", "libx264", x264(bframes=3))
    found = each_alone(data)
    monkeypatch.undo()
    full = whole(data)
    for i, frame in zip(SOME, found, strict=True):
        assert is_equal(frame, full, (i,))


KINDS = {
    "h264": ("mp4", "libx264"),
    "h264 ts": ("mpegts", "libx264"),
    "hevc": ("matroska", "libx265"),
    "vp9": ("webm", "libvpx-vp9"),
}


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_frames_of_random_clips_equal_the_full_decode(data):
    """Variable frame rate, groups and references of any length, any rule and number of frames."""
    container, codec = KINDS[data.draw(st.sampled_from(sorted(KINDS)))]
    n = data.draw(st.integers(2, 40))
    gaps = data.draw(st.lists(st.integers(1, 9), min_size=n, max_size=n))
    group, bframes = data.draw(st.integers(1, 20)), data.draw(st.integers(0, 5))
    options = {"g": str(group), "bf": str(bframes), "preset": "superfast"}
    if codec == "libx265":
        options["x265-params"] = f"log-level=none:keyint={group}:bframes={bframes}"
    elif codec == "libvpx-vp9":
        options = {**VP9, "g": str(group)}
    made = clip(container, codec, options, n, np.cumsum(gaps).tolist())
    count = data.draw(st.integers(1, 8))
    indices = frame_indices(n, count, data.draw(st.sampled_from(["stride_floor", "span_centres"])))
    full = whole(made)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seeking, "FEWEST_FRAMES", 1)
        patch.setattr(seeking, "_LARGEST_SHARE", 9.0)
        assert is_equal(select_frames(made, lambda *_: indices), full, indices)


@pytest.mark.parametrize("skipped", [5, 17])
def test_an_edit_list_that_begins_within_a_group_is_followed(skipped, only_sought, monkeypatch):
    """Pictures before the edit are decoded and not displayed; B-frames are 2 late in the file."""
    data = clip("mp4", "libx264", x264(bframes=2))
    entry = data.index(b"elst") + 12
    duration, begin = struct.unpack(">II", data[entry : entry + 8])
    tick = 10240 // 10
    edited = struct.pack(">II", duration - 100 * skipped, begin + tick * skipped)
    data = data[:entry] + edited + data[entry + 8 :]
    found = sample_frames(data, 5)
    monkeypatch.undo()
    full = whole(data)
    assert full.n_source == 40 - skipped
    assert is_equal(found, full, frame_indices(full.n_source, 5, "linspace_inclusive"))


def test_wrong_key_flags_mislead_nobody(only_sought, monkeypatch):
    """Without its list of key frames an MP4 calls each frame one."""
    data = clip("mp4", "libx264", x264(bframes=2)).replace(b"stss", b"free")
    found = each_alone(data)
    monkeypatch.undo()
    full = whole(data)
    assert len(walk_of(data).starts) == 4
    for i, frame in zip(SOME, found, strict=True):
        assert is_equal(frame, full, (i,))


def joined(*clips):
    """Packets of H.264 clips one behind the other, each with its own parameters."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mpegts") as output:
        sources = [av.open(io.BytesIO(data)) for data in clips]
        stream = output.add_stream_from_template(sources[0].streams.video[0])
        for i, source in enumerate(sources):
            for packet in source.demux(video=0):
                if packet.size:
                    packet.pts += 900000 * i
                    packet.dts += 900000 * i
                    packet.stream = stream
                    output.mux(packet)
            source.close()
    return buffer.getvalue()


def test_parameters_that_change_are_decoded_in_full(short):
    first, other = (clip("mpegts", "libx264", x264(ref=n), 20) for n in (1, 5))
    assert len(walk_of(joined(first, first)).starts) == 4
    assert walk_of(joined(first, other)) is None


def test_a_file_that_begins_within_a_group_is_decoded_in_full(short):
    data = clip("mpegts", "libx264", X264)
    with av.open(io.BytesIO(data)) as container:
        place = [one.pos for one in container.demux(video=0) if one.size][5]
    assert walk_of(data[place:]) is None


def test_damage_is_found_where_a_wanted_frame_depends_on_it(short):
    """Pixels of other groups are not looked at, which the documentation says."""
    data = bytearray(clip("mp4", "libx264", X264))
    with av.open(io.BytesIO(data)) as container:
        packets = [(one.pos, one.size) for one in container.demux(video=0) if one.size]
    place, size = packets[24]
    data[place + 20 : place + size] = noise(size - 20).tobytes()
    with pytest.raises(MediaError, match=BROKEN):
        sample_frames(bytes(data), 4, "span_centres")
    assert sample_frames(bytes(data), 2).n_source == 40
    data[place : place + 4] = b"\0\0\0\1"  # the length of a unit: the structure is damaged
    with pytest.raises(MediaError, match=BROKEN):
        sample_frames(bytes(data), 2)


def test_a_long_video_is_decoded_in_part_and_a_short_one_in_full(monkeypatch):
    """Eight frames of 1000 with a key frame each 12 need at most ten groups."""
    frames = moving(40)
    data = clip_of(frames * 25, "mp4", "libx264", X264)
    runs = walk_of(data).runs(frame_indices(1000, 8, "span_centres"))
    assert sum(end + 1 - begin for begin, end in runs) <= 10 * 14
    found = sample_frames(data, 8)
    monkeypatch.setattr(seeking, "FEWEST_FRAMES", 1001)
    again = sample_frames(data, 8)
    np.testing.assert_array_equal(found.pixels, again.pixels)
    assert found.times_s == again.times_s
    broken = bytearray(data)
    with av.open(io.BytesIO(data)) as container:
        packets = [(one.size, one.pos) for one in container.demux(video=0) if one.size]
    size, place = max(packets[100:900])
    broken[place + 20 : place + size] = noise(size - 20).tobytes()
    with pytest.raises(MediaError, match=BROKEN):
        sample_frames(bytes(broken), 2)
    monkeypatch.undo()
    assert sample_frames(bytes(broken), 2).n_source == 1000
