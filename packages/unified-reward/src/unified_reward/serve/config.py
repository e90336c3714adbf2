"""Settings of the reward server."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from unified_reward.core.errors import ConfigError
from unified_reward.media import Limits


MIB = 1024 * 1024


@dataclass(frozen=True)
class ServeConfig:
    """Address, limits and memory of a reward server.

    Raises:
        ConfigError: A limit is not positive, or the address is open to others without a token.
    """

    host: str = "127.0.0.1"
    port: int = 8100
    """0 takes any free port."""
    token: str | None = field(default=None, repr=False)
    """Bearer token that every request needs; required for addresses other than loopback."""
    accept_pickle: bool = False
    """Serve the wires whose bodies are pickles of plain data; loopback only."""
    scales: Mapping[str, str] = field(default_factory=dict[str, str])
    """Scale preset of a judge's values on the wires of other projects, such as ``pickscore/26``."""
    max_batch: int = 64
    """Samples that a judge is asked at once."""
    max_wait_ms: float = 5.0
    """Longest time that a sample waits for others to fill a batch; 0 waits for none."""
    max_queue: int = 4096
    """Samples of one judge that wait or are being judged; more are refused with status 429."""
    timeout_s: float = 600.0
    """Longest time of a request, without its transfer; items without a verdict fail."""
    body_timeout_s: float = 60.0
    """Longest pause within a body."""
    max_body_bytes: int = 256 * MIB
    """Size of a request."""
    max_pending_bytes: int = 2048 * MIB
    """Size of all requests that are being answered."""
    max_items: int = 1024
    """Items of a request."""
    max_candidates: int = 64
    """Candidates of an item."""
    max_pixels: int = 16 * MIB
    """Width times height of an image or a frame."""
    max_frames: int = 1024
    """Frames of a video."""
    max_prompt_chars: int = 32_768
    """Length of a prompt, an answer or criteria."""
    decode_threads: int = 4
    """Threads that decode media beside the models."""
    media_cache_bytes: int = 256 * MIB
    """Decoded media that are kept, so that equal ones are decoded once."""
    max_decoded_bytes: int = 8192 * MIB
    """Decoded media of all requests that are being answered."""
    verdict_cache: int = 8192
    """Verdicts of a judge that are kept, so that equal questions are asked once."""
    log_prompts: bool = False
    """Write prompts into the log."""

    def __post_init__(self) -> None:
        may_be_zero = ("port", "max_wait_ms", "media_cache_bytes", "verdict_cache")
        for field_ in fields(self):
            value = getattr(self, field_.name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if is_number and (value < 0 or (value == 0 and field_.name not in may_be_zero)):
                raise ConfigError(f"{field_.name} must be above 0, not {value}")
        if not self.is_loopback and not self.token:
            raise ConfigError(
                f"--host {self.host} is open to other machines; give --token-file, or serve on "
                "127.0.0.1"
            )
        if not self.is_loopback and self.accept_pickle:
            raise ConfigError("--accept-pickle is for loopback addresses alone")

    @property
    def is_loopback(self) -> bool:
        """True for an address that only this machine reaches."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def media_limits(self) -> Limits:
        """Limits of one medium."""
        return Limits(self.max_pixels, self.max_body_bytes, self.max_frames)
