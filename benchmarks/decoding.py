"""Decoding: few frames of long clips, and pictures prepared in threads beside a model.

    python -m benchmarks.decoding [--json] [--rounds 5] [--part long] [--keep REPORT] [--tiny]

Long clips are H.264 of 832 x 480 at 25 frames a second, 30 minutes made of one minute again and
again; eight frames are taken as a judge takes them, with and without decoding all. Time is that of
the processor, all threads together.

Overlap is measured on scorers whose model costs nothing, or a sleep: a graphics card that works
while the processor decodes. Ways, by turns in one run, by the clock:

    plain loop   as published code does: Pillow or PyAV, then the processor of transformers
    one thread   this library's preparation, one picture after the other
    ours         `Scorer.ask`
"""

import argparse
import json
import os


os.environ.setdefault("OMP_NUM_THREADS", "1")

import io
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from statistics import median

import av
import numpy as np
import PIL
import PIL.Image
import torch
from transformers import CLIPImageProcessorPil, Idefics2ImageProcessorPil

from unified_reward import media
from unified_reward.core.samples import Image, Sample, Task, Video
from unified_reward.media import seeking
from unified_reward.scorers.base import Prepared, Scorer
from unified_reward.scorers.pickscore import PickScore
from unified_reward.scorers.videoscore import VideoScore, first_frames, fitted


SEED = 20261201
RATE = 25
N_FRAMES = 8
LONG = {
    "a key frame each 2 s": (50, 30),
    "each 250 frames": (250, 30),
    "each minute": (1500, 30),
    "one key frame": (1500, 1),
}
"""Frames from key frame to key frame in one minute, and how often the minute is repeated."""
KINDS = {
    "JPEG 1024 x 1024": (96, 8),
    "PNG 1024 x 1024": (48, 8),
    "H.264 832 x 480, 81 frames": (16, 2),
}
"""Pictures or clips of a round, and of a batch."""
WAYS = ("plain loop", "one thread", "ours")
COSTS = (0.5, 1.0, 2.0)
"""Cost of a model by that of decoding for it."""
AIM = 1.8


def landscape(width, height):
    """A smooth picture of random colours with some grain, as cameras and generators make."""
    rng = np.random.default_rng(SEED)
    coarse = rng.integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8)
    smooth = PIL.Image.fromarray(coarse).resize((width, height), PIL.Image.Resampling.BICUBIC)
    grain = rng.normal(0, 6, (height, width, 3))
    return np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)


def write_clip(path, size, n_frames, group):
    """A camera that wanders over a picture, in H.264 with B-frames."""
    width, height = size
    picture = landscape(width * 2, height * 2)
    options = {"g": str(group), "preset": "veryfast", "crf": "27", "sc_threshold": "0"}
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(n_frames):
            x = int(width * (1 + np.sin(i / 40)) / 2)
            y = int(height * (1 + np.cos(i / 60)) / 2)
            part = np.ascontiguousarray(picture[y : y + height, x : x + width])
            frame = av.VideoFrame.from_ndarray(part, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, RATE)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())


def repeat_clip(source, target, times):
    """The packets of a clip again and again."""
    with av.open(str(source)) as read, av.open(str(target), "w") as output:
        of = read.streams.video[0]
        stream = output.add_stream_from_template(of)
        packets = [packet for packet in read.demux(of) if packet.size]
        minute = len(packets) * packets[0].duration
        for i in range(times):
            for packet in packets:
                copy = av.Packet(bytes(packet))
                copy.pts, copy.dts = packet.pts + i * minute, packet.dts + i * minute
                copy.duration, copy.time_base = packet.duration, packet.time_base
                copy.is_keyframe, copy.stream = packet.is_keyframe, stream
                output.mux(copy)


def processor_seconds(work):
    """Processor time of a call, and its result."""
    begin = time.process_time()
    result = work()
    return time.process_time() - begin, result


