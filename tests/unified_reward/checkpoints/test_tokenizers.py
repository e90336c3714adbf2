"""Ids of a loaded tokenizer are those of the `tokenizer.json` beside it."""

import json
import re
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, CLIPImageProcessor, CLIPTokenizer, LlavaProcessor

import unified_reward
from tests.unified_reward.scorers import twins
from tests.unified_reward.scorers.expected import mistral_ids
from unified_reward.checkpoints import tokenizers
from unified_reward.checkpoints.tokenizers import load_processor, load_tokenizer
from unified_reward.core.errors import ModelError


TEXT = "two  frames: <image> <image>\n caf\u00e9 \u65e5"
CHAT = "{% for turn in messages %}[{{ turn.role }}] {{ turn.content }}{% endfor %}"


@pytest.fixture
def folder(tmp_path):
    twins.mistral_tokenizer(tmp_path)
    return tmp_path


def plain(folder):
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def test_a_tokenizer_that_transformers_rebuilds_reads_as_its_file_does(folder):
    """By hand: a blank before every text, and two blanks are the token 259."""
    assert plain(folder)(TEXT).input_ids != mistral_ids(TEXT)
    tokenizer = load_tokenizer(folder)
    assert tokenizer(TEXT).input_ids == mistral_ids(TEXT)
    assert tokenizer(" ", add_special_tokens=False).input_ids == [259]
    assert tokenizer.decode(mistral_ids("a  b"), skip_special_tokens=True) == "a  b"


def test_special_tokens_and_those_around_a_text_stay_as_loaded(folder):
    before, after = plain(folder), load_tokenizer(folder)
    assert after.special_tokens_map == before.special_tokens_map
    assert after.get_added_vocab() == before.get_added_vocab()
    assert (after.bos_token_id, after.eos_token_id, len(after)) == (1, 2, len(before))
    assert after("a").input_ids[0] == after.bos_token_id


@pytest.fixture
def vlm(folder):
    """A processor's folder: its tokenizer is a Llama's, its chat template a file of its own."""
    file = (folder / "tokenizer.json").read_bytes()
    config = (folder / "tokenizer_config.json").read_bytes()
    LlavaProcessor(
        CLIPImageProcessor(), plain(folder), patch_size=14, chat_template=CHAT
    ).save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(file)
    (folder / "tokenizer_config.json").write_bytes(config)
    return folder


def test_the_tokenizer_of_a_judge_keeps_its_chat_template_and_reads_as_its_file_does(vlm):
    processor = load_processor(vlm)
    assert processor.tokenizer(TEXT).input_ids == mistral_ids(TEXT)
    assert processor(text=[TEXT.replace("<image>", "")]).input_ids[0] == mistral_ids(
        TEXT.replace("<image>", "")
    )
    turn = [{"role": "user", "content": "hello"}]
    assert processor.apply_chat_template(turn, tokenize=False) == "[user] hello"
    assert processor.image_token_id == len(twins.MISTRAL) + 1


def test_a_tokenizer_that_agrees_is_left_alone(tmp_path, monkeypatch):
    twins.byte_tokenizer(tmp_path, twins.LIKE_QWEN)
    monkeypatch.setattr(tokenizers, "_PARTS", ("nothing",))
    tokenizer = load_tokenizer(tmp_path)
    own = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer(TEXT).input_ids == own.encode(TEXT).ids


def test_a_file_that_cuts_and_pads_every_text_is_compared_whole(folder):
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    own.enable_truncation(5)
    own.enable_padding(length=9)
    own.save(str(folder / "tokenizer.json"))
    assert load_tokenizer(folder)(TEXT).input_ids == mistral_ids(TEXT)


def test_a_folder_without_the_file_passes(tmp_path):
    vocab, merges = twins.clip_vocabulary()
    CLIPTokenizer(vocab=vocab, merges=merges).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("\n".join(["#version", *map(" ".join, merges)]))
    assert load_tokenizer(tmp_path)("a red ball").input_ids == [49406, 320, 736, 1069, 49407]


@pytest.mark.parametrize(
    "kind", ["LlamaTokenizer", "CLIPTokenizer", "Qwen2Tokenizer", "T5Tokenizer", "BertTokenizer"]
)
def test_a_folder_whose_vocabulary_was_not_downloaded_is_refused(kind, folder):
    """transformers makes an empty one, for which every text is the same, or none."""
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    assert len({*plain(folder)("a b c", add_special_tokens=False).input_ids}) < 3
    with pytest.raises(ModelError, match=rf"no vocabulary for its tokenizer \({kind}\): there is"):
        load_tokenizer(folder)


def test_a_tokenizer_that_fails_on_the_probe_is_named(tmp_path):
    """A class of another model than the file: its library raises a bare Exception."""
    twins.byte_tokenizer(tmp_path, twins.LIKE_QWEN)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    with pytest.raises(ModelError, match=r"has a tokenizer that cannot read a text.*WordPiece"):
        load_tokenizer(tmp_path)


def test_a_special_token_of_another_kind_than_the_file_says_is_refused(folder):
    """With ``lstrip`` the blank before a frame would belong to it."""
    tokenizer = plain(folder)
    token = len(twins.MISTRAL) + 1
    flags = {"lstrip": True, "rstrip": False, "normalized": False, "single_word": False}
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"] = {token: {"content": "<image>", "special": True, **flags}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="gives other ids than its tokenizer") as raised:
        load_tokenizer(folder)
    assert str(folder) in str(raised.value)
    assert type(tokenizer).__name__ in str(raised.value)


def test_a_broken_file_is_named(folder):
    (folder / "tokenizer.json").write_text('{"model": 1}')
    with pytest.raises(ModelError, match="has no tokenizer that can be loaded") as raised:
        load_tokenizer(folder)
    assert "\n" not in str(raised.value)


def test_the_file_is_never_that_of_another_folder(folder, tmp_path):
    """Ids follow the file even where the vocabulary in it is in another order."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    row = json.loads((copy / "tokenizer.json").read_text())
    vocab = row["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    (copy / "tokenizer.json").write_text(json.dumps(row))
    a, b = (load_tokenizer(path)("ab").input_ids[-2:] for path in (folder, copy))
    assert a == b[::-1] != b


def test_nobody_else_loads_tokenizers_and_processors():
    """Else ids are not compared with the file."""
    root = Path(unified_reward.__file__).parent
    users = {
        str(file.relative_to(root))
        for file in root.rglob("*.py")
        if re.search(
            r"AutoTokenizer\.|AutoProcessor\.|\((AutoTokenizer|AutoProcessor)",
            file.read_text("utf-8"),
        )
    }
    assert users == {"checkpoints/tokenizers.py"}
