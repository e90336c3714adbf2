"""Probabilities at places within a generated answer, of local checkpoints and of servers."""

import math

import numpy as np
import PIL.Image
import pytest

from tests.fake_server import FakeServer, chat, token
from tests.tolerance import near
from unified_reward.backends.hf_vlm import load_vlm
from unified_reward.backends.openai import OpenAIModel
from unified_reward.backends.shared import Answers
from unified_reward.core.requests import Answer, Place, Request


pytestmark = pytest.mark.numeric
DIGITS = ("1", "2", "3", "4", "5")
ENDS = ("2", "3", "4", "x")
"""Choices that begin with different tokens; of the digits, the tiny tokenizers join " 1" alone."""
PLACES = tuple(Place(rf"{name}[^\n:]*:\s*(?=\d)", DIGITS) for name in ("red", "blue", "none"))
TEXT = "red: 1, or red circle: 3; blue: 4. x"


def picture(seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (56, 56, 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)


REQUESTS = [
    Request((picture(0), "how red"), places=tuple(one._replace(choices=ENDS) for one in PLACES)),
    Request(("how blue, and of what size",), places=(PLACES[1]._replace(choices=ENDS),)),
    Request((picture(1), "which"), choices=("a", "b")),
]


@pytest.fixture(scope="module", params=["llava_onevision", "qwen2_5_vl"])
def model(request, checkpoints):
    return load_vlm(checkpoints[request.param], device="cpu")


@pytest.fixture
def answers(model, monkeypatch):
    """Answers to the requests by a model that writes one text, since a random one has no places."""
    monkeypatch.setattr(Answers, "_texts_of", lambda _, jobs, state: [TEXT for _ in jobs])
    return model.generate(REQUESTS)


def by_forward(model, request, head):
    """Log-probabilities of the choices behind a text, by a plain pass over one request."""
    chat = model.chat
    tokens = [chat.closed(head + end) for end in ENDS]
    n = next(i for i in range(len(tokens[0])) if len({row[i] for row in tokens}) > 1)
    inputs = chat.batch([request], [tokens[0][:n]])
    logits = model.model(**inputs).logits[0, -1].detach().double()
    return [float(logits.log_softmax(-1)[row[n]]) for row in tokens]


def test_each_place_is_read_where_its_last_match_ends(model, answers):
    red, blue, none = answers[0].place_logprobs
    assert none is None
    assert red == near(by_forward(model, REQUESTS[0], "red: 1, or red circle: "))
    assert blue == near(by_forward(model, REQUESTS[0], "red: 1, or red circle: 3; blue: "))
    assert red != near(by_forward(model, REQUESTS[0], "red: "))


def test_requests_with_and_without_places_share_a_batch(model, answers):
    assert answers[1].place_logprobs[0] == near(
        by_forward(model, REQUESTS[1], "red: 1, or red circle: 3; blue: ")
    )
    assert (answers[1].text, answers[1].choice_logprobs) == (TEXT, None)
    assert (answers[2].place_logprobs, len(answers[2].choice_logprobs)) == ((), 2)


def test_choices_that_begin_with_one_token_have_no_probabilities(model, monkeypatch):
    monkeypatch.setattr(Answers, "_texts_of", lambda _, jobs, state: [TEXT])
    place = Place("blue: ", ("red a", "red b", "x"))
    (answer,) = model.generate([Request(("x",), places=(place,))])
    assert answer.place_logprobs == (None,)


@pytest.mark.parametrize("bad", [(0.5, -1.0), (math.nan, -1.0), (-math.inf, -math.inf)])
def test_probabilities_of_a_place_are_checked_like_those_of_choices(bad):
    with pytest.raises(ValueError, match="log-probabilities"):
        Answer("x", place_logprobs=(None, bad))


def test_a_server_is_asked_for_probabilities_and_each_place_is_read():
    tokens = [
        token("red: ", ("red: ", -0.1)),
        token("4", ("4", math.log(0.5)), ("3", math.log(0.25))),
        token("; blue: ", ("; blue: ", -0.1)),
        token("2", ("2", math.log(0.9)), ("5", math.log(0.1))),
    ]
    with FakeServer(lambda _: chat("red: 4; blue: 2", tokens=tokens)) as server:
        model = OpenAIModel(server.url, model="m", votes=2)
        (answer,) = model.generate([Request(("x",), places=PLACES)])
    red, blue, none = answer.place_logprobs
    assert (none, answer.votes, server.calls[0].body["logprobs"]) == (None, (), True)
    assert (red[3], red[2]) == pytest.approx((math.log(0.5), math.log(0.25)))
    assert (blue[1], blue[4]) == pytest.approx((math.log(0.9), math.log(0.1)))


def test_without_probabilities_a_server_is_asked_for_votes():
    with FakeServer(lambda _: chat("red: 4; blue: 2")) as server:
        model = OpenAIModel(server.url, model="m", votes=2)
        (answer,) = model.generate([Request(("x",), places=PLACES)])
    assert answer.place_logprobs == (None, None, None)
    assert answer.votes == ("red: 4; blue: 2",) * 2