def measure_long(name, path, rounds):
    """Eight frames with and without decoding all; one round decodes 30 minutes."""
    fewest = seeking.FEWEST_FRAMES
    seeking.FEWEST_FRAMES = 10**9
    full_s, full = processor_seconds(lambda: media.sample_frames(path, N_FRAMES))
    seeking.FEWEST_FRAMES = fewest
    ours = [processor_seconds(lambda: media.sample_frames(path, N_FRAMES)) for _ in range(rounds)]
    found = ours[0][1]
    seconds = [one for one, _ in ours]
    return {
        "clip": name,
        "frames": full.n_source,
        "megabytes": path.stat().st_size / 1e6,
        "full_s": full_s,
        "ours_s": spread(seconds),
        "ratio": full_s / median(seconds),
        "equal": bool(
            np.array_equal(found.pixels, full.pixels)
            and (found.times_s, found.n_source) == (full.times_s, full.n_source)
        ),
        "decoded": decoded_share(path, full.n_source),
    }


def decoded_share(path, n_frames):
    """Share of packets that are decoded."""
    with av.open(str(path)) as container:
        walk = seeking.walk_packets(container, container.streams.video[0])
    indices = media.frame_indices(n_frames, N_FRAMES, "linspace_inclusive")
    if n_frames < seeking.FEWEST_FRAMES or not walk or not seeking.saves_decoding(walk, indices):
        return 1.0
    return sum(end + 1 - begin for begin, end in walk.runs(indices)) / n_frames


def spread(values):
    """Median with the least and the largest."""
    return {"median": median(values), "least": min(values), "largest": max(values)}


class Weightless:
    """A scorer whose model sleeps for a time per batch."""

    def __init__(self, batch_size):
        Scorer.__init__(self, torch.nn.Linear(1, 1), Path(), batch_size=batch_size)
        self.seconds_per_item = 0.0
        self.busy_s = 0.0

    def forward(self, batch):
        """Nothing, after the time."""
        begin = time.perf_counter()
        time.sleep(self.seconds_per_item * len(batch))
        self.busy_s += time.perf_counter() - begin
        return torch.zeros(len(batch), max(1, len(self.card.aspects)))

    def notes(self, prepared):
        """None: captions are not tokenised."""
        return ()


class WeightlessImages(Weightless, PickScore):
    """PickScore without its CLIP."""

    plain = CLIPImageProcessorPil()

    @classmethod
    def prepare_plainly(cls, path):
        """Pixels of a file in the plain way."""
        with PIL.Image.open(path) as image:
            return cls.plain(image.convert("RGB"), return_tensors="pt").pixel_values


class WeightlessClips(Weightless, VideoScore):
    """VideoScore without its Idefics2 and its wording, which is not part of this package."""

    plain = Idefics2ImageProcessorPil()

    @classmethod
    def prepare(cls, sample):
        """Frames as `VideoScore` prepares them."""
        rule = first_frames(cls.frames)
        frames = media.select_frames(sample.candidates[0], rule, exact=False).images()
        return Prepared(sample.prompt, *fitted(frames))

    @classmethod
    def prepare_plainly(cls, path):
        """Pixels of a file in the plain way."""
        with av.open(str(path)) as container:
            n_frames = container.streams.video[0].frames
            wanted = {int(i * n_frames / cls.frames) for i in range(cls.frames)}
            frames = [
                frame.to_ndarray(format="rgb24")
                for i, frame in enumerate(container.decode(video=0))
                if i in wanted
            ]
        images = [PIL.Image.fromarray(frame) for frame in frames]
        return cls.plain([images], return_tensors="pt").pixel_values


def write_media(kind, folder, n, size):
    """Files that differ, of which every fourth repeats the pixels."""
    suffix = kind.split(" ", maxsplit=1)[0].replace("H.264", "mp4").lower()
    paths = [folder / f"{i}.{suffix}" for i in range(n)]
    if suffix == "mp4":
        write_clip(paths[0], size, 81, 250)
        for path in paths[1:]:
            path.write_bytes(paths[0].read_bytes())
        return paths
    picture = landscape(*size)
    files = []
    for i in range(4):
        buffer = io.BytesIO()
        PIL.Image.fromarray(np.roll(picture, 50 * i, 0)).save(buffer, suffix, quality=90)
        files.append(buffer.getvalue())
    for i, path in enumerate(paths):
        path.write_bytes(files[i % 4])
    return paths


