"""Original LLaVA-NeXT checkpoints become folders that compute the same, bit for bit."""

import json
import re
import shutil
import weakref
from collections import Counter
from contextlib import contextmanager
from importlib import resources
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from typer.testing import CliRunner

from tests.unified_reward.checkpoints import llava_twins as twins
from unified_reward import open_judge
from unified_reward.backends.hf_vlm import load_vlm
from unified_reward.checkpoints import llava_qwen, shards
from unified_reward.checkpoints.llava_qwen import hub_name, plan, write
from unified_reward.cli import app
from unified_reward.core.errors import ConfigError, ModelError
from unified_reward.core.requests import Request


PROMPT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n<image>\nthe cat?<|im_end|>\n<|im_start|>assistant\n"
)


@pytest.fixture(scope="module")
def model():
    return twins.reference()


@pytest.fixture
def state(model):
    return twins.original_state(model)


@pytest.fixture
def source(tmp_path, state):
    return twins.save_original(tmp_path / "original", state)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "converted"


@pytest.fixture(autouse=True)
def several_shards(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 150_000)


def convert(source, out, dtype=None, progress=lambda _: None):
    """Plan and write a conversion; return the plan."""
    conversion = plan(source, dtype=dtype)
    write(conversion, out, progress=progress)
    return conversion


def loaded(folder):
    found, info = AutoModelForImageTextToText.from_pretrained(
        folder,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
        dtype="auto",
    )
    assert not any(info.values()), info
    return found.eval()


def seen(folder, *pictures):
    """Output of a converted folder for images and a question."""
    processor = AutoProcessor.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    text = PROMPT.replace("<image>\n", "<image>\n" * len(pictures))
    return processor(text=[text], images=[[*pictures]], return_tensors="pt")


@torch.no_grad()
def logits(model, inputs):
    return model(**inputs).logits


def differs(model, folder):
    """True if a converted folder computes something other than the model."""
    other = loaded(folder)
    for pictures in ([twins.picture()], [twins.picture(1), twins.picture(2, 30, 60)]):
        inputs = seen(folder, *pictures)
        if not torch.equal(logits(other, inputs), logits(model, inputs)):
            return True
    return False


def edit(folder, **changes):
    """Change a config; None takes an entry out."""
    file = folder / "config.json"
    message = json.loads(file.read_text()) | changes
    kept = {key: value for key, value in message.items() if value is not ...}
    file.write_text(json.dumps(kept))


def replaced(folder, state):
    for file in folder.glob("model*"):
        file.unlink()
    twins.save_shards(folder, state)


def contents(folder):
    return {item.name: item.read_bytes() for item in sorted(folder.iterdir())}


def test_a_converted_model_computes_what_the_original_did_bit_for_bit(model, source, out, caplog):
    message = convert(source, out)
    assert not caplog.records
    assert len(message.shards) > 3
    assert not differs(model, out)
    assert len({*logits(model, seen(out, twins.picture()))[0, -1].tolist()}) > 100


def test_tensors_are_called_as_in_the_published_folders_of_llava_hf(source, out):
    convert(source, out)
    names = json.loads((out / "model.safetensors.index.json").read_text())["weight_map"].keys()
    assert names >= {
        "image_newline",
        "language_model.lm_head.weight",
        "language_model.model.embed_tokens.weight",
        "language_model.model.layers.0.self_attn.q_proj.bias",
        "language_model.model.norm.weight",
        "multi_modal_projector.linear_1.bias",
        "vision_tower.vision_model.embeddings.patch_embedding.weight",
        "vision_tower.vision_model.encoder.layers.0.layer_norm1.bias",
        "vision_tower.vision_model.post_layernorm.weight",
    }
    parts = ("image_newline", "language_model.", "multi_modal_projector.linear_", "vision_tower.v")
    assert all(item.startswith(parts) for item in names)


