"""Faster ways of asking a model, each proven equal to the plain way on the loaded weights.

The plain way is a request alone, through its own processor, with one pass over prompt and answer.
Recurrent layers do not see a mask, sliding windows end somewhere, and a model may count positions
in its own way: nothing of this is known from a model's name, so that each way is tried on a few
short requests when a model is loaded, and one that differs is not used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import PIL.Image
import torch
from transformers import PROCESSOR_MAPPING, DynamicCache

from unified_reward.backends.batching import FAULTS
from unified_reward.backends.choices import Prompt, Tails, Way, score_tails
from unified_reward.backends.image_features import ImageEncoder, flat, to_device
from unified_reward.backends.passes import encoder_of
from unified_reward.backends.prefixes import Node
from unified_reward.backends.shared import Answers
from unified_reward.core.errors import ModelError, one_line
from unified_reward.core.requests import Answer, Request
from unified_reward.core.verdicts import Failed


if TYPE_CHECKING:
    from unified_reward.backends.hf_vlm import VLM

TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 2e-2}
"""Largest difference of two log-probabilities that counts as rounding, as a share of the largest
of them: each is a sum of a few terms."""
_SAME_SHAPES = 0.05
"""Part of the tolerance for two passes of the same shapes, which are rounded alike."""
_LEAST = 1e-2
"""Log-probability that differences are at least a share of: a sure judge's are all 0."""
_CHOICES = ("1", "10 first", "second tie 10")
_TEXT = {"input_ids", "attention_mask"}
_WORDS = "red 1 circle 10 "
_ENDS: tuple[Literal["anywhere"], Literal["behind images"]] = ("anywhere", "behind images")
_TOGETHER, _PARTLY, _APART = (1e9, 10**9), (16.0, 0), (0.0, 0)
_PREFIXES: dict[Literal["packed", "rows"], dict[str, tuple[float | None, int]]] = {
    "packed": {"together": _TOGETHER, "partly": _PARTLY, "apart": _APART},
    "rows": {"apart": (None, 0)},
}
"""Ways of sharing prefixes, each tried with `Limits.packed` and `packed_least` for all requests in
a row, for some, and for each in its own."""


def tolerance_of(model: Any) -> float:
    """Tolerance of a model's dtype, see `TOLERANCE`."""
    return TOLERANCE.get(model.dtype, TOLERANCE[torch.bfloat16])


@dataclass
class Ways:
    """Ways of asking that a model showed to be equal to the plain way."""

    choices: Way = "whole"
    """Choices side by side behind one prompt, as rows behind it, or each with its own prompt."""
    batches: Literal["padded", "of equal length", "of one"] = "of one"
    """Requests that share a batch."""
    images: Literal["encoded once", "encoded for each request"] = "encoded for each request"
    prefixes: Literal["packed", "rows", "repeated"] = "repeated"
    """What follows a prefix that several requests share: side by side behind it, in rows on copies
    of its cache, or with the prefix computed for each request."""
    prefixes_end: Literal["anywhere", "behind images"] = "anywhere"
    """Prefixes that are shared: all, or those that no images follow, as images see each other, or
    a mark before them."""
    differences: dict[str, float | str] = field(default_factory=dict[str, float | str])
    """By way that was tried, the largest difference found, as a share of the largest
    log-probability; or the error raised."""

    @property
    def padding(self) -> bool:
        """True if requests of different lengths share a batch."""
        return self.batches == "padded"

    @property
    def may_share(self) -> bool:
        """True if prefixes may be shared: images are there apart, and a cache is right."""
        return self.images == "encoded once" and self.choices != "whole"

    def describe(self) -> dict[str, Any]:
        """Ways in use, and the differences found, as JSON."""
        return asdict(self)

    def slower(self) -> list[str]:
        """Sentences about the faster ways that are not used, with the differences found."""
        reasons = {
            "features": "an image is encoded again for each request",
            "padding": "only requests of one length share a batch",
            "batches": "each request is asked alone",
            "prefixes": "what requests share from their start is computed for each"
            if self.prefixes == "repeated"
            else "what follows a shared prefix is asked in a row each",
            "packed": "choices are asked "
            + ("in a row each" if self.choices == "rows" else "with a whole prompt each"),
        }
        unused = {
            "features": self.images != "encoded once",
            "padding": self.batches == "of equal length",
            "batches": self.batches == "of one",
            "prefixes": self.may_share
            and (
                self.prefixes == "repeated" or (self.prefixes, self.choices) == ("rows", "packed")
            ),
            "packed": self.choices != "packed",
        }
        return [
            f"{reason}: the faster way differs ({self._found(name)})"
            for name, reason in reasons.items()
            if unused[name]
        ]

    def _found(self, name: str) -> str:
        found = [value for key, value in self.differences.items() if key.startswith(name)]
        return ", ".join(value if isinstance(value, str) else f"{value:.2g}" for value in found)


