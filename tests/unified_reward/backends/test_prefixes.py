"""Requests of a call share what they have in common from their start."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.tolerance import near
from tests.unified_reward.backends.test_architectures import A, B, assert_equal, picture
from unified_reward.backends import hf_vlm, passes, shared
from unified_reward.backends.prefixes import Row, Worth, grow, walk
from unified_reward.backends.value_head import ValueHead, ValueHeadModel, width_of
from unified_reward.core.requests import Place, Request
from unified_reward.core.verdicts import Failed


NAMES = ("qwen2_5_vl", "qwen3_5", "gemma3")
"""Beside one another behind a prefix; in rows; in rows, where images see each other."""
CHOICES = ("1", "10", "second tie")
OTHERS = [picture(20 + i) for i in range(3)]
QUESTIONS = [
    *(Request((A, "what is it? a circle " * 3 + answer), CHOICES) for answer in ("1", "10 first")),
    *(Request((A, "what is it? a circle " * 3, other, "?"), CHOICES) for other in OTHERS),
    Request((B, "what is it?"), CHOICES),
    Request(("no picture at all",), CHOICES),
]


@pytest.fixture(autouse=True)
def share_all(monkeypatch):
    """Share every prefix, however short."""
    monkeypatch.setattr(hf_vlm, "WORTH", Worth(1, 1))
    monkeypatch.setattr(hf_vlm, "PACKED_LEAST", 0)


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def repeated(model, ask):
    """Result of asking without sharing."""
    own, model.ways = model.ways, dataclasses.replace(model.ways, prefixes="repeated")
    try:
        return ask()
    finally:
        model.ways = own


def positions(model, ask):
    """Tokens of each pass of the language model, as rows by length."""
    shapes = []
    text = model.model.base_model.language_model
    hook = text.register_forward_pre_hook(
        lambda module, args, options: shapes.append(options["inputs_embeds"].shape[:2]),
        with_kwargs=True,
    )
    try:
        ask()
    finally:
        hook.remove()
    return shapes


@pytest.mark.numeric
def test_answers_are_those_of_plain_passes_in_order_with_a_bad_request_alone(judge, plain, name):
    model, reference = judge.model, plain[name, "float32"]
    bad = Request((A, "wort " * 5000), CHOICES)
    first, failed, *rest = model.generate([QUESTIONS[0], bad, *QUESTIONS[1:]])
    assert isinstance(failed, Failed)
    assert "the model takes" in failed.error
    assert_equal([first, *rest], [reference.choice_logprobs(request) for request in QUESTIONS])


def test_what_is_shared_is_computed_once(judge):
    model = judge.model
    about_one = QUESTIONS[:2] * 4
    together = sum(n * width for n, width in positions(model, lambda: model.generate(about_one)))
    alone = sum(n * width for n, width in positions(model, lambda: model.generate(about_one[:2])))
    every = repeated(model, lambda: positions(model, lambda: model.generate(about_one)))
    choices = sum(len(tail) - 1 for tail in model.chat.split_choices("", CHOICES)[1])
    # The same questions again cost their choices only, in rows with padding.
    assert together - alone <= 6 * 2 * choices
    assert together < sum(n * width for n, width in every) / 2


@pytest.mark.parametrize("tokens", [1, 400, 800])
def test_passes_keep_within_their_bound(judge, monkeypatch, tokens):
    """Tokens in all caches at a time, unless a single row has more."""
    wanted = judge.model.generate(QUESTIONS)
    monkeypatch.setattr(hf_vlm, "CPU_TOKENS", tokens)
    sizes = []

    def seen(self, strips, state):
        done = compute(self, strips, state)
        if len(strips) > 1:
            sizes.append(len(strips) * done.state.width)
        return done

    compute = passes.TreeWalk._pass
    monkeypatch.setattr(passes.TreeWalk, "_pass", seen)
    found = judge.model.generate(QUESTIONS)
    assert max(sizes, default=0) <= tokens // 2
    assert [answer.choice_logprobs for answer in found] == [
        near(answer.choice_logprobs) for answer in wanted
    ]


def test_a_pass_that_fails_is_halved_down_to_the_request_at_fault(judge, monkeypatch):
    model = judge.model
    wanted = model.generate(QUESTIONS)
    token = model.chat.tokens("no picture")[-1]
    inputs = passes.TreeWalk._inputs

    def refuse(self, rows, mask, images):
        if mask.shape[0] > 2 or (rows[0] == token).any():
            raise torch.OutOfMemoryError("no memory")
        return inputs(self, rows, mask, images)

    monkeypatch.setattr(passes.TreeWalk, "_inputs", refuse)
    *found, failed = model.generate(QUESTIONS)
    assert "no memory" in failed.error
    assert [answer.choice_logprobs for answer in found] == [
        near(answer.choice_logprobs) for answer in wanted[:-1]
    ]


@pytest.mark.numeric
def test_text_behind_shared_prefixes_is_that_of_each_request_alone(judge):
    model = judge.model
    spoken = [Request(r.parts, max_new_tokens=3 + i) for i, r in enumerate(QUESTIONS)]
    found = [answer.text for answer in model.generate(spoken)]
    alone = repeated(model, lambda: [model.generate([request])[0] for request in spoken])
    assert found == [answer.text for answer in alone]
    # Verdicts behind the text, and within it.
    prefix = found[0][:1]
    judged = [Request(r.parts, CHOICES, verdict_prefix=prefix, max_new_tokens=4) for r in QUESTIONS]
    judged += [
        Request(r.parts, places=(Place(prefix, ("1", "second")),), max_new_tokens=4)
        for r in QUESTIONS
    ]
    answers = model.generate(judged)
    others = repeated(model, lambda: model.generate(judged))
    assert answers[0].choice_logprobs
    for answer, other in zip(answers, others, strict=True):
        assert answer.text == other.text
        wanted = (other.choice_logprobs, *other.place_logprobs)
        assert [answer.choice_logprobs, *answer.place_logprobs] == [near(row) for row in wanted]


def test_values_of_a_head_share_prefixes(judge):
    torch.manual_seed(0)
    model = ValueHeadModel(judge.model, ValueHead(width_of(judge.model), 2, uncertain=True))
    found = []
    shapes = positions(judge.model, lambda: found.extend(model.values(QUESTIONS)))
    wanted = repeated(judge.model, lambda: model.values(QUESTIONS))
    assert [each.means for each in found] == [near(each.means) for each in wanted]
    assert [each.sigmas for each in found] == [near(each.sigmas) for each in wanted]
    every = repeated(judge.model, lambda: positions(judge.model, lambda: model.values(QUESTIONS)))
    assert sum(n * m for n, m in shapes) < sum(n * m for n, m in every)


@pytest.mark.parametrize("name", ["qwen2_5_vl"])
@pytest.mark.parametrize("prefixes", ["packed", "repeated"])
def test_choices_that_do_not_fit_behind_their_prompt_are_refused(judge, monkeypatch, prefixes):
    model = judge.model
    monkeypatch.setattr(model.ways, "prefixes", prefixes)
    (length,) = model._prompt_lengths([QUESTIONS[-1]])
    monkeypatch.setattr(model, "context", length + 2)
    (failed,) = model.generate([QUESTIONS[-1]])
    assert f"the model takes {length + 2}" in failed.error


@pytest.mark.parametrize("name", ["qwen2_5_vl"])
def test_numbers_that_are_none_fail_their_request_alone(judge, monkeypatch):
    """Beside it stand requests that hide it; a hidden NaN is NaN all the same."""
    model, requests = judge.model, QUESTIONS[2:5]
    values = ValueHeadModel(model, ValueHead(width_of(model), 1, uncertain=False)).values
    wanted, wanted_values = model.generate(requests), values(requests)
    encode = model.encoder.encode

    def spoilt(images):
        return [
            [one._replace(tokens=one.tokens * torch.nan) for one in row]
            if OTHERS[1] in of_request
            else row
            for of_request, row in zip(images, encode(images), strict=True)
        ]

    monkeypatch.setattr(model.encoder, "encode", spoilt)
    first, failed, last = model.generate(requests)
    assert "not numbers" in failed.error
    for found, other in ((first, wanted[0]), (last, wanted[2])):
        assert found.choice_logprobs == near(other.choice_logprobs)
    first, failed, last = values(requests)
    assert "not numbers" in failed.error
    for found, other in ((first, wanted_values[0]), (last, wanted_values[2])):
        assert found.means == near(other.means)


@pytest.mark.parametrize("name", ["qwen2_5_vl"])
def test_what_cannot_be_read_of_a_pass_fails_its_requests_and_no_others(judge, monkeypatch):
    model = judge.model
    model.batch_size = 1
    count, n_tokens, last = shared.Answers._count, [], 0

    def refuse(self, targets, logits):
        n_tokens.append(len(targets))
        if len(n_tokens) == last:
            raise torch.OutOfMemoryError("no memory")
        count(self, targets, logits)

    monkeypatch.setattr(shared.Answers, "_count", refuse)
    wanted = model.generate(QUESTIONS)
    last = 2 * len(n_tokens)  # the last pass
    found = model.generate(QUESTIONS)
    failed = [answer for answer in found if isinstance(answer, Failed)]
    assert 0 < len(failed) < len(found)
    assert all("no memory" in answer.error for answer in failed)
    assert all(answer in (*wanted, *failed) for answer in found)


@pytest.mark.parametrize("name", ["qwen2_5_vl"])
def test_a_value_is_not_given_beyond_the_context(judge):
    model = judge.model
    head = ValueHead(width_of(model), 1, uncertain=False)
    long = Request((A, "wort " * 5000))
    failed, found = ValueHeadModel(model, head).values([long, QUESTIONS[0]])
    assert "the model takes" in failed.error
    assert not isinstance(found, Failed)


def rows_of(texts):
    return [Row(torch.tensor([[*map(ord, text)]]), [], len(text)) for text in texts]


def texts_of(nodes, before=""):
    """By request, the text of all nodes up to the one in which it ends."""
    found = {}
    for node in nodes:
        text = before + "".join(map(chr, node.columns[0].tolist()))
        found |= dict.fromkeys(node.ends, text) | texts_of(node.children, text)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_a_tree_has_every_row_once(seed):
    rng = np.random.default_rng(seed)
    texts = ["".join(rng.choice([*"ab"], rng.integers(1, 9))) for _ in range(12)]
    for worth in (Worth(1, 1), Worth(2, 4), Worth(99, 99)):
        found = texts_of(grow(rows_of(texts), worth))
        assert [found[i] for i in range(len(texts))] == texts
    prefixes = {text[: i + 1] for text in texts for i in range(len(text))}
    assert sum(map(len, walk(grow(rows_of(texts), Worth(1, 1))))) == len(prefixes)
