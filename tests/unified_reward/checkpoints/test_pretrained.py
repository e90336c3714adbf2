"""Loading folders: broken ones are a ModelError of one line, and code of theirs never runs."""

import json
import re
import shutil
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer
from transformers.utils import logging

from tests.unified_reward.policies import pipelines
from unified_reward import policies
from unified_reward.backends.hf_vlm import load_vlm
from unified_reward.checkpoints.pretrained import load_errors, load_pretrained
from unified_reward.core.errors import ModelError
from unified_reward.core.extensions import checkpoint_path
from unified_reward.judges.registry import open_judge
from unified_reward.scorers import system
from unified_reward.scorers.loading import check
from unified_reward.train.meta_models import build_meta_pipeline, read_architecture


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
CONFIGS = (
    "config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "generation_config.json",
)
LOADERS = {
    "judge": lambda folder: open_judge(str(folder), family="native"),
    "policy": policies.load,
    "base": lambda folder: load_vlm(folder, device="cpu"),
    "dry run": lambda folder: read_architecture(str(folder)),
}


class NoInput:
    """Standard input that must not be read."""

    def __getattr__(self, name):
        raise AssertionError(f"standard input is read: {name}")


@pytest.fixture
def folder(checkpoints, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", NoInput())
    return shutil.copytree(checkpoints["qwen3_vl"], tmp_path / "it")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return pipelines.pictures(tmp_path_factory.mktemp("pipeline") / "it")


def edit(file, **values):
    content = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps(content | values))


def assert_refused(load, folder, reason=""):
    """The message of the error that a folder ends in: one line that names it."""
    with pytest.raises(ModelError, match=reason or None) as error:
        load(folder)
    message = str(error.value)
    assert "\n" not in message
    assert str(folder) in message
    assert "trust_remote_code" not in message


def own_code(folder, name, place=""):
    """Code that leaves a trace, named by a configuration; ``place`` is a key within it."""
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    kinds = ("AutoConfig", "AutoProcessor", "AutoTokenizer", "AutoModelForImageTextToText")
    named = {"auto_map": dict.fromkeys(kinds, "own.Own")}
    edit(folder / name, **({place: named} if place else named), processor_class="Own")


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_folder_with_code_of_its_own_is_refused_and_nothing_is_asked(folder, name, loader):
    own_code(folder, name)
    assert_refused(LOADERS[loader], folder, rf"{re.escape(name)} names code of its own \(auto_map")
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("processor_config.json", {"image_processor": {"auto_map": {"AutoImageProcessor": "o.O"}}}),
        ("preprocessor_config.json", {"auto_map": {"AutoImageProcessor": "o.O"}}),
        ("video_preprocessor_config.json", {"auto_map": {"AutoVideoProcessor": "o.O"}}),
        ("config.json", {"text_config": {"auto_map": {"AutoConfig": "other/repository--o.O"}}}),
        ("config.json", {"attn_implementation": "somebody/kernel"}),
        ("generation_config.json", {"custom_generate": "somebody/decoding"}),
    ],
)
def test_code_is_found_in_every_configuration(folder, name, values):
    edit(folder / name, **values)
    assert_refused(LOADERS["base"], folder, "names code of its own")


def test_code_that_a_tokenizer_needs_is_refused_in_words_of_this_package(folder):
    """Scorers read their tokenizers so, beside a config that may be of any kind."""
    edit(folder / "config.json", model_type="unheard")
    edit(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Own", None]})
    edit(folder / "tokenizer_config.json", tokenizer_class="Own")
    assert_refused(lambda it: load_pretrained(AutoTokenizer, it), folder, "code")


@pytest.mark.parametrize("loader", [policies.load, lambda it: build_meta_pipeline(str(it))])
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("tokenizer/tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["own.Own", None]}}),
        ("text_encoder/config.json", {"auto_map": {"AutoModel": "own.Own"}}),
        ("unet/config.json", {"auto_map": {"AutoModel": "own.Own"}}),
        ("model_index.json", {"unet": ["own", "Own"]}),
        ("model_index.json", {"_class_name": ["own", "Own"]}),
    ],
)
def test_a_pipeline_with_code_of_its_own_is_refused(
    pictures, tmp_path, monkeypatch, loader, name, values
):
    monkeypatch.setattr(sys, "stdin", NoInput())
    folder = shutil.copytree(pictures, tmp_path / "it")
    edit(folder / name, **values)
    with pytest.raises(ModelError, match="own"):
        loader(folder)


