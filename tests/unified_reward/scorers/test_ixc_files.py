"""The tensors of IXC-2.5-Reward: their names and shapes against the sizes of the released files.

No weights are there: the layout of torch's archives gives the size of a file to the byte.
"""

import io
import json
import pickle
import re
import zipfile

import pytest
import torch

from tests.unified_reward.scorers import ixc_twins as twins
from unified_reward.checkpoints.tensor_keys import match_keys
from unified_reward.scorers import internlm2, ixc


SIZES = (7_740_922_137, 7_583_658_858, 1_277_272_479)
"""Sizes of the three files on the hub."""
CUTS = re.compile(r"model\.layers\.(14|30)\.feed_forward\.w3\.Plora_B\.weight")
"""Last tensor of a file."""
WIDTH, INNER, VISION = 4096, 14336, 1024
LINEARS = {
    "attention.wqkv": (6144, WIDTH),
    "attention.wo": (WIDTH, WIDTH),
    "feed_forward.w1": (INNER, WIDTH),
    "feed_forward.w3": (INNER, WIDTH),
    "feed_forward.w2": (WIDTH, INNER),
}
CONFIG = {
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1_000_000,
}
MIN_ZIP64 = 2**32 - 1


def shapes():
    """Names and shapes of the 944 tensors, in the order of the modules."""
    yield "plora_glb_GN", (1, 1, WIDTH)
    yield "plora_sub_GN", (1, 1, 1, WIDTH)
    yield "model.tok_embeddings.weight", (92544, WIDTH)
    for layer in (f"model.layers.{i}" for i in range(32)):
        for name, (outputs, inputs) in LINEARS.items():
            yield f"{layer}.{name}.weight", (outputs, inputs)
            yield f"{layer}.{name}.Plora_A.weight", (256, inputs)
            yield f"{layer}.{name}.Plora_B.weight", (outputs, 256)
        for name in ("attention_norm", "ffn_norm"):
            yield f"{layer}.{name}.weight", (WIDTH,)
    yield "model.norm.weight", (WIDTH,)
    stem = "vit.vision_tower.vision_model"
    yield f"{stem}.embeddings.class_embedding", (VISION,)
    yield f"{stem}.embeddings.patch_embedding.weight", (VISION, 3, 14, 14)
    yield f"{stem}.embeddings.position_embedding.weight", (1601, VISION)
    yield from both(f"{stem}.pre_layrnorm", VISION)
    for layer in (f"{stem}.encoder.layers.{i}" for i in range(24)):
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            yield from both(f"{layer}.self_attn.{name}", VISION, VISION)
        yield from both(f"{layer}.layer_norm1", VISION)
        yield from both(f"{layer}.mlp.fc1", 4 * VISION, VISION)
        yield from both(f"{layer}.mlp.fc2", VISION, 4 * VISION)
        yield from both(f"{layer}.layer_norm2", VISION)
    yield from both(f"{stem}.post_layernorm", VISION)
    for i in (0, 2):
        yield from both(f"vision_proj.{i}", WIDTH, WIDTH)
    yield "score.weight", (1, WIDTH)


def both(name, *shape):
    """Weight and bias."""
    return [(f"{name}.weight", shape), (f"{name}.bias", shape[:1])]


def files(named):
    """The tensors of each file."""
    parts = [{}]
    for name, shape in named:
        parts[-1][name] = shape
        if CUTS.fullmatch(name):
            parts.append({})
    return parts


class Pickler(pickle.Pickler):
    """Writes tensors as `torch.save` does, without their numbers."""

    def persistent_id(self, obj):  # the parameter's name is pickle's
        if not isinstance(obj, torch.storage.TypedStorage):
            return None
        self.n = getattr(self, "n", -1) + 1
        return "storage", torch.BFloat16Storage, str(self.n), "cpu", obj._size()


