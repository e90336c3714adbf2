"""Small files of made-up models: pictures, clips, rows."""

import json

import numpy as np
import PIL.Image

from unified_reward import media


def picture(path, shade=0):
    """Write a picture whose bytes differ by ``shade`` and nothing else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kinds = {".jpg": "JPEG", ".webp": "WEBP"}
    image = PIL.Image.new("RGB", (8, 8), (shade % 256, shade // 256, 7))
    image.save(path, kinds.get(path.suffix, "PNG"))
    return path


def pictures(folder, *names, first=0):
    """Write different pictures under names in a folder."""
    for number, name in enumerate(names, first):
        picture(folder / name, number)
    return folder


def clip(path, shade=0):
    """Write a clip of three frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((3, 16, 16, 3), shade, np.uint8)
    path.write_bytes(media.encode_mp4(pixels, 8))
    return path


def write_rows(path, *rows):
    """Write JSON lines; a text is a line as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return path


def write_prompts(path, *texts):
    """Write a text file with a prompt a line."""
    path.write_text("\n".join(texts) + "\n", "utf-8")
    return path
