"""Requests as sent: fields that a server refuses, fields and headers of callers, small images."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pictures

from tests.fake_server import Call, FakeServer, Reply, answer, chat, token
from unified_reward.backends.openai import OpenAIModel
from unified_reward.backends.openai_options import OpenAIOptions
from unified_reward.core.requests import Answer, Request
from unified_reward.core.verdicts import Failed, Unparsed


CHOICES = ("1", "2")
TOP = [token("1", ("1", -0.3), ("2", -1.4))]


def model(server: FakeServer, **options: Any) -> OpenAIModel:
    options = {"retries": 0, "backoff_s": 0.0, "max_concurrency": 1, **options}
    return OpenAIModel(server.url, model="m", api_key="", options=OpenAIOptions(**options))


def generate(
    respond: Callable[[Call], Reply], *requests: Request, **options: Any
) -> tuple[list[Answer | Failed | Unparsed], list[dict[str, Any]]]:
    """Answers, and the fields of every request that arrived."""
    with FakeServer(respond) as server:
        answers = model(server, **options).generate(requests)
    skipped = ("model", "messages")
    fields = [{k: v for k, v in call.body.items() if k not in skipped} for call in server.calls]
    return list(answers), fields


def refusing(*names: str, words: Callable[[str], Any], status: int = 400) -> Any:
    """A server that refuses a request for the first of these fields that it has."""

    def respond(call: Call) -> Reply:
        for name in names:
            if name in call.body:
                return answer(words(name), status)
        return chat("1", tokens=TOP if call.body.get("logprobs") else None)

    return respond


NAMING: list[Callable[[str], Any]] = [
    lambda name: {"error": {"message": f"Unsupported parameter: '{name}'", "param": name}},
    lambda name: {"error": {"message": "not supported", "param": name}},
    lambda name: [{"error": {"code": 400, "message": f'Unknown name "{name}": no such field'}}],
    lambda name: {"detail": [{"loc": ["body", name], "msg": "extra fields not permitted"}]},
]


@pytest.mark.parametrize("words", NAMING)
@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("seed", "the server refuses seed: left out"),
        ("temperature", "the server refuses temperature: left out"),
        ("top_logprobs", "the server refuses logprobs: left out"),
        ("logprobs", "the server refuses logprobs: left out"),
        ("max_tokens", "max_tokens is sent as max_completion_tokens"),
    ],
)
def test_a_field_that_is_refused_by_name_alone_is_left_out_from_then_on(
    words: Callable[[str], Any], name: str, note: str
) -> None:
    request = Request(("q",), choices=CHOICES, max_new_tokens=7)
    answers, fields = generate(refusing(name, words=words), request, request)
    assert [reply.notes for reply in answers if isinstance(reply, Answer)] == [(note,)] * 2
    # The first request is refused, sent anew, and its like is never sent again.
    assert [name in sent for sent in fields] == [True, False, False]
    kept = {"max_tokens", "seed", "temperature", "logprobs", "top_logprobs"} - {name}
    if "logprobs" in name:
        kept -= {"logprobs", "top_logprobs"}
    assert kept <= fields[-1].keys()
    assert 7 in (fields[-1].get("max_tokens"), fields[-1].get("max_completion_tokens"))


def test_several_fields_are_left_out_one_after_the_other() -> None:
    """Newer models of OpenAI are such: they sample at temperature 1 only."""
    respond = refusing("max_tokens", "logprobs", "temperature", words=NAMING[0])
    answers, fields = generate(respond, *[Request((text,), CHOICES) for text in "ab"])
    assert fields[-2:] == [{"max_completion_tokens": 256, "seed": 0}] * 2
    assert len(fields) == 5
    note = "the server refuses temperature, logprobs: left out"
    notes = (note, "max_tokens is sent as max_completion_tokens")
    assert answers == [Answer("1", notes=notes)] * 2


@pytest.mark.parametrize("name", ["seed", "temperature", "max_tokens", "logprobs"])
@pytest.mark.parametrize("status", [400, 422])
def test_a_field_that_is_refused_without_a_name_is_found_by_trying(name: str, status: int) -> None:
    respond = refusing(name, words=lambda _: {"message": "Bad Request"}, status=status)
    answers, fields = generate(respond, *[Request((text,), CHOICES) for text in "ab"])
    assert all(isinstance(reply, Answer) and reply.notes for reply in answers)
    assert name not in fields[-1]
    assert "top_logprobs" in fields[-1] or name == "logprobs"


def test_several_fields_that_are_refused_without_a_name_are_all_left_out() -> None:
    respond = refusing("temperature", "max_tokens", words=lambda _: {"message": "Bad Request"})
    answers, fields = generate(respond, Request(("q",)))
    assert isinstance(answers[0], Answer)
    assert fields[-1].keys() == {"max_completion_tokens"}


@pytest.mark.parametrize("status", [403, 404, 501])
def test_a_field_that_is_named_is_left_out_whatever_the_status(status: int) -> None:
    words = "You are not allowed to request logprobs from this model"
    respond = refusing("logprobs", words=lambda _: {"error": {"message": words}}, status=status)
    answers, fields = generate(respond, Request(("q",), CHOICES))
    assert isinstance(answers[0], Answer)
    assert len(fields) == 2


def test_the_refusal_inside_of_200_is_one_too() -> None:
    respond = refusing(
        "seed", words=lambda _: {"error": {"code": 400, "message": "seed?"}}, status=200
    )
    answers, _ = generate(respond, Request(("q",)))
    assert answers == [Answer("1", notes=("the server refuses seed: left out",))]


def test_a_server_that_gives_few_log_probabilities_is_asked_for_as_many() -> None:
    def respond(call: Call) -> Reply:
        if call.body["top_logprobs"] > 5:
            words = "Requested sample logprobs of 20, which is greater than max allowed: 5"
            return answer({"message": words, "code": 400}, 400)
        return chat("1", tokens=TOP)

    answers, fields = generate(respond, Request(("q",), CHOICES), Request(("r",), CHOICES))
    assert [sent["top_logprobs"] for sent in fields] == [20, 5, 5]
    assert isinstance(answers[0], Answer)
    assert answers[0].choice_logprobs is not None
    assert answers[0].notes == ("the server gives 5 log-probabilities a token",)


def test_a_prompt_that_is_too_long_does_not_cost_the_limit_of_tokens() -> None:
    words = "'max_tokens' is too large: 256. The maximum context length is 300 tokens."

    def respond(call: Call) -> Reply:
        return answer({"message": words}, 400) if call.text == "long" else chat("1")

    answers, fields = generate(respond, Request(("a",)), Request(("long",)), Request(("b",)))
    assert answers[0] == answers[2] == Answer("1")
    assert isinstance(answers[1], Failed)
    assert words in answers[1].error
    assert all(sent["max_tokens"] == 256 for sent in fields)
    assert len(fields) == 3


def test_the_callers_fields_come_over_ours_and_none_leaves_a_field_out() -> None:
    extra = {"temperature": None, "seed": 7, "top_k": 1, "max_completion_tokens": 4096}
    answers, (sent,) = generate(
        lambda _: chat("1", tokens=TOP), Request(("q",), CHOICES), extra_body=extra
    )
    assert isinstance(answers[0], Answer)
    assert answers[0].notes == ()
    assert sent == {
        "seed": 7,
        "top_k": 1,
        "max_completion_tokens": 4096,
        "logprobs": True,
        "top_logprobs": 20,
    }


def test_no_log_probabilities_are_requested_where_the_caller_leaves_them_out() -> None:
    extra = {"logprobs": None}
    _, (sent,) = generate(lambda _: chat("1"), Request(("q",), CHOICES), extra_body=extra)
    assert not {"logprobs", "top_logprobs"} & sent.keys()


def test_a_field_of_the_caller_that_is_refused_is_not_left_out() -> None:
    respond = refusing("seed", words=NAMING[0])
    answers, fields = generate(respond, Request(("q",)), extra_body={"seed": 7})
    assert isinstance(answers[0], Failed)
    assert "Unsupported parameter: 'seed'" in answers[0].error
    assert all(sent["seed"] == 7 for sent in fields)


def test_votes_differ_in_seed_also_where_the_caller_chose_one() -> None:
    with FakeServer(lambda call: chat(str(call.body["seed"]))) as server:
        options = OpenAIOptions(extra_body={"seed": 40})
        remote = OpenAIModel(server.url, model="m", api_key="", votes=2, options=options)
        assert remote.generate([Request(("q",))]) == [Answer("40", votes=("41", "42"))]


def test_the_callers_headers_are_sent_over_ours_and_never_printed() -> None:
    headers = {"api-key": "hunter22", "authorization": "Basic abc"}
    options = OpenAIOptions(extra_headers=headers)
    with FakeServer(lambda _: chat("1")) as server:
        remote = OpenAIModel(server.url, model="m", api_key="key", options=options)
        remote.generate([Request(("q",))])
    sent = {name.lower(): value for name, value in server.calls[0].headers.items()}
    assert (sent["api-key"], sent["authorization"]) == ("hunter22", "Basic abc")
    assert "hunter22" not in repr(options)


def picture(width: int, height: int) -> Pictures.Image:
    rows = np.linspace(0, 255, width * height * 3).reshape(height, width, 3)
    return Pictures.fromarray(rows.astype(np.uint8))


def received(call_body: Any) -> tuple[str, Pictures.Image]:
    """Type and picture of a request's only image."""
    (url,) = [
        part["image_url"]["url"]
        for part in call_body["messages"][0]["content"]
        if part["type"] == "image_url"
    ]
    kind, _, data = url.partition(";base64,")
    return kind, Pictures.open(io.BytesIO(base64.b64decode(data)))


