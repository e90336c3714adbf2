"""A small HTTP client over asyncio's streams: cheap, and able to misbehave."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import NamedTuple


class Answer(NamedTuple):
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """A connection to a port of the loopback, opened when it is needed."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The streams."""
        if self.reader is None or self.writer is None:
            self.reader, self.writer = await asyncio.open_connection(
                "127.0.0.1", self.port, limit=1 << 20
            )
        return self.reader, self.writer

    async def ask(self, request: bytes) -> Answer:
        """Send a whole request and read its answer, even if the server stops reading early.

        Raises:
            OSError: The connection broke without an answer.
            asyncio.IncompleteReadError: It ended within or before the answer.
        """
        reader, writer = await self.open()
        writer.write(request)
        flushed = asyncio.ensure_future(writer.drain())
        try:
            answer = await read_answer(reader)
        finally:
            flushed.cancel()
            with suppress(OSError, asyncio.CancelledError):
                await flushed
        if answer.headers.get("connection", "").lower() == "close":
            self.close()
        return answer

    async def extra(self) -> bytes:
        """Bytes that arrived behind an answer: there should be none."""
        if self.reader is None or self.reader.at_eof():
            return b""
        with suppress(TimeoutError):
            return await asyncio.wait_for(self.reader.read(1 << 16), 0.001)
        return b""

    def close(self) -> None:
        """Close the connection; what is still to be sent is sent, but not waited for."""
        if self.writer is not None:
            self.writer.close()
        self.reader = self.writer = None

    def abort(self) -> None:
        """Close the connection at once."""
        if self.writer is not None:
            self.writer.transport.abort()
        self.reader = self.writer = None


async def read_answer(reader: asyncio.StreamReader) -> Answer:
    """Read a response with a Content-Length, or to the end of the connection."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    version, status = first.split(" ")[:2]
    if version == "HTTP/1.0":
        headers.setdefault("connection", "close")
    if "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    else:
        body = await reader.read()
    return Answer(int(status), headers, body)


def request_bytes(
    path: str, body: bytes, content_type: str = "application/json", *, keep_alive: bool = True
) -> bytes:
    """A POST request."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: {'keep-alive' if keep_alive else 'close'}\r\n"
    )
    return head.encode() + b"\r\n" + body