def test_every_tensor_has_the_values_that_transformers_has(model, source, out, state):
    message = convert(source, out)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    hub = {hub_name(name): twins.original_name(name) for name in model.state_dict()}
    assert index["weight_map"].keys() == hub.keys()
    assert index["metadata"]["total_size"] == sum(
        item.nbytes for item in model.state_dict().values()
    )
    for name, item in loaded(out).state_dict().items():
        assert torch.equal(item, state[twins.original_name(name)])
    assert message.names == {original: name for name, original in hub.items()}
    written = {item.name for item in out.glob("model-*")}
    assert written == {*index["weight_map"].values()} == {item.name for item in message.shards}
    beside = {"config.json", "conversion.json", "model.safetensors.index.json"}
    beside |= {"processor_config.json", "chat_template.jinja"}
    beside |= {"tokenizer.json", "tokenizer_config.json"}
    assert {item.name for item in out.iterdir()} == written | beside
    for item in message.shards:
        assert (out / item.name).stat().st_size == item.n_bytes
        with safe_open(out / item.name, "pt") as file:
            assert {*file.keys()} == {it.name for it in item.tensors}
            assert file.metadata() == {"format": "pt"}


def test_tensors_fill_files_in_their_order(source):
    message = plan(source)
    sizes = [[item.n_bytes for item in shard.tensors] for shard in message.shards]
    assert all(sum(each) <= shards.SHARD_BYTES or len(each) == 1 for each in sizes)
    assert all(sum(a) + b[0] > shards.SHARD_BYTES for a, b in pairwise(sizes))


def test_what_is_left_out_is_named_with_its_reason(source):
    message = plan(source)
    assert not message.problems
    assert message.keys.ignored == {
        "computed from rope_theta": 1,
        "the last layer of the vision tower, behind the one that is read": 16,
        "the head of the vision tower, which is not read": 3,
    }
    assert Counter(message.ignored.values()) == message.keys.ignored
    assert message.ignored["model.layers.0.self_attn.rotary_emb.inv_freq"].startswith("computed")
    assert message.keys.loaded == 2, "image_newline and lm_head keep their names"
    assert message.keys.renamed == len(message.names) - 2