@torch.inference_mode()
def prove(vlm: VLM) -> None:
    """Find the ways that are equal to the plain one, and let the model use them.

    Raises:
        ModelError: The plain way itself fails: the model cannot be asked about an image.
    """
    # All probes stand in one batch, whatever is asked for later.
    own, vlm.batch_size = vlm.batch_size, 64
    try:
        proof = _Proof(vlm)
        proof.check_images()
        proof.find_features()
        proof.find_padding()
        proof.find_choices()
        proof.find_prefixes()
        proof.check_order()
    finally:
        vlm.batch_size = own


class _Proof:
    """Probes, with the log-probabilities of their choices in the plain way."""

    def __init__(self, vlm: VLM) -> None:
        self._vlm = vlm
        self._ways = vlm.ways
        self._tolerance = tolerance_of(vlm.model)
        self._prompts: list[Prompt] = []
        self._tails: list[Tails] = []
        self._wanted: list[tuple[float, ...]] = []
        for probe in _probes(vlm):
            try:
                shared, tails = vlm.chat.split_choices("", probe.choices)
                self._wanted += score_tails(vlm, [(probe, shared)], [tails], "whole")
            except FAULTS as error:
                if not self._prompts:
                    raise ModelError(_unusable(vlm, error)) from error
                self._ways.differences[_name(probe)] = one_line(error)
                continue
            self._prompts.append((probe, shared))
            self._tails.append(tails)
        self._probes = [probe for probe, _ in self._prompts]
        least = [row.index(min(row)) for row in self._wanted]
        # One choice tells ways apart as three do, but not one that is certain.
        self._least = [[rows[k]] for rows, k in zip(self._tails, least, strict=True)]
        self._wanted_least = [(row[k],) for row, k in zip(self._wanted, least, strict=True)]

    def check_images(self) -> None:
        """Refuse a model that answers alike about different images."""
        probe, shared = self._prompts[0]
        (image,) = probe.images
        other = Request((PIL.Image.new("RGB", image.size, "teal"), *probe.parts[1:]), probe.choices)
        wanted = self._wanted_least[:1]
        found = score_tails(self._vlm, [(other, shared)], self._least[:1], "whole")
        # By chance, one choice may be as probable.
        if found == wanted and self._wanted[:1] == score_tails(
            self._vlm, [(other, shared)], self._tails[:1], "whole"
        ):
            raise ModelError(f"{_about(self._vlm)}: it answers alike about different images")
        # A fault in a batch, such as images that are numbered through, grows with its size.
        self._alike = [self._prompts[0], *[(other, shared)] * 7]
        self._wanted_alike = wanted + found * 7

    def check_order(self) -> None:
        """Refuse a model whose tokens see those behind them; one that uses a cache does not."""
        if self._ways.choices != "whole":
            return
        vlm, (probe, shared), row = self._vlm, self._prompts[0], max(self._tails[0], key=len)
        rows = [[*shared, *row[:-1], token] for token in (row[-1], row[0])]
        before, after = (
            vlm.logits(vlm.inputs([probe], [ids]), len(row) + 1)[0, 0].float() for ids in rows
        )
        if (before - after).abs().max() > self._tolerance * before.abs().max():
            raise ModelError(
                f"{_about(vlm)}: its tokens see those behind them, so that an answer has no "
                "probability"
            )

    def find_features(self) -> None:
        """Try to encode images apart from their requests, and apart by company."""
        for by_company, name in ((False, "features"), (True, "features by company")):
            encode = partial(self._encoded, by_company=by_company)
            if self._equals(name, encode, self._wanted_least):
                self._ways.images = "encoded once"
                return
        self._vlm.encoder = None

    def _encoded(self, *, by_company: bool) -> list[tuple[float, ...]]:
        """Log-probabilities of single choices by features that were encoded apart from requests.

        Raises:
            ValueError: Tokens or features are not those that the processor's own pass has.
        """
        vlm = self._vlm
        inputs = vlm.chat.process(self._probes[:1])
        row = inputs["input_ids"].shape
        types = [name for name in inputs.keys() - _TEXT if inputs[name].shape == row]
        vlm.encoder = ImageEncoder(
            vlm.model, vlm.chat.processor, by_company=by_company, type_ids=types
        )
        # The images of several requests in one pass, as in use.
        vlm.encoder.encode([probe.images for probe in self._probes])
        several = [probe for probe in self._probes if len(probe.images) > 1]
        for request in [*self._probes, *map(_reversed, several)]:
            _check_features(vlm, vlm.encoder, request)
        return self._alone("whole", self._least)

    def find_padding(self) -> None:
        """Try requests of one length in a batch, and those of different ones, however padded."""
        self._ways.batches = "padded"
        if not self._equals("batches", self._alike_together, self._wanted_alike):
            self._ways.batches = "of one"
        elif not (
            self._equals("padding", self._padded, self._wanted_least)
            and self._equals(
                "padding, other tokens", self._padded_otherwise, self._last, same_shapes=True
            )
        ):
            self._ways.batches = "of equal length"

    def _alike_together(self) -> list[tuple[float, ...]]:
        _check_positions(self._vlm, [probe for probe, _ in self._alike])
        return score_tails(self._vlm, self._alike, self._least[:1] * len(self._alike), "whole")

    def _padded(self) -> list[tuple[float, ...]]:
        _check_positions(self._vlm, self._probes)
        return score_tails(self._vlm, self._prompts, self._least, "whole")

    def _padded_otherwise(self) -> list[tuple[float, ...]]:
        chat = self._vlm.chat
        own, chat.pad_id = chat.pad_id, self._tails[0][0][0]
        try:
            return self._padded()
        finally:
            chat.pad_id = own

    def find_choices(self) -> None:
        """Try choices behind one prompt, the fastest way first."""
        if self._equals("packed", lambda: self._ask("packed")) and self._equals(
            "packed, other tokens", self._packed_otherwise, self._last, same_shapes=True
        ):
            self._ways.choices = "packed"
        elif self._equals("rows", lambda: self._ask("rows")):
            self._ways.choices = "rows"

    def _packed_otherwise(self) -> list[tuple[float, ...]]:
        """Log-probabilities with the last choice behind others of the same lengths."""
        tails, wanted = self._tails, self._last
        self._tails = [[*([*row[::-1]] for row in rows[:-1]), rows[-1]] for rows in tails]
        try:
            found = self._ask("packed")
        finally:
            self._tails = tails
        return [(*old[:-1], new[-1]) for old, new in zip(wanted, found, strict=True)]

    def find_prefixes(self) -> None:
        """Try to share what requests have in common from their start, the fastest way first."""
        ways = self._ways
        if not ways.may_share:
            return
        are_causal = self._equals_before_images()
        for ways.prefixes_end in _ENDS if are_causal else _ENDS[1:]:
            for ways.prefixes, limits in _PREFIXES.items():
                may_pack = ways.choices == "packed" or ways.prefixes == "rows"
                # One at a time, as a pass may lack what another has, such as images.
                if (
                    may_pack
                    and self._equals_shared("alone", *limits["apart"], most=1)
                    and all(self._equals_shared(name, *limit) for name, limit in limits.items())
                ):
                    return
        ways.prefixes, ways.prefixes_end = "repeated", "anywhere"

    def _equals_before_images(self) -> bool:
        """Compare what stands before an image, and in it, with the same before others.

        Images that see each other both ways, and marks that are embedded with their image, change
        an answer by no more than the rounding of bfloat16.
        """
        name = "prefixes, anywhere, other images"
        try:
            far = _far_before_image(self._vlm, self._probes[0])
        except FAULTS as error:
            self._ways.differences[name] = one_line(error)
            return False
        self._ways.differences[name] = float(f"{far:.2g}")
        return far <= self._tolerance * _SAME_SHAPES

    def _equals_shared(
        self, name: str, packed: float | None, least: int, *, most: int = 64
    ) -> bool:
        """Compare passes that share prefixes, also with other tokens beside the first request."""
        name = f"prefixes, {self._ways.prefixes}, {self._ways.prefixes_end}, {name}"
        shared = partial(self._shared, packed, least, most=most)
        return self._equals(name, shared) and self._equals(
            f"{name}, other tokens",
            lambda: shared(changed=True)[:1],
            self._last[:1],
            same_shapes=True,
        )

    def _shared(
        self, packed: float | None, least: int, *, most: int, changed: bool = False
    ) -> list[tuple[float, ...]]:
        """Log-probabilities behind prefixes that are shared, however short.

        Args:
            packed: See `Limits`.
            least: The same.
            most: Requests in a pass.
            changed: All text is another, but for that of the first request.

        Raises:
            ValueError: A request cannot be answered.
        """
        vlm = self._vlm
        limits = replace(vlm.limits(), packed=packed, packed_least=least, requests=most)
        if packed is not None:
            limits = replace(limits, padding=limits.tokens)
        answers = Answers(vlm, self._probes, limits)
        nodes = answers.grow(vlm.worth()._replace(length=1, saved=1))
        own = vlm.chat.pad_id
        if changed:
            vlm.chat.pad_id = self._tails[0][0][0]
            _change(nodes, vlm.chat.pad_id)
        try:
            found = answers.read(nodes)
        finally:
            vlm.chat.pad_id = own
        return [_logprobs(answer) for answer in found]

    def _ask(self, way: Way) -> list[tuple[float, ...]]:
        if self._ways.padding:
            return score_tails(self._vlm, self._prompts, self._tails, way)
        return self._alone(way, self._tails)

    def _alone(self, way: Way, tails: Sequence[Tails]) -> list[tuple[float, ...]]:
        pairs = zip(self._prompts, tails, strict=True)
        return [score_tails(self._vlm, [prompt], [rows], way)[0] for prompt, rows in pairs]

    def _equals(
        self,
        name: str,
        answer: Callable[[], list[tuple[float, ...]]],
        wanted: list[tuple[float, ...]] | None = None,
        *,
        same_shapes: bool = False,
    ) -> bool:
        """Compare with the plain way, or with what was found before.

        Args:
            name: Name of the way.
            answer: Asks in this way.
            wanted: Log-probabilities to compare with; default those of the plain way.
            same_shapes: Allow only the rounding of passes of the same shapes.
        """
        try:
            self._last = answer()
        except FAULTS as error:
            self._ways.differences[name] = one_line(error)
            return False
        expected = np.concatenate(wanted or self._wanted)
        largest = max(np.abs(expected).max(), _LEAST)
        far = np.abs(np.concatenate(self._last) - expected).max() / largest
        is_number = np.isfinite(far)
        self._ways.differences[name] = float(f"{far:.2g}") if is_number else "not a number"
        return bool(far <= self._tolerance * (_SAME_SHAPES if same_shapes else 1))


