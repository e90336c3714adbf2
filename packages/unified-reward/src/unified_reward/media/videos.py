"""Sample the frames of a video.

An FLV, Ogg, ASF or MPEG file that was cut between two frames looks like a short one, and a frame
that the decoder returns without complaint counts as good. Does not know how many frames a judge
wants.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from unified_reward.core.errors import ConfigError, MediaError
from unified_reward.core.samples import FrameRule, Image, Video
from unified_reward.media import seeking
from unified_reward.media.files import (
    LIMITS,
    Limits,
    PILImage,
    Pixels,
    ReadableFile,
    check_size,
    describe,
    open_file,
)
from unified_reward.media.frames import display_size, frame_rgb
from unified_reward.media.images import (
    ImageFile,
    array_rgb,
    identify_image,
    open_image,
    pillow_errors,
    upright_rgb,
)
from unified_reward.media.packets import UnclearError


if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream


FrameRate = Callable[[], float | None]
"""Returns the frames per second of a source, or None where unknown."""
FrameChooser = Callable[[int, FrameRate], tuple[int, ...]]
"""Maps the number of frames of a source, and its rate, to ascending indices of frames to keep."""
# Frames kept while decoding, with the second each begins at.
_Kept = dict[int, tuple[float, Pixels]]

# Naming the containers keeps FFmpeg from following playlists, which may point to other files.
_CONTAINERS = "mov,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg"
# Browsers show a frame of an animation for the second time where it states at most the first.
_TOO_SHORT_MS, _DEFAULT_DURATION_MS = 10, 100
# Decoders of FFmpeg that read the opacity which WebM keeps beside the frames; its own do not.
_OPACITY_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
_PQ = 16  # AVCOL_TRC_SMPTE2084
# AVCOL_SPC of the matrices that libswscale knows: RGB, BT.709, unspecified (taken for BT.601),
# reserved, FCC, BT.470BG, SMPTE 170M and 240M, BT.2020.
_MATRICES = (0, 1, 2, 3, 4, 5, 6, 7, 9)


@dataclass(frozen=True, eq=False)
class SampledFrames:
    """Frames sampled from a video, in order of time."""

    pixels: Pixels
    """RGB, shape (n, height, width, 3)."""
    times_s: tuple[float, ...] | None
    """Start of each frame, in seconds; None for frames in memory without ``fps``."""
    n_source: int
    """Number of frames of the source."""

    @property
    def n_repeated(self) -> int:
        """Number of frames that repeat another, because the source has too few."""
        return max(0, len(self.pixels) - self.n_source)

    def images(self) -> tuple[PILImage, ...]:
        """Frames as PIL images."""
        return tuple(PIL.Image.fromarray(frame) for frame in self.pixels)


def frame_indices(n_frames: int, count: int, rule: FrameRule) -> tuple[int, ...]:
    """Compute the indices of the frames a rule takes; a short video repeats frames.

    ``linspace_inclusive`` is ``np.linspace(0, n_frames - 1, count).astype(int)``: first and last
    frame included, positions truncated, not rounded. ``span_centres`` takes the middle of each of
    ``count`` equal spans, ``stride_floor`` their first frames.

    Args:
        n_frames: Frames of the source, >= 1.
        count: Frames wanted, >= 1.
        rule: One of the names above.

    Returns:
        ``count`` ascending indices in [0, n_frames - 1].

    Raises:
        MediaError: There is no frame to take.
        ConfigError: ``count`` is below 1, or the rule is not known.

    >>> frame_indices(10, 4, "linspace_inclusive")
    (0, 3, 6, 9)
    >>> frame_indices(10, 4, "span_centres")
    (1, 3, 6, 8)
    >>> frame_indices(10, 4, "stride_floor")
    (0, 2, 5, 7)
    """
    if count < 1:
        raise ConfigError(f"cannot sample {count} frames; ask for at least 1")
    if rule not in get_args(FrameRule):
        raise ConfigError(f"no frame rule {rule!r}; there are {', '.join(get_args(FrameRule))}")
    if n_frames < 1:
        raise MediaError("a video without frames cannot be sampled")
    if rule == "linspace_inclusive":
        return tuple(int(i) for i in np.linspace(0, n_frames - 1, count).astype(int))
    if rule == "span_centres":
        return tuple((2 * i + 1) * n_frames // (2 * count) for i in range(count))
    return tuple(i * n_frames // count for i in range(count))


def sample_frames(
    video: Video | str | Path | bytes,
    count: int,
    rule: FrameRule = "linspace_inclusive",
    *,
    limits: Limits = LIMITS,
) -> SampledFrames:
    """Take ``count`` frames of a video as upright RGB.

    Video files and animated GIF, WebP and PNG are read; a still image is a video of one frame.
    Of several video streams the one FFmpeg calls best is read. Frames are counted instead of
    trusting the header, and a file that breaks off is an error.

    All frames are decoded, except in a file of H.264, HEVC, VP9 or AV1 with at least 1000 frames,
    where less than half of them leads to those wanted. Frames, times and number are the same, to
    the bit, but damage may pass: the structure of every packet is checked, the pixels of groups of
    pictures without a wanted frame are not, the first picture and the last group excepted. A
    picture there that FFmpeg cannot decode counts as a frame.

    Args:
        video: A path, the encoded bytes, or a ``Video`` holding one of them, an array (layout
            THWC or TCHW; 1, 3 or 4 channels; uint8, or float in [0, 1]) or a tuple of images.
        count: Frames wanted, >= 1.
        rule: See ``frame_indices``.
        limits: Checked before decoding.

    Returns:
        The frames, their times, and the number of frames of the source.

    Raises:
        MediaError: The file is missing, too large, broken, without frames, or not a video.
        ConfigError: ``count`` is below 1, or the rule is not known.
    """
    return select_frames(video, lambda n_frames, _: frame_indices(n_frames, count, rule), limits)


def select_frames(
    video: Video | str | Path | bytes,
    choose: FrameChooser,
    limits: Limits = LIMITS,
    *,
    exact: bool = True,
) -> SampledFrames:
    """Take the frames of a video that a custom rule chooses; otherwise as `sample_frames`.

    Args:
        video: As in `sample_frames`.
        choose: Called with the number of frames, and a function that returns their mean rate per
            second: that of the stream, of the whole animation, or ``fps``.
        limits: Checked before decoding.
        exact: Round colours to the nearest. Else they are those of decord, OpenCV and others,
            which take libswscale's defaults: one grey value darker on average, up to 4 off, and
            not the same on every processor.

    Raises:
        MediaError: The file is missing, too large, broken, without frames, or not a video.
    """
    media = video if isinstance(video, Video) else Video(video)
    source: object = media.source
    name = describe(source)
    if isinstance(source, str | Path | bytes):
        with open_file(source, limits) as file:
            image = identify_image(file, name, limits)
            if image is None:
                return _sample_stream(file, choose, name, limits, exact=exact)
            return _sample_animation(image, choose, name)
    if isinstance(source, PILImage):
        source = (source,)
    if isinstance(source, tuple):
        frames = cast("tuple[Image, ...]", source)
        indices = choose(len(frames), lambda: media.fps)
        pixels = {i: np.asarray(open_image(frames[i], limits=limits)) for i in set(indices)}
        return SampledFrames(
            _stacked(pixels, indices, name), _times(indices, media.fps), len(frames)
        )
    if isinstance(source, np.ndarray):
        array = cast("NDArray[Any]", source)
        n_source = len(array) if array.ndim else 0
        indices = choose(n_source, lambda: media.fps)
        pixels = array_rgb(array[list(indices)], media.layout, ("THWC", "TCHW"))
        return SampledFrames(pixels, _times(indices, media.fps), n_source)
    raise MediaError(
        f"{name}: not a video; give a path, bytes, a numpy array with its layout, "
        "or a tuple of images"
    )


def frame_times(video: Video | str | Path | bytes, limits: Limits = LIMITS) -> tuple[float, ...]:
    """Start of each frame of a video, in seconds from the first; empty where unknown.

    A file is read but not decoded: where packets are not frames, there are as many as packets.

    Raises:
        MediaError: The file is missing, too large, broken, or not a video.
    """
    media = video if isinstance(video, Video) else Video(video)
    source: object = media.source
    if isinstance(source, str | Path | bytes):
        name = describe(source)
        with open_file(source, limits) as file:
            image = identify_image(file, name, limits)
            return _packet_times(file, name, limits) if image is None else _starts(image, name)
    n_source = len(cast("Any", source)) if isinstance(source, tuple | np.ndarray) else 1
    return _times(tuple(range(n_source)), media.fps) or ()


def content_hash(media: Image | Video) -> str:
    """Hash media: SHA-256, in hex, of a file's bytes, or of shape and RGB pixels in memory.

    Equal pixels hash equally, whether PIL image or array; a file and its pixels differ.

    Raises:
        MediaError: The media cannot be read.
    """
    source: object = media.source
    if isinstance(source, str | Path | bytes):
        with open_file(source, LIMITS) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if isinstance(media, Image):
        pixels = np.asarray(open_image(media))
    else:
        pixels = select_frames(media, lambda n_frames, _: tuple(range(n_frames))).pixels
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(pixels.tobytes())
    return digest.hexdigest()


def image_or_video(source: str | Path | bytes) -> Literal["image", "video"]:
    """Recognise a file as image or video by its content; an animated image is a video.

    No pixel is decoded, so a broken file may still be recognised.

    Raises:
        MediaError: The file is missing, too large, neither, or an image of a format not read.
    """
    name = describe(source)
    with open_file(source, LIMITS) as file:
        image = identify_image(file, name, LIMITS)
        if image is None:
            with open_stream(file, name, LIMITS):
                return "video"
        return "video" if image.n_frames > 1 else "image"


def _sample_animation(image: ImageFile, choose: FrameChooser, name: str) -> SampledFrames:
    """Sample an animated image, or the only frame of a still one."""
    with pillow_errors(name):
        indices = choose(image.n_frames, lambda: _animation_rate(image))
        kept: _Kept = {}
        elapsed_ms = 0.0
        for i, (frame, duration_ms) in enumerate(image.frames()):
            if i in indices:
                kept[i] = elapsed_ms / 1000, np.asarray(upright_rgb(frame, image.orientation))
            elapsed_ms += _shown_ms(duration_ms)
    return _sampled(kept, indices, image.n_frames, name)


def _starts(image: ImageFile, name: str) -> tuple[float, ...]:
    if image.n_frames == 1:
        return (0.0,)
    with pillow_errors(name):
        ends = accumulate(map(_shown_ms, image.durations_ms()), initial=0.0)
        return tuple(elapsed_ms / 1000 for elapsed_ms in ends)[:-1]


def _animation_rate(image: ImageFile) -> float | None:
    if image.n_frames == 1:
        return None
    return 1000 * image.n_frames / sum(map(_shown_ms, image.durations_ms()))


def _shown_ms(duration_ms: float) -> float:
    return duration_ms if duration_ms > _TOO_SHORT_MS else _DEFAULT_DURATION_MS


def _sample_stream(
    file: ReadableFile, choose: FrameChooser, name: str, limits: Limits, *, exact: bool
) -> SampledFrames:
    """Sample the best video stream of a file."""
    n_source, fps = _count_packets(file, name, limits)
    if n_source >= seeking.FEWEST_FRAMES:
        sought = _seek(
            file, lambda n_frames: choose(n_frames, lambda: fps), name, limits, exact=exact
        )
        if sought:
            return sought
    indices = choose(n_source, lambda: fps)
    kept, n_decoded = _decode(file, indices, n_source, name, limits, exact=exact)
    if n_decoded != n_source:
        # A packet need not be a frame: some codecs hide frames, an edit list removes some.
        n_source = n_decoded
        indices = choose(n_source, lambda: fps)
        kept, _ = _decode(file, indices, n_source, name, limits, exact=exact)
    return _sampled(kept, indices, n_source, name)


@contextmanager
def open_stream(
    file: ReadableFile, name: str, limits: Limits
) -> Generator[tuple[InputContainer, VideoStream]]:
    """Open the best video stream of a file at its beginning and check its size."""
    import av
    from av.error import FFmpegError

    has_movie = _has_movie(file)
    file.seek(0)
    options = {"format_whitelist": _CONTAINERS}
    try:
        container = av.open(file, "r", metadata_errors="ignore", options=options)
    except FFmpegError as error:
        raise MediaError(f"{name}: neither an image nor a video that can be read") from error
    with container:
        stream = _best_stream(container)
        if stream is None or (container.format.name.startswith("mov") and not has_movie):
            raise MediaError(f"{name}: there is no video in this file")
        # Contrary to the stubs of PyAV, a stream of an unknown codec has no context.
        codec = cast("VideoCodecContext | None", stream.codec_context)
        if codec is None:
            raise MediaError(f"{name}: the video is written in a codec FFmpeg does not know")
        if codec.color_trc == _PQ:
            raise MediaError(f"{name}: HDR (PQ) is not read; tone-map it to SDR first")
        if codec.colorspace not in _MATRICES:
            raise MediaError(f"{name}: its colour matrix is not read; convert it to BT.709 first")
        check_size(display_size((codec.width, codec.height), _pixel_shape(stream)), name, limits)
        yield container, stream


def _best_stream(container: InputContainer) -> VideoStream | None:
    """Find the stream FFmpeg calls best; the cover image of a song or a film is none."""
    from av.stream import Disposition

    best = cast("VideoStream | None", container.streams.best("video"))
    streams = [best, *container.streams.video] if best else []
    covers = Disposition.attached_pic | Disposition.timed_thumbnails
    return next((stream for stream in streams if not stream.disposition & covers), None)


def _pixel_shape(stream: VideoStream) -> Fraction:
    shape = stream.sample_aspect_ratio
    return shape if shape and shape > 0 else Fraction(1)


def _has_movie(file: ReadableFile) -> bool:
    """Look for the box ``moov``; an ISO-BMFF file without it, such as HEIF, holds images."""
    place = file.seek(0)
    while len(header := file.read(16)) >= 8:
        if header[4:8] == b"moov":
            return True
        size = int.from_bytes(header[8:] if header[:4] == b"\0\0\0\1" else header[:4], "big")
        if not 8 <= size < 2**62:
            break
        place = file.seek(place + size)
    return False


def _count_packets(file: ReadableFile, name: str, limits: Limits) -> tuple[int, float | None]:
    """Count the packets of the video stream, and read its frames per second.

    Cheap, and nearly always the number of frames.
    """
    from av.error import FFmpegError

    file.seek(0)
    stated, n_bytes = _stated_length(file.read(512)), file.seek(0, io.SEEK_END)
    if n_bytes < stated:
        raise MediaError(f"{name}: the file ends after {n_bytes} of {stated} bytes")
    with open_stream(file, name, limits) as (container, stream):
        fps = float(stream.average_rate) if stream.average_rate else None
        try:
            n_indexed = len(stream.index_entries)
            n_packets = sum(1 for packet in container.demux(stream) if packet.size)
        except (FFmpegError, IndexError) as error:  # of PyAV: a stream that is not in the header
            raise MediaError(f"{name}: the video cannot be read: {_reason(error)}") from error
    if n_packets == 0:
        raise MediaError(f"{name}: the video has no frames")
    if n_packets < n_indexed:  # a file cut between two packets is not an error to FFmpeg
        raise MediaError(f"{name}: the file ends after frame {n_packets} of {n_indexed}")
    return n_packets, fps


def _packet_times(file: ReadableFile, name: str, limits: Limits) -> tuple[float, ...]:
    from av.error import FFmpegError

    with open_stream(file, name, limits) as (container, stream):
        try:
            frames = (one for one in container.demux(stream) if one.size and not one.is_discard)
            packets = list(islice(frames, limits.max_frames + 1))
        except (FFmpegError, IndexError) as error:
            raise MediaError(f"{name}: the video cannot be read: {_reason(error)}") from error
        if len(packets) > limits.max_frames:
            raise MediaError(f"{name}: more than {limits.max_frames} frames")
        stamps = sorted(one.pts for one in packets if one.pts is not None)
        second = stream.time_base or Fraction(0)
        if len(stamps) < len(packets) or not second:
            return ()
        return tuple(float((stamp - stamps[0]) * second) for stamp in stamps)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or "a stream begins within it"


def _stated_length(head: bytes) -> int:
    """Return the length of an AVI or Matroska file by its header; 0 where none is stated."""
    if head.startswith(b"RIFF"):
        return 8 + int.from_bytes(head[4:8], "little")
    if not head.startswith(b"\x1aE\xdf\xa3"):
        return 0
    begin, size = _matroska_size(head, 4)
    begin, size = _matroska_size(head, begin + size + 4)
    return begin + size


def _matroska_size(head: bytes, place: int) -> tuple[int, int]:
    """Read the size of an element: where it begins, and 0 where the size is unknown."""
    first = head[place] if place < len(head) else 0
    length = 9 - first.bit_length()
    most = 2 ** (7 * length) - 1
    size = int.from_bytes(head[place : place + length], "big") & most
    return place + length, 0 if size == most or not first else size


def _decode(
    file: ReadableFile,
    wanted: Collection[int],
    n_expected: int,
    name: str,
    limits: Limits,
    *,
    exact: bool,
) -> tuple[_Kept, int]:
    """Decode and count all frames; keep those wanted."""
    from av.error import FFmpegError
    from av.video.reformatter import VideoReformatter

    kept: _Kept = {}
    position = 0
    start_s = 0.0
    reformatter = VideoReformatter()
    with open_stream(file, name, limits) as (container, stream):
        fallback_rate = float(stream.average_rate or 1)
        pixel_shape = _pixel_shape(stream)
        try:
            for frame in _decoded_frames(container, stream, name):
                if frame.is_corrupt:
                    raise MediaError(f"{name}: frame {position} of {n_expected} is damaged")
                time_s = position / fallback_rate if frame.pts is None else frame.time
                start_s = start_s if position else time_s
                if position in wanted:
                    check_size(display_size((frame.width, frame.height), pixel_shape), name, limits)
                    pixels = frame_rgb(frame, reformatter, pixel_shape, exact=exact)
                    kept[position] = time_s - start_s, pixels
                position += 1
        except FFmpegError as error:
            raise MediaError(
                f"{name}: decoding breaks off at frame {position} of {n_expected}: {error.strerror}"
            ) from error
    if position == 0:
        raise MediaError(f"{name}: the video has no frames")
    return kept, position


def _seek(
    file: ReadableFile,
    choose: Callable[[int], tuple[int, ...]],
    name: str,
    limits: Limits,
    *,
    exact: bool,
) -> SampledFrames | None:
    """Decode the frames of a long video that are chosen; None where that is slow or unsafe."""
    from av.error import FFmpegError
    from av.video.reformatter import VideoReformatter

    with open_stream(file, name, limits) as (container, stream):
        walk = seeking.walk_packets(container, stream)
        second = stream.time_base
    indices = choose(len(walk.displayed)) if walk else ()
    if not walk or not second or not seeking.saves_decoding(walk, indices):
        return None
    # In the order in which the times of PyAV's frames are rounded.
    times_s = [float(one) * second.numerator / second.denominator for one in walk.displayed]
    kept: _Kept = {}
    reformatter = VideoReformatter()
    with open_stream(file, name, limits) as (container, stream):
        pixel_shape = _pixel_shape(stream)
        try:
            for i, frame in seeking.sought_frames(container, stream, walk, indices):
                check_size(display_size((frame.width, frame.height), pixel_shape), name, limits)
                pixels = frame_rgb(frame, reformatter, pixel_shape, exact=exact)
                kept[i] = times_s[i] - times_s[0], pixels
        except (UnclearError, FFmpegError):
            return None
    return _sampled(kept, indices, len(walk.displayed), name)


def _decoded_frames(
    container: InputContainer, stream: VideoStream, name: str
) -> Iterator[VideoFrame]:
    """Decode all frames, with opacity where WebM keeps one beside them."""
    from av import CodecContext, codecs_available

    decoder = _OPACITY_DECODERS.get(stream.codec_context.name)
    if decoder is None or stream.metadata.get("alpha_mode") != "1":
        yield from container.decode(stream)
        return
    if decoder not in codecs_available:
        raise MediaError(f"{name}: this FFmpeg has no {decoder}, which reads its transparency")
    # Any: the stubs of PyAV leave the types of its packets open.
    context: Any = CodecContext.create(decoder, "r")
    for packet in container.demux(stream):
        yield from context.decode(packet if packet.size else None)


def _sampled(kept: _Kept, indices: tuple[int, ...], n_source: int, name: str) -> SampledFrames:
    pixels = _stacked({i: frame for i, (_, frame) in kept.items()}, indices, name)
    return SampledFrames(pixels, tuple(kept[i][0] for i in indices), n_source)


def _stacked(frames: Mapping[int, Pixels], indices: tuple[int, ...], name: str) -> Pixels:
    first = indices[0]
    for i in indices:
        if frames[i].shape != frames[first].shape:
            sizes = ("{1}x{0}".format(*frames[j].shape) for j in (first, i))
            raise MediaError(
                f"{name}: frame {first} is {next(sizes)} pixels and frame {i} {next(sizes)}; "
                "all frames of a video must have one size"
            )
    return np.stack([frames[i] for i in indices])


def _times(indices: tuple[int, ...], fps: float | None) -> tuple[float, ...] | None:
    if fps is None:
        return None
    if not fps > 0:
        raise MediaError(f"a video cannot have {fps} frames per second; give more than 0")
    return tuple(i / fps for i in indices)