def test_the_layer_that_is_read_is_the_last_but_one_of_the_whole_tower(state, source, out):
    """The original cuts the tower and takes the last hidden state, before its closing norm."""
    whole = SiglipVisionModel(
        SiglipVisionConfig(
            hidden_size=twins.WIDTH,
            intermediate_size=96,
            num_hidden_layers=twins.LAYERS + 1,
            num_attention_heads=1,
            image_size=twins.SIDE,
            patch_size=twins.PATCH,
            vision_use_head=False,
        )
    ).eval()
    stem = f"{twins.TOWER}."
    tower = {k.removeprefix(stem): v for k, v in state.items() if k.startswith(stem)}
    whole.load_state_dict({k: v for k, v in tower.items() if not k.startswith("head.")})
    convert(source, out)
    model = loaded(out).model
    pixels = torch.rand(1, 3, twins.SIDE, twins.SIDE)
    sizes = torch.tensor([[twins.SIDE, twins.SIDE]])
    with torch.no_grad():
        read = whole(pixels, output_hidden_states=True).hidden_states[-2]
        wanted = model.multi_modal_projector(read)[0]
        both = torch.stack([pixels, pixels], 1)
        (found,) = model.get_image_features(both, sizes).pooler_output
    n = (twins.SIDE // twins.PATCH) ** 2
    assert torch.allclose(found[:n], wanted, atol=1e-6)


def swapped(item, other):
    return (
        (item, "\x00"),
        (other, item.replace("\\", "")),
        ("\x00", other.replace("\\", "")),
    )


def without_newline(monkeypatch, source):
    whole = shards.open_weights

    @contextmanager
    def open_weights(file):
        with whole(file) as read:
            yield lambda name: read(name) * (name != "model.image_newline")

    monkeypatch.setattr(shards, "open_weights", open_weights)


MUTATIONS = {
    "the projector's layers swapped": swapped(r"linear_1\.", r"linear_2\."),
    "gate and up swapped": swapped(r"gate_proj\.", r"up_proj\."),
    "layers of the tower swapped": swapped(r"encoder\.layers\.0\.", r"encoder\.layers\.1\."),
    "keys and values swapped": swapped(r"\.k_proj\.", r"\.v_proj\."),
    "embedding and head swapped": swapped(r"model\.language_model\.embed_tokens\.", r"lm_head\."),
}


@pytest.mark.parametrize("what", MUTATIONS)
def test_a_wrong_map_of_names_would_be_seen(what, model, source, out, monkeypatch):
    """All shapes fit, so nothing but the numbers can tell."""
    monkeypatch.setattr(llava_qwen, "_RULES", (*llava_qwen._RULES, *MUTATIONS[what]))
    assert not convert(source, out).problems
    assert differs(model, out)


def test_a_layer_of_the_tower_too_many_would_be_seen(model, source, out):
    edit(source, vision_config=twins.CONFIG["vision_config"] | {"num_hidden_layers": 4})
    assert f"{twins.TOWER}.encoder.layers.2.mlp.fc1.bias" in convert(source, out).names
    assert differs(model, out)


def test_a_lost_newline_would_be_seen(model, source, out, monkeypatch):
    without_newline(monkeypatch, source)
    convert(source, out)
    assert differs(model, out)


@pytest.mark.parametrize("change", [{"rope_theta": 1e4}, {"rms_norm_eps": 1e-2}])
def test_a_wrong_number_in_the_config_would_be_seen(change, model, source, out):
    edit(source, **change)
    convert(source, out)
    assert differs(model, out)


def test_a_tower_that_was_cut_before_is_kept_whole(model, tmp_path, out):
    state = twins.original_state(model, whole_tower=False)
    message = convert(twins.save_original(tmp_path / "cut", state), out)
    assert [*message.ignored] == ["model.layers.0.self_attn.rotary_emb.inv_freq"]
    assert not differs(model, out)


def test_a_model_that_speaks_with_its_embedding(tmp_path, out):
    model = twins.reference(tied=True)
    state = twins.original_state(model)
    del state["lm_head.weight"]
    source = twins.save_original(tmp_path / "tied", state, tie_word_embeddings=True)
    message = convert(source, out)
    assert message.notes == ("no lm_head.weight: the output layer is tied to the embedding",)
    assert not [name for name in message.names.values() if "lm_head" in name]
    assert not differs(model, out)
    edit(source, tie_word_embeddings=...)
    assert plan(source).config["tie_word_embeddings"] is True
    edit(source, tie_word_embeddings=False)
    assert plan(source).problems == (
        "1 missing: lm_head.weight",
        "tie_word_embeddings is false in config.json; true would need no lm_head.weight",
    )


def test_a_head_that_the_config_ties_is_not_read(tmp_path, out):
    model = twins.reference(tied=True)
    state = twins.original_state(model) | {"lm_head.weight": torch.randn(twins.ROWS, twins.WIDTH)}
    message = convert(twins.save_original(tmp_path / "tied", state, tie_word_embeddings=True), out)
    assert message.ignored["lm_head.weight"] == "tied to the embedding by config.json"
    assert not differs(model, out)


def test_tokens_without_a_row_get_zeros_and_it_is_said(model, state, tmp_path, out):
    rows = twins.END + 1
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        state[name] = state[name][:rows]
    message = convert(twins.save_original(tmp_path / "short", state, vocab_size=rows), out)
    assert message.notes == ("2 rows of zeros added to the embedding, for tokens that had none",)
    found = loaded(out)
    for weight in (found.lm_head.weight, found.get_input_embeddings().weight):
        assert weight.shape[0] == rows + 2
        assert not weight[rows:].any()
    inputs = seen(out, twins.picture())
    assert torch.equal(logits(found, inputs)[..., :rows], logits(model, inputs)[..., :rows])


def test_types_are_kept_or_made_what_is_asked(state, tmp_path, out):
    state = {name: item.bfloat16() for name, item in state.items()}
    state["model.norm.weight"] = state["model.norm.weight"].float()
    source = twins.save_original(tmp_path / "half", state)
    message = convert(source, out)
    kept = {k: v for file in out.glob("model-*") for k, v in load_file(file).items()}
    for original, name in message.names.items():
        assert kept[name].dtype == state[original].dtype
        assert torch.equal(kept[name], state[original])
    assert loaded(out).dtype == torch.bfloat16
    mixed = 0
    for file in out.glob("model-*"):
        data = file.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        message = [
            item for name, item in json.loads(data[8:start]).items() if name != "__metadata__"
        ]
        widths = [{"F32": 4, "BF16": 2}[item["dtype"]] for item in message]
        assert widths == sorted(widths, reverse=True)
        assert start % 8 == 0, "with wider types first, all are aligned"
        mixed += len({*widths}) > 1
    assert mixed
    convert(source, tmp_path / "full", dtype="float32")
    assert loaded(tmp_path / "full").dtype == torch.float32
    full = {
        k: v for file in (tmp_path / "full").glob("model-*") for k, v in load_file(file).items()
    }
    assert all(item.dtype == torch.float32 for item in full.values())
    assert all(torch.equal(item, kept[name].float()) for name, item in full.items())
    with pytest.raises(ConfigError, match=r"dtype is 'int8'; it must be float32, bfloat16 or"):
        plan(source, dtype="int8")


def test_pickles_of_tensors_are_converted_too(state, source, out, model):
    for file in source.glob("model*"):
        file.unlink()
    names = [*state]
    turned = "model.mm_projector.2.weight"
    state[turned] = state[turned].T.contiguous().T
    torch.save({name: state[name] for name in names[:40]}, source / "pytorch_model-1.bin")
    torch.save({name: state[name] for name in names[40:]}, source / "pytorch_model-2.bin")
    index = {name: f"pytorch_model-{1 if i < 40 else 2}.bin" for i, name in enumerate(names)}
    (source / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    convert(source, out)
    assert not differs(model, out)


def test_files_of_an_index_may_lie_deeper(source, out, model):
    (source / "deeper").mkdir()
    file = "model-00002-of-00003.safetensors"
    (source / file).rename(source / "deeper" / file)
    index = source / "model.safetensors.index.json"
    index.write_text(index.read_text().replace(file, f"deeper/{file}"))
    convert(source, out)
    assert not differs(model, out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mm_projector_type": "linear"}, 'mm_projector_type is "linear" in config.json, and must'),
        ({"mm_patch_merge_type": "flat"}, 'must be "spatial_unpad"'),
        ({"image_aspect_ratio": "pad"}, 'image_aspect_ratio is "pad" in config.json'),
        ({"mm_vision_select_layer": -1}, "mm_vision_select_layer is -1 in config.json, and must"),
        ({"mm_resampler_type": "spatial_pool"}, 'mm_resampler_type is "spatial_pool"'),
        ({"rope_scaling": {"type": "linear"}}, "must be null"),
        ({"architectures": ["LlavaLlamaForCausalLM"]}, "is of LlavaLlamaForCausalLM, and must be"),
        ({"rope_theta": ...}, "config.json lacks rope_theta"),
        ({"hidden_size": "72"}, "config.json cannot be converted"),
        ({"hidden_size": 80}, "of another shape: "),
        ({"num_hidden_layers": 3}, "12 missing: model.language_model.layers.2."),
        ({"num_hidden_layers": 1}, "12 unexplained: model.layers.1."),
        ({"vocab_size": twins.ROWS + 1}, "2 of another shape: "),
        ({"image_grid_pinpoints": "none"}, "image_grid_pinpoints is 'none' in config.json"),
        ({"image_grid_pinpoints": [[28, 30]]}, "must be pairs of multiples of 28"),
        ({"vision_config": {}}, "4 patches of 14 x 14 pixels, which is not 384 pixels a side"),
        (
            {"vision_config": {"image_size": 28, "num_attention_heads": 5}},
            "72 wide, not a multiple of 5 heads",
        ),
        ({"vision_config": {"image_size": 28}}, "missing: model.vision_tower.encoder.layers."),
        (
            {"image_token_index": twins.END},
            f"image_token_index is {twins.END} in config.json, but its tokenizer has '<|im_end|>' "
            f"there and <image> at {twins.IMAGE}",
        ),
    ],
)
def test_a_config_that_cannot_be_carried_over_is_refused(change, message, source, out):
    edit(source, **change)
    assert message in "; ".join(plan(source).problems)
    with pytest.raises(ModelError, match=re.escape(message)):
        convert(source, out)
    assert not out.exists()


def changed(state, name, item):
    return {k: v for k, v in (state | {name: item}).items() if v is not None}


WRONG = {
    "1 unexplained: model.layers.0.extra.weight": ("model.layers.0.extra.weight", torch.ones(1)),
    "1 missing: model.image_newline": ("model.image_newline", None),
    "1 of another shape: model.norm.weight (73,) for (72,)": ("model.norm.weight", torch.ones(73)),
    "model.mm_projector.0.weight (72,) for (72, 72)": (
        "model.mm_projector.0.weight",
        torch.ones(72),
    ),
    "there twice: model.norm.weight of ": ("model.language_model.norm.weight", torch.ones(72)),
    "no floating point numbers: model.norm.weight (torch.int64)": (
        "model.norm.weight",
        torch.ones(72, dtype=torch.int64),
    ),
    "embeddings.patch_embedding.weight has 2 dimensions, and must have 4": (
        f"{twins.TOWER}.embeddings.patch_embedding.weight",
        torch.ones(72, 588),
    ),
    "there is no model.vision_tower.vision_tower.vision_model.embeddings.position": (
        f"{twins.TOWER}.embeddings.position_embedding.weight",
        None,
    ),
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_tensors_are_refused_by_name(message, state, source, out):
    replaced(source, changed(state, *WRONG[message]))
    with pytest.raises(ModelError, match=re.escape(message)):
        convert(source, out)
    assert not out.exists()


def lose_a_shard(source):
    (source / "model-00002-of-00003.safetensors").unlink()


def cut_a_shard(source):
    file = source / "model-00002-of-00003.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def drop_half(source):
    state = {k: v for file in source.glob("model-*") for k, v in load_file(file).items()}
    drop_all(source)
    half = {name: item for name, item in state.items() if not name.startswith("model.layers")}
    save_file(half, source / "model.safetensors")


def drop_all(source):
    for file in source.glob("model*"):
        file.unlink()


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def pickle_code(source):
    drop_all(source)
    torch.save({"model.norm.weight": Evil()}, source / "pytorch_model.bin")


def nest(source):
    drop_all(source)
    torch.save({"state_dict": {"a": torch.ones(1)}}, source / "pytorch_model.bin")


def old_pickle(source):
    drop_all(source)
    stored = {"a": torch.ones(1)}
    torch.save(stored, source / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def lose(name):
    return lambda source: (source / name).unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose_a_shard, "lacks 1 of 3 shards: model-00002-of-00003.safetensors"),
        (cut_a_shard, "model-00002-of-00003.safetensors is broken or cut off"),
        (drop_half, "24 missing: model.language_model.layers.0."),
        (drop_all, "original has no weights (model.safetensors.index.json or "),
        (pickle_code, "pytorch_model.bin holds more than tensors and is not unpickled"),
        (nest, "it holds more than tensors by their names"),
        (old_pickle, "pytorch_model.bin cannot be read tensor by tensor"),
        (lose("config.json"), "config.json cannot be read"),
        (lose("merges.txt"), "has no tokenizer.json, nor vocab.json and merges.txt"),
    ],
)
def test_a_damaged_checkpoint_is_refused(damage, message, source, out, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    damage(source)
    with pytest.raises(ModelError, match=re.escape(message)):
        convert(source, out)
    assert not out.exists()
    assert not Path("ran").exists()


def test_a_tokenizer_without_chatml_is_refused(source, out):
    twins.save_tokenizer(source, ["<|endoftext|>", "<|im_start|>"])
    with pytest.raises(ModelError, match=r"lacks <\|im_start\|> or <\|im_end\|>, as ChatML needs"):
        convert(source, out)


def test_marks_that_the_tokenizer_has_already_keep_their_places(source, out, model):
    twins.save_tokenizer(source, [*twins.SPECIAL, "<image>"])
    convert(source, out)
    assert not differs(model, out)


def test_a_tokenizer_without_padding_pads_with_the_end(source, out):
    file = source / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token": None}))
    convert(source, out)
    tokenizer = AutoTokenizer.from_pretrained(out, local_files_only=True, trust_remote_code=False)
    assert tokenizer.pad_token_id == twins.END


class Stop(KeyboardInterrupt):
    pass


@pytest.mark.parametrize("after", [0, 1, 17, 40])
def test_a_stopped_conversion_goes_on_to_the_same_bytes(after, source, out, tmp_path):
    convert(source, tmp_path / "whole")
    left = iter(range(after))

    def stopping(n):
        if next(left, None) is None:
            raise Stop

    with pytest.raises(Stop):
        convert(source, out, progress=stopping)
    with pytest.raises(ModelError):
        load_vlm(out)
    made = {item.name: item.stat().st_ino for item in out.glob("model-*")}
    counts = []
    message = convert(source, out, progress=counts.append)
    assert sum(counts) == len(message.names)
    assert {name: (out / name).stat().st_ino for name in made} == made
    assert made or after < 17
    assert contents(out) == contents(tmp_path / "whole")


def test_a_cut_shard_of_a_stopped_conversion_is_written_again(source, out, tmp_path):
    convert(source, tmp_path / "whole")
    message = convert(source, out)
    file = out / message.shards[1].name
    file.write_bytes(file.read_bytes()[:-1])
    convert(source, out)
    assert contents(out) == contents(tmp_path / "whole")


def test_another_conversion_does_not_go_on_here(state, source, out, tmp_path):
    convert(source, out)
    other = twins.save_original(tmp_path / "other", state)
    before = contents(out)
    for folder, dtype in ((other, None), (source, "bfloat16")):
        with pytest.raises(ModelError, match=f"holds another conversion, of {source}, or of the"):
            convert(folder, out, dtype=dtype)
    edit(source, rope_theta=1e4)
    with pytest.raises(ModelError, match="or of the same before it changed; name another folder"):
        convert(source, out)
    assert contents(out) == before


@pytest.mark.parametrize("what", ["the source", "something else", "a file"])
def test_a_folder_that_holds_something_is_not_written_to(what, source, out):
    if what == "the source":
        out = source
    elif what == "a file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "mine.txt").write_text("mine")
    with pytest.raises(ModelError, match=r"is not empty, and no|is a file, not a"):
        convert(source, out)


def test_a_full_disk_is_said_before_anything_is_written(source, out, monkeypatch):
    usage = shutil.disk_usage(source)._replace(free=10)
    monkeypatch.setattr(shards.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ModelError, match=r"has 10 bytes free, and [\d,]{7} are to be written"):
        convert(source, out)
    assert not [*out.iterdir()]


def test_a_plan_reads_no_tensor_and_writes_nothing(source, out, monkeypatch):
    def open_weights(file):
        raise AssertionError(file)

    monkeypatch.setattr(shards, "open_weights", open_weights)
    before = contents(source.parent / "original"), sorted(source.parent.iterdir())
    message = plan(source)
    assert message.n_bytes > 0
    assert (contents(source), sorted(source.parent.iterdir())) == before


def test_one_tensor_is_held_at_a_time(source, out, state, monkeypatch):
    stored, peak = {}, [0]
    whole = shards.open_weights

    @contextmanager
    def open_weights(file):
        with whole(file) as read:

            def counted(name):
                item = read(name).clone()
                stored[name] = item.nbytes
                weakref.finalize(item, stored.pop, name)
                peak[0] = max(peak[0], sum(stored.values()))
                return item

            yield counted

    monkeypatch.setattr(shards, "open_weights", open_weights)
    monkeypatch.setattr(shards, "SHARD_BYTES", 10**9)
    message = convert(source, out)
    assert len(message.shards) == 1
    assert peak[0] == max(item.nbytes for item in state.values())
    assert message.n_bytes > 5 * peak[0]


def test_the_converted_folder_judges(source, out):
    convert(source, out)
    judge = open_judge(out, family="native", device="cpu")
    item, other = (judge.score("the cat", image=twins.picture(i)) for i in (0, 1))
    assert 0 <= item.score.normalized <= 1
    assert item.score.value != other.score.value
    message = judge.compare("the cat", images=[twins.picture(0), twins.picture(1)])
    assert message.p_first + message.p_tie + message.p_second == pytest.approx(1)


def test_prompts_are_conversation_qwen_1_5_byte_by_byte(source, out):
    convert(source, out)
    chat = load_vlm(out, device="cpu").chat
    visible = twins.picture()
    assert chat.prompt(Request((visible, "the cat?"))) == PROMPT
    assert chat.prompt(Request(("the cat?", visible))) == PROMPT, "as training put it"
    two = PROMPT.replace("<image>\n", "<image>\n<image>\n")
    assert chat.prompt(Request((visible, visible, "the cat?"))) == two
    apart = PROMPT.replace("<image>\nthe cat?", "1: <image>\n2: <image>\nwhich?")
    assert chat.prompt(Request(("1: ", visible, "2: ", visible, "which?"))) == apart
    assert chat.prompt(Request(("the cat?",))) == PROMPT.replace("<image>\n", "")
    ids = chat.prompt_tokens(Request((visible, "the <image>?")))
    assert ids.count(twins.IMAGE) == 1, "one that is spelled out stays text"
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "Sure?"},
    ]
    alone = AutoTokenizer.from_pretrained(out, local_files_only=True, trust_remote_code=False)
    for speaker in (chat.processor, chat.tokenizer, alone):
        assert speaker.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == (
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<video>\nWhat?<|im_end|>\n"
            "<|im_start|>assistant\nA cat.<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n"
            "<|im_start|>assistant\n"
        )