def _check_positions(vlm: VLM, requests: Sequence[Request]) -> None:
    """Compare positions of tokens in a batch with those of requests alone.

    They differ by too little to see in an answer, such as the number of an image in its batch.

    Raises:
        ValueError: They differ by more than where a request begins.
    """
    inputs = vlm.inputs(requests)
    together = vlm.position_ids(inputs)
    for i, request in enumerate(requests):
        found = together[..., i, inputs["attention_mask"][i].bool()]
        wanted = vlm.position_ids(vlm.inputs([request]))[..., 0, :]
        if not (found - found[..., :1]).equal(wanted - wanted[..., :1]):
            raise ValueError("tokens of a request have other positions in a batch")


def _check_features(vlm: VLM, encoder: ImageEncoder, request: Request) -> None:
    """Compare tokens, positions and features with those of the processor's own pass.

    Raises:
        ValueError: They differ.
    """
    wanted = to_device(vlm.chat.process([request]), vlm.model)
    found = vlm.inputs([request])
    of_tokens = [name for name in wanted if wanted[name].shape == wanted["input_ids"].shape]
    if any(not found[name].equal(wanted[name]) for name in of_tokens):
        raise ValueError("images do not give the same tokens in every request")
    if not vlm.position_ids(found).equal(vlm.position_ids(wanted)):
        raise ValueError("tokens of images have other positions")
    (images,) = encoder.encode([request.images])
    if images:
        plain = flat(encoder.run_tower(wanted).pooler_output)
        features = torch.cat([image.tokens for image in images])
        if (features - plain).norm() > 4 * tolerance_of(vlm.model) * plain.norm():
            raise ValueError("an image has other features in other requests")