def table_bytes(tensors):
    """Size of the pickle that names the tensors."""
    written = io.BytesIO()
    # Memory that is not touched is not taken.
    empty = {name: torch.empty(shape, dtype=torch.bfloat16) for name, shape in tensors.items()}
    Pickler(written, protocol=2).dump(empty)
    return len(written.getvalue())


def archive_bytes(stem, records):
    """Size of a zip of uncompressed records (name, bytes), each begun at a multiple of 64.

    Local header 30, its padding field 4 and 12 more behind 4 GiB; 16 or 24 behind the record; in
    the central directory 46 and 12 more behind 4 GiB; 98 at the end.
    """
    end = directory = 0
    for record, n_bytes in records:
        name = len(f"{stem}/{record}")
        is_far = end >= MIN_ZIP64
        begin = end + 30 + name + 4 + 12 * is_far
        directory += 46 + name + 12 * is_far
        end = -(-begin // 64) * 64 + n_bytes + (24 if is_far else 16)
    return end + directory + 98


def storages(tensors):
    """Records of numbers, in the order in which the names of their files are sorted."""
    sizes = [2 * torch.Size(shape).numel() for shape in tensors.values()]
    return sorted((f"data/{i}", n_bytes) for i, n_bytes in enumerate(sizes))


def published_bytes(i, tensors):
    """Size of a file as torch 2.1 to 2.5 wrote it."""
    records = [("data.pkl", table_bytes(tensors)), ("byteorder", 6), *storages(tensors)]
    records += [("version", 2), (".data/serialization_id", 40)]
    return archive_bytes(f"pytorch_model-{i:05}-of-00003", records)


def test_the_arithmetic_of_an_archive_is_that_of_torch(tmp_path):
    """On a small file of today's torch, whose records are in another order and two more."""
    tensors = {"a": (3, 5), "plora.weight": (1, 700), "b.bias": (9,), **dict(both("x", 40, 33))}
    file = tmp_path / "some-00001.bin"
    torch.save({name: torch.ones(shape).bfloat16() for name, shape in tensors.items()}, file)
    with zipfile.ZipFile(file) as archive:
        entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    records = [(entry.filename.partition("/")[2], entry.file_size) for entry in entries]
    assert archive_bytes("some-00001", records) == file.stat().st_size
    assert dict(records)["data.pkl"] == table_bytes(tensors)
    assert {name for name, _ in storages(tensors)} <= {*dict(records)}


def test_the_names_and_shapes_give_the_sizes_of_the_released_files():
    parts = files(shapes())
    assert sum(map(len, parts)) == 944
    assert tuple(published_bytes(i, part) for i, part in enumerate(parts, 1)) == SIZES


@pytest.mark.parametrize(
    "other",
    [
        {"output.weight": (92544, WIDTH)},
        {"score.bias": (1,)},
        {"v_head.weight": (1, WIDTH)},
        {"model.layers.31.attention.wqkv.lora_sft_A.weight": (256, WIDTH)},
    ],
)
def test_one_more_tensor_would_not_fit(other):
    *_, last = files(shapes())
    assert published_bytes(3, last | other) != SIZES[2]


def test_a_tensor_less_would_not_fit():
    *_, last = files(shapes())
    for name in [name for name in last if "post_layernorm" in name]:
        del last[name]
    assert published_bytes(3, last) == SIZES[2] - 4774


def test_every_released_tensor_is_taken_under_its_name_and_none_is_missing(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    twins.tokenizer(tmp_path / "tokenizer.model")
    state = {name: torch.empty(shape, device="meta") for name, shape in shapes()}
    with torch.device("meta"):
        module = ixc.IXCReward.skeleton(state, tmp_path)
    assert isinstance(module, internlm2.RewardModel)
    fitting, report = match_keys(module, ixc.IXCReward.translate(state, tmp_path), {})
    assert report.problems == ()
    assert (len(fitting), report.renamed) == (944, 391)
    assert sum(value.numel() for value in fitting.values()) == 8_300_759_040
    assert module.side == 20