def test_the_processor_sees_as_siglip_does_and_ends_as_chatml_does(source, out):
    convert(source, out)
    processor = AutoProcessor.from_pretrained(out, local_files_only=True, trust_remote_code=False)
    tokenizer = processor.tokenizer
    assert tokenizer.convert_tokens_to_ids(["<image>", "<video>"]) == [twins.IMAGE, twins.VIDEO]
    assert {*twins.SPECIAL, "<image>", "<video>"} == {*tokenizer.all_special_tokens}
    assert tokenizer.padding_side == "left"
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (twins.END, twins.PAD)
    text = json.loads((out / "config.json").read_text())["text_config"]
    assert (text["eos_token_id"], text["pad_token_id"]) == (twins.END, twins.PAD)
    assert text["bos_token_id"] == twins.PAD
    assert tokenizer("the Score")["input_ids"] == [
        twins.BYTES.index(item) for item in ("the", "Ġ", "Score")
    ]
    assert processor.num_image_tokens == 4
    assert processor.vision_feature_select_strategy == "full"
    for look in (processor.image_processor, processor.video_processor):
        assert {*look.image_mean, *look.image_std} == {0.5}
        assert (look.size["height"], look.size["width"]) == (28, 28)
    white = processor.image_processor(twins.PIL.Image.new("RGB", (28, 28), "white"))
    assert torch.equal(torch.as_tensor(white["pixel_values"][0]), torch.ones(2, 3, 28, 28))
    assert processor.image_processor.image_grid_pinpoints == [
        [28, 28],
        [56, 28],
        [28, 56],
        [56, 56],
    ]


