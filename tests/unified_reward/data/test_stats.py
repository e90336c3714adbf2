"""Counts by hand, an unbiased sample of rows, and a page that shows it."""

from collections import Counter

import pytest

from tests.unified_reward.media.made import grey_steps, noise, picture
from unified_reward.core.errors import DataError
from unified_reward.core.samples import Example, Image, Sample, Target, Task, Video
from unified_reward.core.verdicts import Failed, Scale
from unified_reward.data.stats import gather, page
from unified_reward.io.rows import Row
from unified_reward.media import encode_mp4, encode_png


PNG = encode_png(picture(noise(8, 8, 3)))
MP4 = encode_mp4(grey_steps(4), 8)


def scored(name, score, scale, prompt="p", medium=None, **aspects):
    sample = Sample(Task.IMAGE_GENERATION, prompt, (medium or Image(PNG),), id=name)
    return Example.of(sample, Target(score, scale, aspects), "made")


def compared(name, winner):
    sample = Sample(Task.VIDEO_GENERATION, "q", (Video(MP4), Video("other.mp4")), id=name)
    return Example.of(sample, Target(winner=winner, rationale="it <b>moves</b>"), "made")


def rows(*contents):
    return [Row(i, f"row {i}", item) for i, item in enumerate(contents, 1)]


def test_what_is_counted_is_what_stands_there():
    text = ({"from": "human", "value": "rate"}, {"from": "gpt", "value": "4"})
    found = gather(
        rows(
            scored("1", 1, Scale(1, 5), style=2.0),
            scored("2", 5, Scale(1, 5)),
            scored("3", 3, Scale(1, 5), "other"),
            scored("4", 7, Scale(0, None), "third"),
            compared("5", "first"),
            compared("6", "tie"),
            compared("7", None),
            Example(
                Task.IMAGE_GENERATION,
                "",
                id="8",
                target=Target(winner="second"),
                source="told",
                messages=text,
            ),
            Failed("no verdict", DataError("")),
        ),
        n=3,
        seed=0,
    )
    assert found.cells == {
        ("made", "image_generation", "score"): 4,
        ("made", "video_generation", "compare"): 3,
        ("told", "image_generation", "compare"): 1,
    }
    assert found.winners == {
        ("made", "first"): 1,
        ("made", "tie"): 1,
        ("made", "none"): 1,
        ("told", "second"): 1,
    }
    # 1, 3 and 5 on 1 to 5 are at 0, 0.5 and 1 of the scale.
    assert found.scores == {("1 to 5", 0): 1, ("1 to 5", 5): 1, ("1 to 5", 9): 1}
    assert (found.unscaled, found.without_media) == (1, 1)
    assert found.aspects == {("made", "style"): 1}
    assert found.bad == {"no verdict": 1}
    html = page(found, "Rows").html()
    # p, q and q again; the picture three times again, two clips twice again each.
    for label, n in (("prompts that occur again", 3), ("media that occur again, by name", 7)):
        assert f'{label}</div></td><td class="number">{n}</td>' in html
    assert "8 usable rows, 1 unusable" in html


def test_a_page_shows_media_words_and_what_cannot_be_shown():
    text = ({"from": "human", "value": "rate"}, {"from": "gpt", "value": "Final <4>"})
    talk = Example(
        Task.IMAGE_GENERATION,
        "",
        (),
        (Image(PNG),),
        id="t",
        target=Target(4, Scale(1, 5)),
        messages=text,
    )
    answers = Sample(Task.IMAGE_UNDERSTANDING, "?", ("yes", "no"), (Image(PNG),), id="a")
    given = [compared("5", "first"), talk, Example.of(answers, Target(winner="tie"))]
    html = page(gather(rows(*given), n=9, seed=0), "Rows").html()
    assert html.count("<article") == 3
    assert html.count("data:image/png") == 2
    assert html.count("data:image/webp") == 1
    for result in (
        "cannot be shown: other.mp4: cannot be opened",
        "rationale: it &lt;b&gt;moves&lt;/b&gt;",
        "winner: first",
        "gpt: Final &lt;4&gt;",
        "score: 4 on 1 to 5",
        "1. yes",
        "2. no",
        "made 5",
    ):
        assert result in html


def test_every_row_is_drawn_equally_often_and_the_seed_decides():
    given = rows(*(scored(str(i), 1, Scale(1, 5)) for i in range(10)))
    counts = Counter(
        item.id for seed in range(400) for item in gather(given, n=3, seed=seed).sampled
    )
    assert counts.total() == 1200
    # 120 each; four standard deviations of a binomial (400, 0.3) are 37.
    assert all(abs(n - 120) <= 37 for n in counts.values())
    assert len(counts) == 10
    draws = [tuple(item.id for item in gather(given, n=3, seed=seed).sampled) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_fewer_rows_than_wanted_are_all_shown_and_none_is_an_error():
    assert len(gather(rows(scored("1", 1, Scale(1, 5))), n=24, seed=0).sampled) == 1
    with pytest.raises(DataError, match=r"no usable row: no verdict \(2\)"):
        gather(rows(*[Failed("no verdict", DataError(""))] * 2), n=1, seed=0)
    with pytest.raises(DataError, match="no row at all"):
        gather([], n=1, seed=0)