def sent_picture(image: Pictures.Image, **options: Any) -> tuple[str, Pictures.Image, Any]:
    with FakeServer(lambda _: chat("1")) as server:
        (reply,) = model(server, **options).generate([Request((image, "q"))])
    return *received(server.calls[0].body), reply


def test_images_are_sent_without_loss_by_default() -> None:
    image = picture(40, 30)
    kind, arrived, reply = sent_picture(image)
    assert (kind, arrived.tobytes(), reply) == ("data:image/png", image.tobytes(), Answer("1"))


def test_a_larger_image_is_scaled_and_the_answer_says_so() -> None:
    kind, arrived, reply = sent_picture(picture(400, 100), max_pixels=10_000)
    assert (kind, arrived.size) == ("data:image/png", (200, 50))
    assert reply == Answer("1", notes=("the images were scaled to at most 10000 pixels",))
    small = picture(100, 100)
    _, arrived, reply = sent_picture(small, max_pixels=10_000)
    assert (arrived.tobytes(), reply) == (small.tobytes(), Answer("1"))


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_another_encoding_keeps_size_and_nearly_the_pixels(form: str) -> None:
    image = picture(64, 48)
    kind, arrived, reply = sent_picture(image, image_format=form, image_quality=90)
    assert (kind, arrived.format, arrived.size) == (f"data:image/{form}", form.upper(), (64, 48))
    assert reply.notes == (f"the images were sent as {form} of quality 90",)
    # A smooth picture of quality 90 is off by a few steps of the quantisation.
    difference = np.asarray(arrived.convert("RGB"), int) - np.asarray(image, int)
    assert np.abs(difference).mean() < 4


