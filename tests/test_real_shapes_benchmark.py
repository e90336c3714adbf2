"""The benchmark at real shapes counts what it should, and its ways agree at a tiny size."""

import json

import pytest

from benchmarks import real_shapes
from benchmarks.real_shapes_parts.measure import Equality, Plan
from benchmarks.real_shapes_parts.models import TINY
from benchmarks.real_shapes_parts.questions import SHORT
from benchmarks.real_shapes_parts.tokens import Distinct, distinct, keyed, plain, served
from benchmarks.real_shapes_parts.ways import batches
from unified_reward.core.samples import Image, Sample, Task


IMAGE = 7
TASK = Task.IMAGE_GENERATION


def test_tokens_of_an_image_are_shared_by_rows_that_begin_with_it():
    first = keyed([1, IMAGE, IMAGE, 2, IMAGE, 3], IMAGE, [0, 1])
    second = keyed([1, IMAGE, IMAGE, 2, IMAGE, 3], IMAGE, [0, 2])
    assert distinct([first, second]) == Distinct(8, 32, 3)
    assert plain([first, second]) == Distinct(12, 42, 4)


def test_a_server_shares_whole_blocks_and_computes_the_last_token():
    row = (*range(33),)
    assert served([row, row]).tokens == 33 + 1
    assert served([row[:32], row[:32]]).tokens == 32 + 16
    assert served([row, (*row[:20], 99)]).tokens == 33 + 5
    image = keyed([IMAGE] * 16 + [1, 2], IMAGE, [0])
    assert served([image, image]).images == 1


def test_a_request_longer_than_a_batch_is_asked_alone():
    assert [*batches([4400, 2200, 450, 460, 700])] == [[2, 3], [4], [1], [0]]


def test_near_ties_are_counted_apart():
    question = Sample(TASK, "a cat", (Image("cat.png"),))
    equality = Equality()
    plain_logprobs = [(-1.0, -2.0), (-1.0, -1.00005), (-2.0, -1.0)]
    equality.add([question] * 3, [(-3.0, -4.0), (-2.0, -1.0), (-1.0, -2.0)], plain_logprobs)
    assert (equality.compared, equality.equal, equality.near_ties) == (2, 1, 1)


@pytest.mark.slow
def test_all_ways_give_the_verdicts_of_a_tiny_model(tmp_path, capsys):
    tiny = Plan(
        tasks=(TASK,),
        loop_lengths=(1, 8),
        prompts={TASK: 1},
        small={Task.VIDEO_UNDERSTANDING: 1},
        pairs=(TASK,),
        side=112,
        text=SHORT,
        size=TINY,
        passes=((2, 64), (1, 256)),
    )
    real_shapes.main(["--json", "--out", str(tmp_path / "report.json")], tiny)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["equal"] == 1.0
    assert last["speedup_over_batch"].keys() == {TASK.value}
    report = json.loads((tmp_path / "report.json").read_text("utf-8"))
    (cell,) = report["cells"]
    assert report["equality"]["all"]["compared"] == 20 + 2 + 20
    assert cell["tokens"]["distinct"]["images"] == 10
    assert cell["tokens"]["plain"]["images"] == 30
    assert TASK.value.replace("_", " ") in real_shapes.page(report)