def _far_before_image(vlm: VLM, request: Request) -> float:
    """Largest change of a logit by what follows it, as a share of the largest.

    Up to the image if that is not there, and up to its last token if that one is another.
    """
    encoder = encoder_of(vlm)
    inputs = vlm.inputs([request])
    ids = inputs["input_ids"]
    places = (ids[0] == encoder.token).nonzero().flatten().tolist()
    ((image,),) = encoder.encode([request.images])
    turned = image._replace(tokens=torch.cat([image.tokens[:-1], -image.tokens[-1:]]))
    absent = {name: torch.zeros_like(ids) for name in encoder.type_ids}
    absent |= {name: inputs[name] for name in _TEXT}
    absent["input_ids"] = ids.masked_fill(ids == encoder.token, vlm.chat.eos_id)
    width = ids.shape[1]
    own, without, changed = (
        vlm.logits(each, width)[0].float()
        for each in (inputs, absent, inputs | encoder.join([turned]))
    )
    far = torch.stack(
        [
            (own - without)[: places[0]].abs().max(),
            (own - changed)[: places[-1]].abs().max(),
        ]
    )
    return float(far.max() / own.abs().max())


def _change(nodes: Sequence[Node], token: int) -> bool:
    """Put a token in place of all text but that of the first request; True if nodes are its own."""
    is_first = False
    for node in nodes:
        targets = [target for group in node.targets.values() for target in group]
        is_own = _change(node.children, token) or any(question == 0 for _, (question, _) in targets)
        is_first = is_first or is_own
        if not is_own:
            ids, images, *others = node.row.columns
            columns = torch.stack([ids.where(images != 0, token), images, *others])
            node.row = node.row._replace(columns=columns)
    return is_first


