"""Pairs as trainers read them: each file is read again by what it was written for."""

import json
import resource
import signal
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

import unified_reward
from tests.unified_reward.media.made import file_of, noise, picture
from tests.unified_reward.pairs.test_preferences import row, written
from unified_reward import media
from unified_reward.cli.export import export as command
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.samples import Image, Task
from unified_reward.data.sources import read_source
from unified_reward.pairs.export import Format, export_pairs
from unified_reward_lab.microworld import candidate_pool, true_utilities


def stored(medium, folder):
    """A part of a row, its medium written beside the file."""
    if isinstance(medium, str):
        return {"text": medium}
    if isinstance(medium, Image):
        present, suffix, kind = media.encode_png(media.open_image(medium)), "png", "image"
    else:
        present, suffix, kind = media.encode_mp4(medium.source, medium.fps), "mp4", "video"
    name = f"{len(list(folder.iterdir()))}.{suffix}"
    (folder / name).write_bytes(present)
    return {kind: name}


def pair(task, folder, index=0, **changes):
    """A kept row of the microworld: the best of four candidates, and the worst."""
    found = candidate_pool(task, n=4, split="train", seed=0, index=index)
    utilities = true_utilities(found)
    order = np.argsort(utilities, kind="stable")
    parts = [stored(element, folder) for element in found.candidates]
    best, worst = int(order[-1]), int(order[0])
    sides = {best: "chosen", worst: "rejected"}
    made = {
        "task": task.value,
        "prompt": found.prompt,
        "context": [stored(element, folder) for element in found.context],
        "chosen": parts[best],
        "rejected": parts[worst],
        "chosen_score": utilities[best],
        "rejected_score": utilities[worst],
        "candidates": [
            part | {"score": score, "side": sides.get(i), "reason": None}
            for i, (part, score) in enumerate(zip(parts, utilities, strict=True))
        ],
    }
    return row(f"{task.value}-{index}", **made | changes)


def dropped(name):
    return row(name, status="dropped", reason="the judge saw no difference", chosen=None)


def run(path, out, form):
    """Export, with the logged lines."""
    result = []
    return export_pairs(path, out, form, log=result.append), result