def torn(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


BREAKS = {
    "torn weights": lambda it: torn(it / "model.safetensors"),
    "no weights": lambda it: (it / "model.safetensors").unlink(),
    "weights of zero bytes": lambda it: (it / "model.safetensors").write_bytes(b""),
    "a lost shard": lambda it: (
        (it / "model.safetensors").rename(it / "model-1.safetensors")
        and edit(it / "model.safetensors.index.json", metadata={}, weight_map={"a": "gone"})
    ),
    "torn tokenizer": lambda it: torn(it / "tokenizer.json"),
    "another tokenizer": lambda it: (it / "tokenizer.json").write_text('{"model": 3}'),
    "torn config": lambda it: torn(it / "config.json"),
    "config of a list": lambda it: (it / "config.json").write_text("[]"),
    "config of bytes": lambda it: (it / "config.json").write_bytes(b"\xff\xfe{}"),
    "torn processor": lambda it: torn(it / "processor_config.json"),
    "unheard kind": lambda it: edit(it / "config.json", model_type="unheard"),
    "a model of text": lambda it: edit(it / "config.json", model_type="qwen2"),
    "no heads": lambda it: edit(it / "config.json", text_config={"num_attention_heads": 0}),
    "pointer for weights": lambda it: (it / "model.safetensors").write_bytes(POINTER),
    "pointer for tokenizer": lambda it: (it / "tokenizer.json").write_bytes(POINTER),
    "empty": lambda it: [file.unlink() for file in it.iterdir()],
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_folder_is_an_error_of_one_line(folder, name):
    BREAKS[name](folder)
    assert_refused(
        LOADERS["base"], folder, "Git LFS pointer; run git lfs" if "pointer" in name else ""
    )


def test_weights_of_another_vocabulary_are_named_with_both_shapes(folder):
    weights = load_file(folder / "model.safetensors")
    name = "model.language_model.embed_tokens.weight"
    rows, width = weights[name].shape
    weights[name] = torch.cat([weights[name], torch.zeros(64, width)])
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    shapes = re.escape(f"{name} ({rows + 64}, {width}) for ({rows}, {width})")
    assert_refused(LOADERS["base"], folder, shapes)


@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae"])
@pytest.mark.parametrize("broken", ["missing", "shape"])
def test_a_network_of_a_pipeline_is_never_made_up(pictures, tmp_path, part, broken):
    folder = shutil.copytree(pictures, tmp_path / "it")
    (file,) = (folder / part).glob("*.safetensors")
    weights = load_file(file)
    name = sorted(weights)[-1]
    value = weights.pop(name)
    kept = {name: torch.zeros([side + 1 for side in value.shape])} if broken == "shape" else {}
    save_file(weights | kept, file, {"format": "pt"})
    assert_refused(policies.load, folder, re.escape(name))


def test_a_pointer_in_a_pipeline_is_named(pictures, tmp_path):
    folder = shutil.copytree(pictures, tmp_path / "it")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(POINTER)
    assert_refused(policies.load, folder, "unet.* is a Git LFS pointer")


def test_a_pointer_in_place_of_a_scorers_weights_is_named(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(POINTER)
    (problem,) = check(system("pickscore"), tmp_path).problems
    assert "is a Git LFS pointer" in problem


def test_judges_loaded_in_several_threads_leave_warnings_and_logging_as_they_were(
    monkeypatch, recwarn
):
    monkeypatch.setattr(sys, "warnoptions", [])
    monkeypatch.delenv("TRANSFORMERS_VERBOSITY", raising=False)
    folder = checkpoint_path("tiny_judge")
    earlier = logging.get_verbosity(), logging.is_progress_bar_enabled()
    begin = threading.Barrier(4)

    def load(pause_s):
        begin.wait(30)
        with load_errors("fails"):
            time.sleep(pause_s)
            warnings.warn("of a library", stacklevel=1)
            load_pretrained(AutoTokenizer, folder)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(load, [0.0, 0.05, 0.1, 0.15]))
    warnings.warn("afterwards", stacklevel=1)
    assert [str(each.message) for each in recwarn] == ["afterwards"]
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == earlier
