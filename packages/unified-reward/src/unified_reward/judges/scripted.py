"""Models that answer by a fixed rule: controls for every judge.

They use only the choices of a request and know nothing of quality, families or tasks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from unified_reward.core.errors import ConfigError
from unified_reward.core.requests import Answer, Request
from unified_reward.core.verdicts import Failed


_POSITIONS = {"first": 0, "tie": 1, "second": 2}
KINDS = (*_POSITIONS, "silent", "random")


class ScriptedModel:
    """A model that gives the same kind of answer to every request."""

    def __init__(self, kind: str, seed: int = 0) -> None:
        """Choose the rule.

        Args:
            kind: ``first``, ``tie`` or ``second`` take that place among three choices, and the
                middle of any other number of choices. ``random`` samples one, ``silent`` answers
                with the empty text.
            seed: Random seed of ``random``.

        Raises:
            ConfigError: There is no such kind.
        """
        if kind not in KINDS:
            raise ConfigError(f"there is no scripted model {kind!r}; there are {', '.join(KINDS)}")
        self.name = f"scripted:{kind}"
        self._kind = kind
        self._seed = seed

    def generate(self, requests: Sequence[Request]) -> list[Answer | Failed]:
        """Answer every request in order; one without choices gets the empty text.

        >>> requests = [Request(("A or B?",), choices=("A", "=", "B"))]
        >>> ScriptedModel("second").generate(requests)[0].text
        'B'
        """
        return [Answer(self._text(request)) for request in requests]

    def _text(self, request: Request) -> str:
        if self._kind == "silent" or not request.choices:
            return ""
        n = len(request.choices)
        if self._kind == "random":
            position = _sample(request, self._seed) % n
        else:
            position = _POSITIONS[self._kind] if n == len(_POSITIONS) else (n - 1) // 2
        return request.verdict_prefix + request.choices[position]


def _sample(request: Request, seed: int) -> int:
    digest = hashlib.sha256(str(seed).encode())
    for part in _content(request):
        # Each part's own digest, so that moving a letter from one part to the next is a change.
        digest.update(hashlib.sha256(part).digest())
    return int.from_bytes(digest.digest()[:8])


def _content(request: Request) -> Iterator[bytes]:
    for part in request.parts:
        if isinstance(part, str):
            yield b"text " + part.encode(errors="surrogatepass")
        else:
            yield f"picture {part.mode} {part.size} ".encode() + part.tobytes()
    for choice in request.choices:
        yield b"choice " + choice.encode(errors="surrogatepass")
    yield b"lead " + request.verdict_prefix.encode()