def test_a_transparent_image_is_jpeg_on_white() -> None:
    clear = Pictures.new("RGBA", (8, 8), (0, 0, 0, 0))
    _, arrived, _ = sent_picture(clear, image_format="jpeg")
    assert arrived.convert("RGB").getpixel((4, 4)) == (255, 255, 255)


def test_an_image_that_the_encoding_cannot_hold_fails_alone() -> None:
    """A JPEG has at most 65,535 pixels a side."""
    requests = [Request((Pictures.new("RGB", (70_000, 1)),)), Request(("q",))]
    answers, _ = generate(lambda _: chat("1"), *requests, image_format="jpeg")
    assert isinstance(answers[0], Failed)
    assert "cannot be encoded: as jpeg, PIL image RGB 70000x1" in answers[0].error
    assert answers[1] == Answer("1")


@pytest.mark.parametrize(
    "reply",
    [Reply(413), answer({"message": "Request body too large. Limit is 20 MB"}, 400)],
)
def test_a_request_that_is_too_large_names_the_remedy(reply: Reply) -> None:
    requests = [Request((picture(8, 8),)), Request(("q",))]
    answers, _ = generate(lambda _: reply, *requests)
    remedies = ["max_pixels" in bad.error for bad in answers if isinstance(bad, Failed)]
    assert remedies == [True, False]
