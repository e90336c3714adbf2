"""CogVLM2's modules on random weights, with and without a visual expert, against equations."""

import pytest
import torch

from tests.unified_reward.scorers.equations.cogvlm import frame_tokens, last_logits, make_cogvlm
from unified_reward.core.errors import ModelError
from unified_reward.scorers import cogvlm, eva2_clip


QUESTIONS = [[7, 8, 9, 10, 11, 12], [20], [7, 8, 9, 10, 30]]
TOLERANCE = 1e-9
"""Both sides compute in float64 on logits of some units."""


@pytest.fixture(scope="module", params=[False, True], ids=["language", "visual expert"])
def state(request):
    return make_cogvlm(3, expert=request.param)


def built(state):
    module = cogvlm.CogVLM(cogvlm.sizes(state))
    module.load_state_dict(state, assign=True)
    return module.double().eval()


def pixels():
    return torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def sequence(state, tokens):
    """A first token, two frames with a word behind each: embeddings, positions, experts."""
    words = state["model.embed_tokens.weight"].double()
    rows = torch.cat([words[[1]], tokens[0], words[[40]], tokens[1], words[[41, 42]]])
    positions = [0, 1, 2, 2, 2, 2, 3, 4, 5, 6, 6, 6, 6, 7, 8, 9]
    experts = [0, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0]
    return rows, positions, [bool(item) for item in experts]


def expected(state):
    tokens = torch.stack([frame_tokens(state, item, heads=2) for item in pixels()])
    rows, positions, experts = sequence(state, tokens)
    if "model.layers.0.mlp.vision_mlp.up_proj.weight" not in state:
        experts = [False] * len(experts)
    words = state["model.embed_tokens.weight"].double()
    return torch.stack(
        [
            last_logits(
                state,
                torch.cat([rows, words[ids]]),
                [*positions, *range(10, 10 + len(ids))],
                experts=experts + [False] * len(ids),
            )
            for ids in QUESTIONS
        ]
    )


def computed(state, module=None):
    module = module or built(state)
    with torch.inference_mode():
        rows, positions, experts = sequence(state, module.visual_tokens(pixels().double()))
        prefix = module.encode(rows, positions, experts if module.size.has_expert else None)
        return module.last_logits(prefix, QUESTIONS, 10)


@pytest.mark.numeric
def test_tokens_of_a_frame_are_those_of_the_equations(state):
    with torch.inference_mode():
        tokens = built(state).visual_tokens(pixels().double())
    wanted = torch.stack([frame_tokens(state, item, heads=2) for item in pixels()])
    assert tokens.shape == (2, 6, 64)
    assert (tokens - wanted).abs().max() < TOLERANCE * wanted.abs().max()


@pytest.mark.numeric
def test_questions_on_a_cached_prefix_have_the_logits_of_each_whole_sequence(state):
    wanted = expected(state)
    assert wanted.std(0).max() > 0.5, "the twin cannot tell its questions apart"
    assert (computed(state) - wanted).abs().max() < TOLERANCE * wanted.abs().max()


def _norm_before(patch):
    def forward(self, x):
        x = x + self.attention(self.input_layernorm(x))
        normed = self.post_attention_layernorm(x)
        return x + self.mlp["fc2"](torch.nn.functional.gelu(self.mlp["fc1"](normed)))

    patch.setattr(eva2_clip._TowerLayer, "forward", forward)


def _class_token_kept(patch):
    original = eva2_clip._Patches.forward
    patch.setattr(eva2_clip._Patches, "forward", lambda self, x: original(self, x).roll(-1, 1))


def _exact_angles(patch):
    patch.setattr(cogvlm.CogVLM, "angles", torch.float32)


def _interleaved_rotation(patch):
    def rotated(x, cos, sin):
        turned = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
        return x * cos + turned * sin

    patch.setattr(cogvlm, "_rotated", rotated)


def _questions_see_each_other(patch):
    original = torch.Tensor.repeat_interleave
    patch.setattr(
        torch.Tensor,
        "repeat_interleave",
        lambda self, n, *dim: original(self, n, *dim) * (0 if not dim else 1),
    )


