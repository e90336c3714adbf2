"""Requests to a server, and media in them."""

import base64
import io
import json

import httpx
import numpy as np
import PIL.Image


def request(url, body=None, *, timeout=30, **headers):
    """The response to a GET, or to a POST of bytes or JSON."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is None:
        return httpx.get(url, headers=headers, timeout=timeout, trust_env=False)
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
        headers.setdefault("Content-Type", "application/json")
    return httpx.post(url, content=body, headers=headers, timeout=timeout, trust_env=False)


def b64(content):
    return base64.b64encode(content).decode()


def encoded(pixels, kind="PNG", **options):
    """An image file of grey or RGB pixels."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.asarray(pixels, np.uint8)).save(buffer, kind, **options)
    return buffer.getvalue()


def grey(value, size=8):
    """A PNG of one grey value."""
    return encoded(np.full((size, size, 3), value))


def npy(pixels):
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(pixels, np.uint8))
    return buffer.getvalue()


def item(*values, prompt="a photo", **fields):
    """An item whose candidates are images of these grey values."""
    candidates = [{"image": b64(grey(value))} for value in values]
    return {"prompt": prompt, "candidates": candidates, **fields}
