"""IXC-2.5-Reward: its pixels, its tokens, its rewards against the equations, what is refused."""

import math
import shutil

import numpy as np
import PIL.Image
import pytest
import torch

import unified_reward as ur
from tests.unified_reward.scorers import ixc_twins as twins
from tests.unified_reward.scorers.equations import ixc as equations
from unified_reward.scorers import internlm2, ixc
from unified_reward.scorers.loading import check, load_system


NAME = "ixc-2.5-reward"
QUESTION, ANSWERS = "What is  it?\nSay é.", ("A cat, 2 dogs.", " maybe\n")
RNG = np.random.default_rng(11)
WIDE = RNG.integers(0, 256, (341, 512, 3), dtype=np.uint8)
TALL = RNG.integers(0, 256, (1000, 460, 3), dtype=np.uint8)
BIG = RNG.integers(0, 256, (900, 1100, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ixc")
    return folder, twins.ixc(folder)


@pytest.fixture(scope="module")
def scorer(made):
    return load(made[0])


@pytest.fixture
def copy(made, tmp_path):
    """A twin's folder to break."""
    return shutil.copytree(made[0], tmp_path / "ixc")


def load(folder, kind=ixc.IXCReward, dtype="float64"):
    return load_system(kind, folder, device="cpu", dtype=dtype)


def problems(folder):
    return "; ".join(check(ixc.IXCReward, folder).problems)


def sample(answer, *images, question=QUESTION):
    context = tuple(ur.Image(image, "HWC") for image in images)
    return ur.Sample(ur.Task.IMAGE_UNDERSTANDING, question, (answer,), context)


def views(pixels, size, grid):
    """By hand: resized, white below (on the right of a high image), whole and tiles."""
    (width, height), (rows, columns) = size, grid
    picture = PIL.Image.fromarray(pixels)
    is_high = picture.width < picture.height
    if is_high:
        picture = picture.transpose(PIL.Image.Transpose.TRANSPOSE)
        width, height = height, width
    small = np.asarray(picture.resize((width, height), PIL.Image.Resampling.BILINEAR))
    if is_high:
        small = small.transpose(1, 0, 2)
    canvas = np.full((560 * rows, 560 * columns, 3), 255.0)
    canvas[: small.shape[0], : small.shape[1]] = small
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    canvas = (canvas / 255 - mean) / np.array([0.26862954, 0.26130258, 0.27577711])
    down, across = cubic(canvas.shape[0]), cubic(canvas.shape[1])
    whole = np.einsum("jw,iwc->ijc", across, np.tensordot(down, canvas, 1), optimize=True)
    tiles = [
        canvas[560 * r : 560 * r + 560, 560 * c : 560 * c + 560]
        for r in range(rows)
        for c in range(columns)
    ]
    return torch.from_numpy(np.stack([whole, *tiles])).permute(0, 3, 1, 2)


def cubic(n):
    """Weights (560, n) of four neighbours, a = -0.75, edges repeated, however much smaller."""
    weights = np.zeros((560, n))
    for i in range(560):
        place = (i + 0.5) * n / 560 - 0.5
        first = math.floor(place) - 1
        for j in range(first, first + 4):
            x = abs(place - j)
            near = 1.25 * x**3 - 2.25 * x**2 + 1
            far = -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
            weights[i, min(max(j, 0), n - 1)] += near if x <= 1 else far
    return weights


def texts(question, answer):
    first = f"[UNUSED_TOKEN_146]user\n{question}[UNUSED_TOKEN_145]\n"
    return f"{first}[UNUSED_TOKEN_146]assistant\n{answer}[UNUSED_TOKEN_145]"


def pieces(state, text, images, end=""):
    """Ids of the texts between embeddings of the images."""
    parts = [twins.token_ids(part) for part in (text + end).split("<ImageHere>")]
    parts[0] = [1, *parts[0]]
    parts[-1] += [2, twins.IDS["[UNUSED_TOKEN_130]"]]
    seen = [equations.see(state, views(*image), *image[2]) for image in images]
    joined = [parts[0]]
    for image, part in zip(seen, parts[1:], strict=True):
        joined += [image, part]
    return joined


ONE = [(WIDE, (560, 372), (1, 1))]
HIGH = [(TALL, (515, 1120), (2, 1))]
TILED = [(BIG, (1120, 916), (2, 2))]
BOTH, WITHIN = "<ImageHere>Same as <ImageHere>?", "See <ImageHere>"
CASES = [
    ("one tile", "<ImageHere>" + texts(QUESTION, ANSWERS[0]), ONE, sample(ANSWERS[0], WIDE)),
    ("no question", "<ImageHere>" + texts("", "."), HIGH, sample(".", TALL, question="")),
    ("tiles", "<ImageHere>" + texts(QUESTION, ANSWERS[0]), TILED, sample(ANSWERS[0], BIG)),
    ("two images", texts(BOTH, "no"), ONE + HIGH, sample("no", WIDE, TALL, question=BOTH)),
    ("a mark within", texts(WITHIN, "a"), ONE, sample("a", WIDE, question=WITHIN)),
    ("text alone", texts(QUESTION, ANSWERS[1]), [], sample(ANSWERS[1])),
]
"""Names, texts, images with their sizes and tiles by hand, and the sample."""


@pytest.fixture(scope="module")
def wanted(made):
    state = made[1]
    return [equations.reward(state, pieces(state, text, images)) for _, text, images, _ in CASES]


def distance(scorer, wanted, cases):
    """Largest distance of rewards of some cases in one batch from the equations."""
    verdicts = scorer.ask([CASES[i][-1] for i in cases])
    assert all(isinstance(verdict, ur.Scored) for verdict in verdicts), verdicts
    return max(abs(one.score.value - wanted[i]) for one, i in zip(verdicts, cases, strict=True))


# Pixels are float32 in the scorer and float64 here; rewards are of some units.
CLOSE = 1e-4


@pytest.mark.numeric
def test_a_batch_of_answers_with_and_without_images_is_scored_as_the_equations_say(scorer, wanted):
    assert np.abs(np.subtract.outer(wanted, wanted))[np.triu_indices(len(wanted), 1)].min() > 0.01
    assert distance(scorer, wanted, range(len(CASES))) < CLOSE


@pytest.mark.numeric
def test_the_newline_behind_the_answer_is_kept_by_the_other_name(made):
    state = made[1]
    alone = equations.reward(state, pieces(state, texts(QUESTION, "A"), [], "\n"))
    other = ur.open_judge(f"{NAME}-newline:{made[0]}", device="cpu", dtype="float64")
    assert other.score(QUESTION, answer="A").score.value == pytest.approx(alone, abs=CLOSE)
    stripped = equations.reward(state, pieces(state, texts(QUESTION, "A"), []))
    assert abs(stripped - alone) > 0.01


def _no_adapter_at_separators(patch):
    original = ixc.IXCReward._embedded

    def embedded(self, chat):
        x, seen = original(self, chat)
        places = seen.nonzero().flatten()
        side, start = self.module.side, 0
        for rows, columns in chat.tiles:
            widths = [*[side] * side, None, *[side * columns] * (side * rows)]
            for width in widths:
                start += width or 0
                seen[places[start]] = False
                start += 1
        return x, seen

    patch.setattr(ixc.IXCReward, "_embedded", embedded)


def _separators_behind_the_projector(patch):
    def see(self, tiles, rows, columns):
        squares = internlm2.merged(self.vision_model(tiles).last_hidden_state[:, 1:])
        ends = self.plora_sub_GN.flatten(), self.plora_glb_GN.flatten()
        cut = [end[: self.model.size.width] for end in ends]
        return internlm2.stitched(self.vision_proj(squares), rows, columns, *cut)

    patch.setattr(internlm2.RewardModel, "see", see)


def _tiles_column_by_column(patch):
    original = ixc.tiled

    def tiled(image):
        pixels, rows, columns = original(image)
        tiles = pixels[1:].unflatten(0, (rows, columns)).transpose(0, 1).flatten(0, 1)
        return torch.cat([pixels[:1], tiles]), rows, columns

    patch.setattr(ixc, "tiled", tiled)


def _antialiased_view(patch):
    original = ixc.functional.interpolate
    patch.setattr(
        ixc.functional, "interpolate", lambda *a, **options: original(*a, **options, antialias=True)
    )


def _last_of_the_batch(patch):
    original = internlm2.RewardModel.rewards

    def rewards(self, x, seen, last):
        return original(self, x, seen, torch.full_like(last, x.shape[1] - 1))

    patch.setattr(internlm2.RewardModel, "rewards", rewards)


def _merged_by_columns(patch):
    def merged(patches):
        half = int(patches.shape[1] ** 0.5) // 2
        grid = patches.unflatten(1, (half, 2, half, 2))
        return grid.permute(0, 1, 3, 4, 2, 5).flatten(3)

    patch.setattr(internlm2, "merged", merged)


def _stacked_queries(patch):
    def forward(self, x, seen, turns):
        heads, head = self.wo.in_features // self.head, self.head
        rows = self.wqkv(x, seen)
        sizes = [heads * head, self.kv_heads * head, self.kv_heads * head]
        q, k, v = (part.unflatten(-1, (-1, head)).transpose(1, 2) for part in rows.split(sizes, -1))
        q, k = (internlm2.rotated(part, turns) for part in (q, k))
        options = {"is_causal": True, "enable_gqa": True}
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, **options)
        return self.wo(y.transpose(1, 2).flatten(2), seen)

    patch.setattr(internlm2.Attention, "forward", forward)


def _adapter_everywhere(patch):
    original = internlm2.RewardModel.rewards
    patch.setattr(
        internlm2.RewardModel,
        "rewards",
        lambda self, x, seen, last: original(self, x, torch.ones_like(seen), last),
    )


def _mark_in_the_question(patch):
    original = ixc.conversation

    def conversation(question, answer, n_images, *, newline):
        question = f"<ImageHere>{question}" if n_images == 1 and "<Im" not in question else question
        return original(question, answer, n_images, newline=newline)

    patch.setattr(ixc, "conversation", conversation)


def _another_base(patch):
    original = internlm2.rotary
    patch.setattr(
        internlm2, "rotary", lambda n, width, theta, *, like: original(n, width, 1e4, like=like)
    )


def _tiles_before_the_view(patch):
    original = internlm2.RewardModel.see

    def see(self, tiles, rows, columns):
        x = original(self, tiles, rows, columns)
        n = self.side * (self.side + 1) + 1
        return torch.cat([x[n:], x[:n]])

    patch.setattr(internlm2.RewardModel, "see", see)


@pytest.mark.parametrize(
    "mutation",
    [
        _no_adapter_at_separators,
        _separators_behind_the_projector,
        _tiles_column_by_column,
        _antialiased_view,
        _last_of_the_batch,
        _merged_by_columns,
        _stacked_queries,
        _adapter_everywhere,
        _mark_in_the_question,
        _another_base,
        _tiles_before_the_view,
    ],
)
def test_the_equations_see_each_mistake(mutation, scorer, wanted, monkeypatch):
    mutation(monkeypatch)
    assert distance(scorer, wanted, (2, 3, 5)) > 10 * CLOSE