def _not_causal(patch):
    original = torch.nn.functional.scaled_dot_product_attention
    patch.setattr(
        torch.nn.functional,
        "scaled_dot_product_attention",
        lambda *qkv, attn_mask=None, **_: original(*qkv, attn_mask=attn_mask),
    )


def _other_groups(patch):
    original = torch.Tensor.repeat_interleave
    patch.setattr(
        torch.Tensor,
        "repeat_interleave",
        lambda self, n, *dim: self.repeat(n, 1, 1) if dim else original(self, n),
    )


def _routed_elsewhere(patch):
    """The last token of a frame by the visual expert as well."""
    original = cogvlm._routed

    def routed(x, is_visual, *maps):
        if is_visual is not None:
            is_visual = is_visual | is_visual.roll(1)
        return original(x, is_visual, *maps)

    patch.setattr(cogvlm, "_routed", routed)


def _no_expert(patch):
    original = cogvlm._routed
    patch.setattr(cogvlm, "_routed", lambda x, _, *maps: original(x, None, *maps))


MUTATIONS = {
    "norms before the sub-layers": _norm_before,
    "class token among the patches": _class_token_kept,
    "angles without rounding": _exact_angles,
    "pairs beside each other rotated": _interleaved_rotation,
    "questions in one sequence see each other": _questions_see_each_other,
    "attention to what follows": _not_causal,
    "keys shared by every fourth query": _other_groups,
}
OF_EXPERTS = {"last token of a frame": _routed_elsewhere, "language maps alone": _no_expert}


def is_seen(state, mutate):
    wanted = expected(state)
    with pytest.MonkeyPatch.context() as patch:
        mutate(patch)
        off = (computed(state) - wanted).abs().max()
    return off > 1e-3 * wanted.abs().max()


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_mistake_in_the_modules_is_seen(mutation, state):
    assert is_seen(state, MUTATIONS[mutation])


@pytest.mark.parametrize("mutation", OF_EXPERTS)
def test_a_mistake_in_the_routing_is_seen(mutation):
    assert is_seen(make_cogvlm(3, expert=True), OF_EXPERTS[mutation])


@pytest.mark.numeric
def test_a_norm_is_weighted_before_it_is_rounded():
    norm = cogvlm._RMSNorm(2).bfloat16()
    norm.weight.data = torch.tensor([1.328125, 1.0]).bfloat16()
    scaled = 1 / (8.5 + 1e-5) ** 0.5
    once = torch.tensor(scaled * 1.328125).bfloat16()
    twice = torch.tensor(scaled).bfloat16() * norm.weight[0]
    assert norm(torch.tensor([1.0, 4.0]).bfloat16())[0] == once != twice


@pytest.mark.numeric
def test_float32_angles_are_those_of_the_stored_frequencies(state):
    module = built(state)
    module.angles = torch.float32
    tokens = torch.stack([frame_tokens(state, item, heads=2) for item in pixels()])
    rows, positions, experts = sequence(state, tokens)
    if not module.size.has_expert:
        experts = None
    wanted = last_logits(state, rows, positions, experts=experts, angles=torch.float32)
    with torch.inference_mode():
        prefix = module.encode(rows[:-1], positions[:-1], experts and experts[:-1])
        got = module.last_logits(prefix, [[42]], 9)[0]
    assert (got - wanted).abs().max() < 1e-6 * wanted.abs().max()  # cosines in float32


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("model.layers.0.self_attn.language_expert_query_key_value.weight", 100, "100 rows of"),
        ("model.vision.patch_embedding.position_embedding.weight", 18, "18 positions is no EVA2"),
    ],
)
def test_tensors_that_are_of_no_cogvlm_are_refused(name, rows, message):
    state = make_cogvlm(0)
    state[name] = torch.empty(rows, state[name].shape[1])
    with pytest.raises(ModelError, match=message):
        cogvlm.sizes(state)