def test_tiles_are_turned_from_width_first_to_height_first(source):
    edit(source, image_grid_pinpoints=[[28, 56], [84, 28]])
    assert plan(source).config["image_grid_pinpoints"] == [[56, 28], [28, 84]]


def test_the_released_7b_becomes_what_was_published_in_the_new_layout(tmp_path):
    """``recipes/architectures`` holds the published config; its rows are padded otherwise."""
    sizes = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28}
    heads = {"num_attention_heads": 28, "num_key_value_heads": 4}
    grid = [[384 * i, 384 * j] for i in range(1, 7) for j in range(1, 7)]
    config = twins.CONFIG | sizes | heads | {"image_grid_pinpoints": grid, "vocab_size": 152064}
    config |= {"mm_vision_tower": "/weights/siglip-so400m-patch14-384/"}
    config |= {"image_token_index": 151646, "max_position_embeddings": 32768}
    del config["vision_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    twins.save_tokenizer(tmp_path, n=151643)
    shapes = twins.released_shapes(width=3584, inner=18944, layers=28, keys=512, rows=152064)
    twins.save_sparse(tmp_path / "model.safetensors", shapes)
    message = plan(tmp_path)
    assert not message.problems
    assert not message.notes
    assert (message.keys.loaded, message.keys.renamed) == (2, 763)
    assert message.n_bytes == pytest.approx(2 * 8.03e9, rel=1e-3)
    folder = resources.files("unified_reward") / "recipes" / "architectures"
    file = folder / "llava-onevision-qwen2-7b-ov-hf.json"
    published = json.loads(file.read_text())["config"]
    del published["text_config"]["vocab_size"]
    for part in ("text_config", "vision_config"):
        wanted = published.pop(part)
        assert {key: message.config[part][key] for key in wanted} == wanted
    assert {key: message.config[key] for key in published} == published
    assert {**message.config, "video_token_index": 151647} == message.config
    assert sorted(message.config["image_grid_pinpoints"]) == grid


def test_a_newline_of_clips_that_is_not_carried_over_is_said(source):
    edit(source, mm_newline_position="grid")
    assert plan(source).notes == ("a video ends in one newline, not in 'grid' as config.json says",)


def test_a_folder_where_nothing_was_finished_is_taken(source, out, model):
    out.mkdir()
    (out / ".conversion.json.part").write_text("{")
    convert(source, out)
    assert not differs(model, out)


def test_a_generation_config_is_carried_over(source, out):
    (source / "generation_config.json").write_text('{"eos_token_id": [2, 1]}')
    convert(source, out)
    assert loaded(out).generation_config.eos_token_id == [2, 1]


def run(*arguments, code=0):
    result = CliRunner().invoke(app, ["convert", "llava-qwen", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def test_the_command_plans_converts_and_says_what_it_did(source, out, model):
    message = run(source, out, "--dry-run").stdout
    assert "2 loaded, " in message
    assert "left out model.layers.0.self_attn.rotary_emb.inv_freq: computed from rope_th" in message
    (row,) = map(json.loads, run(source, out, "--dry-run", "--json").stdout.splitlines())
    assert not out.exists()
    assert (row["out"], row["problems"]) == (None, [])
    assert row["names"]["model.mm_projector.2.bias"] == "multi_modal_projector.linear_2.bias"
    assert row["bytes"] == sum(row["shards"].values()) > 0
    (row,) = map(json.loads, run(source, out, "--json").stdout.splitlines())
    assert row["out"] == str(out)
    assert not differs(model, out)


def test_the_command_ends_with_what_is_wrong(source, out):
    edit(source, mm_projector_type="linear")
    assert "problem  mm_projector_type is" in run(source, out, "--dry-run", code=1).stdout
    assert isinstance(run(source, out, code=1).exception, ModelError)
    assert not out.exists()


def test_the_family_is_kept_beside_a_converted_judge_and_an_unknown_one_refused(source, out):
    arguments = ["convert", "llava-qwen", str(source), str(out), "--family", "compact"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert open_judge(out).family == "compact"
    result = CliRunner().invoke(app, [*arguments[:-1], "loud"])
    assert "no family 'loud'; there are aspects" in str(result.exception)