@pytest.fixture
def understanding(tmp_path):
    """A question about a picture, one about a clip, and one whose clip is frames."""
    clip = pair(Task.VIDEO_UNDERSTANDING, tmp_path)
    for i in range(12):
        (tmp_path / f"f{i}.png").write_bytes(media.encode_png(picture(noise(28, 28, 3) // 2 + i)))
    frames = clip | {"id": "frames", "context": [{"video": [f"f{i}.png" for i in range(12)]}]}
    return written(tmp_path, pair(Task.IMAGE_UNDERSTANDING, tmp_path), clip, frames, dropped("d"))


def test_trl_takes_a_step_on_what_was_written(understanding, checkpoints, tmp_path):
    from transformers import AutoProcessor, Qwen3VLForConditionalGeneration
    from trl import DPOConfig, DPOTrainer

    out = tmp_path / "trl.parquet"
    counts, _ = run(understanding, out, Format.TRL)
    assert counts == {"written": 3, "dropped": 1}
    data = datasets.load_dataset(
        "parquet",
        data_files=str(out),
        split="train",
        cache_dir=str(tmp_path / "cache"),
        trust_remote_code=False,
    )
    assert data.column_names == ["images", "prompt", "chosen", "rejected"]
    config = DPOConfig(
        output_dir=str(tmp_path / "run"),
        max_steps=1,
        per_device_train_batch_size=3,
        learning_rate=1e-2,
        max_length=None,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        activation_checkpointing=False,
    )
    folder = checkpoints["qwen3_vl"]
    model = Qwen3VLForConditionalGeneration.from_pretrained(folder, trust_remote_code=False)
    before = model.get_input_embeddings().weight.detach().clone()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    trainer = DPOTrainer(model, args=config, train_dataset=data, processing_class=processor)
    loss = trainer.train().training_loss
    # At the reference both answers are as likely as before: log 2.
    assert loss == pytest.approx(np.log(2), abs=1e-4)
    assert (trainer.model.get_input_embeddings().weight.detach() != before).any()


def test_trl_sees_the_picture_or_eight_frames_of_the_clip(understanding, tmp_path):
    out = tmp_path / "trl.parquet"
    run(understanding, out, Format.TRL)
    first, second, third = datasets.Dataset.from_parquet(
        str(out), cache_dir=str(tmp_path / "cache")
    )
    questions = [json.loads(line) for line in understanding.read_text().splitlines()]
    visible = media.open_image(tmp_path / questions[0]["context"][0]["image"])
    assert (np.asarray(first["images"][0]) == np.asarray(visible)).all()
    clip = media.sample_frames(tmp_path / questions[1]["context"][0]["video"], 8)
    assert (np.stack([np.asarray(element) for element in second["images"]]) == clip.pixels).all()
    # linspace_inclusive of 12: 11 / 7 = 1.57 apart, cut off.
    wanted = [media.open_image(tmp_path / f"f{i}.png") for i in (0, 1, 3, 4, 6, 7, 9, 11)]
    for element, other in zip(third["images"], wanted, strict=True):
        assert (np.asarray(element) == np.asarray(other)).all()
    assert first["prompt"] == [{"role": "user", "content": questions[0]["prompt"]}]
    assert first["chosen"] == [{"role": "assistant", "content": questions[0]["chosen"]["text"]}]
    assert first["rejected"] == [{"role": "assistant", "content": questions[0]["rejected"]["text"]}]


def test_diffusers_gets_the_files_to_the_letter_and_the_chosen_one_on_either_side(tmp_path):
    (tmp_path / "a.png").write_bytes(file_of(picture(noise(8, 8, 3)), "JPEG", quality=70))
    (tmp_path / "b.png").write_bytes(media.encode_png(picture(noise(9, 9, 3))))
    path = written(tmp_path, *(row(f"{i}") for i in range(200)))
    out = tmp_path / "pick.parquet"
    run(path, out, Format.DIFFUSERS)
    rows = pq.read_table(out).to_pylist()
    chosen, rejected = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    for element in rows:
        assert (element["jpg_0"], element["jpg_1"]) == (
            (chosen, rejected) if element["label_0"] else (rejected, chosen)
        )
    # 100 heads; four standard deviations of a binomial (200, 0.5) are 28.
    assert abs(sum(element["label_0"] for element in rows) - 100) <= 28
    run(written(tmp_path, *(row(f"{i}") for i in range(50, 200))), out, Format.DIFFUSERS)
    assert pq.read_table(out).to_pylist() == rows[50:]


def test_our_reader_of_pick_a_pic_finds_the_same_winners(tmp_path):
    given = [pair(Task.IMAGE_GENERATION, tmp_path, i) for i in range(6)]
    out = tmp_path / "pick.parquet"
    run(written(tmp_path, *given), out, Format.DIFFUSERS)
    for element, back in zip(given, read_source(out, "pickapic"), strict=True):
        sample, winner = back.content.sample, back.content.target.winner
        assert sample.prompt == element["prompt"]
        better = sample.candidates[winner == "second"].source
        assert better == (tmp_path / element["chosen"]["image"]).read_bytes()


def test_published_pairs_of_answers_name_a_picture_or_the_frames_of_a_clip(tmp_path):
    (tmp_path / "out").mkdir()
    element, two = (pair(task, tmp_path) for task in (Task.IMAGE_UNDERSTANDING,) * 2)
    two |= {"id": "two", "context": [*element["context"], *two["context"]]}
    out = tmp_path / "out" / "pictures.json"
    run(written(tmp_path, element, two), out, Format.PUBLISHED)
    first, second = json.loads(out.read_text())
    assert first == {
        "id": element["id"],
        "image": f"../{element['context'][0]['image']}",
        "prompt": element["prompt"],
        "chosen": element["chosen"]["text"],
        "rejected": element["rejected"]["text"],
    }
    assert second["image"] == [f"../{part['image']}" for part in two["context"]]

    clip = pair(Task.VIDEO_UNDERSTANDING, tmp_path)
    out = tmp_path / "out" / "clips.json"
    run(written(tmp_path, clip), out, Format.PUBLISHED)
    (found,) = json.loads(out.read_text())
    sampled = media.sample_frames(tmp_path / clip["context"][0]["video"], 8).pixels
    assert len(found["image"]) == 8
    for name, frame in zip(found["image"], sampled, strict=True):
        assert Path(name).parent == Path("frames")
        assert (np.asarray(media.open_image(out.parent / name)) == frame).all()


def test_published_pairs_of_generated_media_carry_their_scores(tmp_path):
    element, two = (pair(task, tmp_path) for task in (Task.IMAGE_GENERATION, Task.VIDEO_GENERATION))
    out = tmp_path / "out.json"
    run(written(tmp_path, element), out, Format.PUBLISHED)
    scores = {name: element[name] for name in ("chosen_score", "rejected_score")}
    sides = {
        "jpg_0": element["chosen"]["image"],
        "jpg_1": element["rejected"]["image"],
        "label_0": 1,
    }
    assert json.loads(out.read_text()) == [{"caption": element["prompt"], **sides, **scores}]
    run(written(tmp_path, two), out, Format.PUBLISHED)
    scores = {name: two[name] for name in ("chosen_score", "rejected_score")}
    sides = {name: two[name]["video"] for name in ("chosen", "rejected")}
    assert json.loads(out.read_text()) == [{"caption": two["prompt"], **sides, **scores}]


def test_parquet_holds_every_task_with_its_bytes(understanding, tmp_path):
    lines = understanding.read_text().splitlines()
    made = [pair(task, tmp_path) for task in (Task.IMAGE_GENERATION, Task.VIDEO_GENERATION)]
    edit = made[0] | {"id": "e", "task": "image_editing", "context": [made[0]["rejected"]]}
    given = [*map(json.loads, lines[:3]), *made, edit | {"chosen_score": None}]
    out = tmp_path / "all.parquet"
    assert run(written(tmp_path, *given), out, Format.PARQUET)[0] == {"written": 6}
    data = datasets.Dataset.from_parquet(str(out), cache_dir=str(tmp_path / "cache"))

    def part(given_):
        ((kind, value),) = given_.items()
        if kind == "text":
            return {"kind": kind, "text": value, "bytes": None}
        return {"kind": kind, "text": None, "bytes": (tmp_path / value).read_bytes()}

    for element, found in zip(given, data, strict=True):
        names = [value for visible in element["context"] for value in visible.values()]
        names = names[0] if names and isinstance(names[0], list) else names
        assert found.pop("context") == [(tmp_path / name).read_bytes() for name in names]
        assert (found.pop("chosen"), found.pop("rejected")) == (
            part(element["chosen"]),
            part(element["rejected"]),
        )
        assert found == {
            "criteria": "",
            "tags": "{}",
            **{name: element[name] for name in found if name in element and name != "tags"},
        }
        assert len(found) == 10


def test_llamafactory_finds_the_file_by_its_entry_and_a_mark_for_each_medium(understanding):
    folder = understanding.parent
    questions = [json.loads(line) for line in understanding.read_text().splitlines()]
    (folder / "dataset_info.json").write_text('{"other": {"file_name": "x.json"}}')
    run(written(folder, *questions[1:3]), folder / "clips.json", Format.LLAMAFACTORY)
    run(written(folder, questions[0]), folder / "mine.json", Format.LLAMAFACTORY)
    known = json.loads((folder / "dataset_info.json").read_text())
    assert list(known) == ["other", "clips", "mine"]
    entry = known["mine"]
    assert (entry["formatting"], entry["ranking"]) == ("sharegpt", True)
    (found,) = json.loads((folder / entry["file_name"]).read_text())
    columns = {name: found[column] for name, column in entry["columns"].items()}
    assert columns == {
        "messages": [{"from": "human", "value": f"<image>{questions[0]['prompt']}"}],
        "chosen": {"from": "gpt", "value": questions[0]["chosen"]["text"]},
        "rejected": {"from": "gpt", "value": questions[0]["rejected"]["text"]},
        "images": [questions[0]["context"][0]["image"]],
        "videos": [],
    }
    clip, frames = json.loads((folder / "clips.json").read_text())
    assert clip["conversations"][0]["value"] == f"<video>{questions[1]['prompt']}"
    assert (clip["images"], clip["videos"]) == ([], [questions[1]["context"][0]["video"]])
    assert frames["conversations"][0]["value"].count("<image>") == len(frames["images"]) == 8
    assert frames["videos"] == []


def test_an_entry_is_not_added_to_a_file_of_another_kind(understanding):
    folder = understanding.parent
    given = [json.loads(understanding.read_text().splitlines()[0])]
    for text in ("[1]", "no JSON"):
        (folder / "dataset_info.json").write_text(text)
        with pytest.raises(DataError, match="is not a JSON object, so 'mine' cannot be added"):
            run(written(folder, *given), folder / "mine.json", Format.LLAMAFACTORY)
        assert (folder / "dataset_info.json").read_text() == text


def test_swift_gets_the_rejected_answer_beside_messages_and_absolute_paths(
    understanding, monkeypatch
):
    monkeypatch.chdir(understanding.parent)
    element = json.loads(understanding.read_text().splitlines()[0])
    written(Path(), element)
    run(Path("pairs.jsonl"), Path("swift.json"), Format.SWIFT)
    (found,) = json.loads(Path("swift.json").read_text())
    assert found == {
        "messages": [
            {"role": "user", "content": f"<image>{element['prompt']}"},
            {"role": "assistant", "content": element["chosen"]["text"]},
        ],
        "rejected_response": element["rejected"]["text"],
        "images": [str(understanding.parent.resolve() / element["context"][0]["image"])],
        "videos": [],
    }


FILES = dict.fromkeys(("published", "llamafactory", "swift"), "o.json")


@pytest.mark.parametrize("form", Format)
def test_a_medium_that_cannot_be_read_costs_its_pair_and_nothing_else(form, tmp_path):
    task = Task.IMAGE_GENERATION if form == "diffusers" else Task.IMAGE_UNDERSTANDING
    # The answers of item 3 are the same.
    given = [pair(task, tmp_path, i) for i in (0, 1, 2, 4)]
    side = "chosen" if form == "diffusers" else "context"
    half = media.encode_png(picture(noise(30, 30, 3)))[:900]
    (tmp_path / "half.png").write_bytes(half)
    for i, name in ((1, "gone.png"), (2, "half.png")):
        given[i][side] = {"image": name} if side == "chosen" else [{"image": name}]
    out = tmp_path / FILES.get(form, "o.parquet")
    counts, result = run(written(tmp_path, *given, "no JSON"), out, form)
    assert counts == {"written": 2, "unusable": 3}
    assert result[0].startswith(f"line 2: {tmp_path}/gone.png: cannot be opened: No such file")
    assert result[1].startswith(f"line 3: {tmp_path}/half.png: the image is broken")
    assert result[2].startswith("line 5: row: Invalid JSON")
    n_rows = len(json.loads(out.read_text())) if out.suffix == ".json" else len(pq.read_table(out))
    assert n_rows == 2


@pytest.mark.parametrize("form", ["published", "llamafactory", "swift"])
def test_files_of_json_rows_take_one_task(form, understanding, tmp_path):
    (tmp_path / "o.json").write_text("before")
    result = "line 2 is a pair of video_understanding, and o.json takes image_understanding; split"
    with pytest.raises(DataError, match=result):
        run(understanding, tmp_path / "o.json", Format(form))
    assert (tmp_path / "o.json").read_text() == "before"


@pytest.mark.parametrize("form", ["trl", "llamafactory", "swift"])
def test_trainers_of_answers_take_no_pictures(form, tmp_path):
    out = tmp_path / FILES.get(form, "o.parquet")
    with pytest.raises(DataError, match="takes image_understanding, video_understanding; split"):
        run(written(tmp_path, row("1")), out, Format(form))


def test_what_has_no_place_in_a_file_is_told(understanding, tmp_path):
    element = json.loads(understanding.read_text().splitlines()[0])
    parts = element | {"id": "p", "chosen": [{"text": "a"}, {"text": "b"}]}
    marked = element | {"id": "m", "prompt": "what is <image>?"}
    path = written(tmp_path, element, parts, marked)
    counts, result = run(path, tmp_path / "o.parquet", Format.TRL)
    assert counts == {"written": 2, "unusable": 1}
    assert result == ["line 2: this layout takes answers in words, not interleaved ones"]
    _, result = run(path, tmp_path / "o.parquet", Format.PARQUET)
    assert result[0].startswith("line 2: this layout takes candidates of one file each")
    _, result = run(path, tmp_path / "o.json", Format.SWIFT)
    assert result[1].startswith("line 3: a text holds <image>, which swift reads as a mark")


MARKS = {
    "published": {"image"},
    "llamafactory": {"image", "video", "audio"},
    "swift": {"image", "video", "audio", "bbox", "ref-object", "cot-process", "start-image"},
    "trl": set(),
    "parquet": set(),
}


@pytest.mark.parametrize("form", MARKS)
@pytest.mark.parametrize("key", ["prompt", "chosen", "rejected"])
def test_a_text_with_a_mark_of_the_trainer_is_left_out_and_any_other_kept(
    form, key, understanding, tmp_path
):
    element = json.loads(understanding.read_text().splitlines()[0])
    words = [*sorted(MARKS["swift"]), "b", "images"]
    texts = [f"use <{word}> here" for word in words]
    rows = [
        element | {"id": word, key: text if key == "prompt" else {"text": text}}
        for word, text in zip(words, texts, strict=True)
    ]
    out = tmp_path / FILES.get(form, "o.parquet")
    counts, result = run(written(tmp_path, *rows), out, Format(form))
    assert counts["unusable"] == len(MARKS[form]) == len(result)
    assert counts["written"] == len(words) - len(MARKS[form])
    assert all(f"<{word}>" in "".join(result) for word in MARKS[form])


def test_no_pair_at_all_and_another_suffix_are_errors(tmp_path):
    with pytest.raises(DataError, match=r"no pair to write, so .*o.parquet is not written"):
        run(written(tmp_path, dropped("1")), tmp_path / "o.parquet", Format.TRL)
    with pytest.raises(ConfigError, match=r"trl is written as a .parquet file, not as .*o.json"):
        run(written(tmp_path, row("1")), tmp_path / "o.json", Format.TRL)
    assert [element.name for element in tmp_path.iterdir()] == ["pairs.jsonl"]


@pytest.mark.parametrize("form", [Format.PARQUET, Format.PUBLISHED])
def test_a_full_disk_is_told_and_leaves_what_was_there(form, tmp_path):
    (tmp_path / "a.png").write_bytes(media.encode_png(picture(noise(99, 99, 3))))
    (tmp_path / "b.png").write_bytes(media.encode_png(picture(noise(99, 99, 3))))
    path = written(tmp_path, *(row(f"{i}") for i in range(400)))
    out = tmp_path / FILES.get(form, "o.parquet")
    out.write_text("before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        with pytest.raises(DataError, match=rf"{out.name} cannot be written"):
            run(path, out, form)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert out.read_text() == "before"
    assert {element.name for element in tmp_path.iterdir()} == {
        "a.png",
        "b.png",
        "pairs.jsonl",
        out.name,
    }


def test_the_command_tells_how_many_and_ends_with_1_if_a_row_cannot_be_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command()(command)
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(media.encode_png(picture(noise(8, 8, 3))))
    arguments = ["pairs.jsonl", "o.parquet", "--format", "diffusers"]
    written(tmp_path, row("1"), dropped("2"))
    done = CliRunner().invoke(app, arguments)
    assert (done.exit_code, done.stdout) == (0, "o.parquet\n")
    assert "1 written, 1 dropped, 0 failed, 0 unusable" in done.stderr
    written(tmp_path, row("1"), row("2", status="failed"), "no JSON")
    done = CliRunner().invoke(app, arguments)
    assert (done.exit_code, done.stdout) == (1, "o.parquet\n")
    assert "line 3: row: Invalid JSON" in done.stderr
    assert "1 written, 0 dropped, 1 failed, 1 unusable" in done.stderr


@pytest.mark.parametrize("form", [form.value for form in Format])
def test_the_public_export_takes_the_format_by_its_name(form, tmp_path):
    with pytest.raises(ConfigError, match=r"is written as a .* file, not as out\.txt"):
        unified_reward.export_pairs("pairs.jsonl", "out.txt", form)
    with pytest.raises(ConfigError, match="there is no format 'csv'; there are trl, diffusers"):
        unified_reward.export_pairs("pairs.jsonl", "out.txt", "csv")


def test_parquet_keeps_the_tags_of_a_pair(tmp_path):
    given = pair(Task.IMAGE_GENERATION, tmp_path, tags={"group": "雪"})
    out = tmp_path / "o.parquet"
    unified_reward.export_pairs(written(tmp_path, given), out, "parquet")
    assert json.loads(pq.read_table(out)["tags"][0].as_py()) == {"group": "雪"}