def samples_of(kind, paths):
    """Samples that differ, so that nothing is prepared for another."""
    is_clip = kind.startswith("H.264")
    task = Task.VIDEO_GENERATION if is_clip else Task.IMAGE_GENERATION
    return [Sample(task, f"picture {p.stem}", ((Video if is_clip else Image)(p),)) for p in paths]


def run_way(scorer, way, samples):
    """Seconds by the clock and of the processor, to prepare all for a model that costs nothing."""
    begin, processor = time.perf_counter(), time.process_time()
    if way == "plain loop":
        for sample in samples:
            scorer.prepare_plainly(sample.candidates[0].source)
    elif way == "one thread":
        for sample in samples:
            scorer.prepare(sample)
    else:
        scorer.ask(samples)
    return time.perf_counter() - begin, time.process_time() - processor


def wait_bound(cost, n_batches):
    """Least share of its time that a model waits, at its cost per batch by that of decoding."""
    total = 1 + (n_batches - 1) * max(1, cost) + cost
    return 1 - n_batches * cost / total


def measure_overlap(kind, folder, rounds, size, n):
    """Pictures a second of each way, and how long a model waits that costs something."""
    samples = samples_of(kind, write_media(kind, folder, n, size))
    batch = KINDS[kind][1]
    scorer = (WeightlessClips if kind.startswith("H.264") else WeightlessImages)(batch)
    for way in WAYS:
        run_way(scorer, way, samples[:2])
    seconds = {way: [] for way in WAYS}
    processor = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            by_clock, of_processor = run_way(scorer, way, samples)
            seconds[way].append(by_clock)
            processor[way].append(1000 * of_processor / n)
    per_item = median(seconds["ours"]) / n
    waits = []
    for cost in COSTS:
        shares = []
        for _ in range(rounds):
            scorer.seconds_per_item, scorer.busy_s = cost * per_item, 0.0
            begin = time.perf_counter()
            scorer.ask(samples)
            shares.append(1 - scorer.busy_s / (time.perf_counter() - begin))
        waits.append(
            {"cost": cost, "share": spread(shares), "bound": wait_bound(cost, -(-n // batch))}
        )
    return {
        "kind": kind,
        "n": n,
        "per_second": {way: spread([n / one for one in seconds[way]]) for way in WAYS},
        "speedup": {
            way: spread([a / b for a, b in zip(seconds[way], seconds["ours"], strict=True)])
            for way in WAYS[:2]
        },
        "processor_ms": {way: spread(processor[way]) for way in WAYS},
        "waits": waits,
    }


def measure(rounds, *, tiny=False, parts=("overlap", "long")):
    """The report."""
    frame = (96, 64) if tiny else (832, 480)
    report = {
        "seed": SEED,
        "rounds": rounds,
        "cores": os.cpu_count(),
        "versions": {"av": av.__version__, "pillow": PIL.__version__},
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "overlap" in parts:
            report["load_overlap"], report["overlap"] = [os.getloadavg()[0]], []
            for kind, (n, _) in KINDS.items():
                place = folder / kind.replace(" ", "")
                place.mkdir()
                size = frame if kind.startswith("H.264") else (96, 96) if tiny else (1024, 1024)
                row = measure_overlap(kind, place, rounds, size, 9 if tiny else n)
                report["overlap"].append(row)
            report["load_overlap"].append(os.getloadavg()[0])
        if "long" in parts:
            report["long"] = []
            for clip, (group, times) in LONG.items():
                minute, path = folder / "minute.mp4", folder / "long.mp4"
                write_clip(minute, frame, 150 if tiny else 1500, group // (10 if tiny else 1))
                repeat_clip(minute, path, min(times, 8) if tiny else times)
                report["long"].append(measure_long(clip, path, rounds))
    return report


def between(figures, digits=2):
    """A median with the least and the largest."""
    low, high = figures["least"], figures["largest"]
    return f"{figures['median']:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def long_table(rows):
    """Lines about long clips."""
    lines = [
        f"**Long clips.** {N_FRAMES} frames of 30 minutes (the last: of one), 832 x 480 in H.264 "
        "with B-frames; processor time. Frames, times and number equal those of the full decode in "
        f"{sum(row['equal'] for row in rows)} of {len(rows)} clips.",
        "",
        "| Clip | Frames | MB | All decoded, s | Ours, s | Ratio | Packets decoded |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['clip']} | {row['frames']:,} | {row['megabytes']:.0f} | {row['full_s']:.2f} | "
            f"{between(row['ours_s'])} | {row['ratio']:.2f} | {row['decoded']:.1%} |"
        )
    return [
        *lines,
        "",
        "Every packet is read, none outside the groups of the wanted frames is decoded. With one "
        "key frame there is nothing to skip, and the walk over the packets is lost.",
        "",
    ]


def overlap_tables(report):
    """Lines about pictures prepared beside a model."""
    rows, load = report["overlap"], report["load_overlap"]
    lines = [
        "**Overlap.** A scorer whose model costs nothing: pictures or clips a second by the clock, "
        f"and milliseconds of processor time for each, on {report['cores']} cores with a load of "
        f"{load[0]:.1f} to {load[1]:.1f}. Aim: {AIM} times the loop and one thread. Other work "
        "distorts the clock in favour of threads, processor time hardly: the bound is what as many "
        "quiet cores could gain over one thread at the processor times measured.",
        "",
        "| Media | Plain loop | One thread | Ours | x loop | x one thread | Bound |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        speeds = " | ".join(
            f"{between(row['per_second'][way], 1)}, {row['processor_ms'][way]['median']:.1f} ms"
            for way in WAYS
        )
        ratios = " | ".join(between(row["speedup"][way]) for way in WAYS[:2])
        one, ours = (row["processor_ms"][way]["median"] for way in WAYS[1:])
        lines.append(
            f"| {row['kind']} | {speeds} | {ratios} | {report['cores'] * one / ours:.2f} |"
        )
    lines += [
        "",
        "Share of the time that a model waits which costs a multiple of what decoding for it does "
        "(it sleeps, as a processor does beside a graphics card); in brackets the least, as the "
        "first batch must be waited for, and each where decoding is slower:",
        "",
        f"| Media | {' | '.join(f'{cost:g} x' for cost in COSTS)} |",
        "|---|" + "---|" * len(COSTS),
    ]
    for row in rows:
        cells = [f"{one['share']['median']:.0%} ({one['bound']:.0%})" for one in row["waits"]]
        lines.append(f"| {row['kind']} | {' | '.join(cells)} |")
    return [*lines, ""]


def page(report):
    """Section of docs/results.md."""
    versions = report["versions"]
    lines = [
        "## Decoding",
        "",
        f"`python -m benchmarks.decoding --json`, PyAV {versions['av']}, Pillow "
        f"{versions['pillow']}; medians of {report['rounds']} rounds with the least and the "
        "largest.",
        "",
    ]
    if "long" in report:
        lines += long_table(report["long"])
    if "overlap" in report:
        lines += overlap_tables(report)
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--part", choices=("overlap", "long"), help="only this part")
    parser.add_argument("--keep", type=Path, help="report with the other part")
    parser.add_argument("--tiny", action="store_true", help="small media, for a test")
    given = parser.parse_args()
    torch.set_num_threads(1)
    report = json.loads(given.keep.read_text("utf-8")) if given.keep else {}
    parts = (given.part,) if given.part else ("overlap", "long")
    report |= measure(given.rounds, tiny=given.tiny, parts=parts)
    print(json.dumps(report) if given.json else page(report))


if __name__ == "__main__":
    main()