def _logprobs(answer: Answer | Failed) -> tuple[float, ...]:
    if isinstance(answer, Failed) or answer.choice_logprobs is None:
        raise ValueError(str(answer))
    return answer.choice_logprobs


def _reversed(request: Request) -> Request:
    """Return a request with its images in the other order."""
    images = reversed(request.images)
    parts = tuple(part if isinstance(part, str) else next(images) for part in request.parts)
    return replace(request, parts=parts)


def _unusable(vlm: VLM, error: Exception) -> str:
    """Message about a model that cannot be asked about an image in the plain way."""
    processor = type(vlm.chat.processor)
    usual: Any = PROCESSOR_MAPPING.get(type(vlm.model.config), processor)
    own, usual = processor.__name__, getattr(usual, "__name__", usual)
    other = f"; its processor is a {own}, that of such models a {usual}" if own != usual else ""
    return f"{_about(vlm)}: {type(error).__name__}: {one_line(error)}{other}"


def _about(vlm: VLM) -> str:
    return f"{vlm.name} ({vlm.model.config.model_type}) cannot be asked about an image"


def _probes(vlm: VLM) -> Iterator[Request]:
    """Requests with one image, with two of other sizes, without, and beyond a sliding window."""
    small, wide, tall = (_image(i, *size) for i, size in enumerate(((64, 64), (96, 56), (56, 112))))
    yield Request((small, "rate: a red circle"), _CHOICES)
    yield Request(("first:", wide, "second:", tall, "which picture is better?"), _CHOICES)
    yield Request(("10 apples and 1 tie",), _CHOICES)
    # Those that share what they begin with, two by two of the same lengths.
    yield Request(("10 apples and 1 tie or 2",), _CHOICES)
    other = _image(3, 64, 64)
    yield Request((other, "rate: a red circle"), _CHOICES)
    yield Request((small, "rate: a red circle", other, "or this?"), _CHOICES)
    yield Request((other, "rate: a red circle", small, "or this?"), _CHOICES)
    if window := _window(vlm):
        short, long = (len(vlm.chat.prompt_tokens(Request((_WORDS * n,)))) for n in (1, 2))
        beyond = _WORDS * (window // (long - short) + 2)
        yield Request((beyond,), _CHOICES)
        yield Request((beyond + "tie",), _CHOICES)


def _window(vlm: VLM) -> int | None:
    """Tokens that the layer with the longest window sees, if the model takes more of them."""
    layers = DynamicCache(config=vlm.model.config.get_text_config()).layers
    windows: list[int] = [getattr(layer, "sliding_window", None) or 0 for layer in layers]
    return max((window for window in windows if 0 < window < vlm.context), default=None)


def _image(seed: int, width: int, height: int) -> PIL.Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)


def _name(probe: Request) -> str:
    n = len(probe.images)
    return f"{n} images" if n else f"text of {len(str(probe.parts[0]))} characters"
