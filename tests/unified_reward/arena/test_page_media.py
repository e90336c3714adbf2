"""Media of the voting page in a headless Chromium: widths, clips in step, broken files."""

from itertools import pairwise

import pytest

from tests.unified_reward.arena import sites
from tests.unified_reward.arena.pages import chosen, press, ready, shows, until
from tests.unified_reward.arena.sites import (
    MARKUP,
    MODELS,
    RATERS,
    clip,
    clips,
    kinds,
    picture,
    pictures,
    row,
)


BOXES = """() => ['#stage .left', '#stage .right', '#choices']
    .map((s) => document.querySelector(s).getBoundingClientRect().toJSON())"""


def test_pairs_are_side_by_side_or_stacked_with_the_choices_in_reach(visit, tmp_path):
    files = [picture(tmp_path / model / "large.png", 200, side=600) for model in MODELS]
    rows = [*pictures(tmp_path, 1), row(1, *files, prompt=f"{MARKUP} " * 40)]
    with sites.site(tmp_path, rows) as site:
        for rater, width in zip(RATERS, (1400, 360), strict=True):
            page = visit(site.page(rater), width=width)
            ready(page, 0)
            for done in range(2):
                left, right, choices = page.evaluate(BOXES)
                assert page.evaluate("() => document.documentElement.scrollWidth") == width
                assert choices["bottom"] == 800
                assert choices["height"] < 150
                if width == 1400:
                    assert left["top"] == right["top"]
                    assert left["right"] < right["left"]
                    assert left["width"] == right["width"] > 500
                    assert done or right["bottom"] < choices["top"]
                else:
                    assert left["bottom"] < right["top"]
                    assert left["left"] == right["left"]
                assert not any(name in page.content() for name in MODELS)
                press(page, "3", done + 1)
        assert page.locator("img[src=x]").count() == 0


def test_tiny_pictures_are_enlarged_crisp_and_pictures_fill_the_screen(visit, tmp_path):
    files = [picture(tmp_path / model / "large.png", 200, side=600) for model in MODELS]
    with sites.site(tmp_path, [*pictures(tmp_path, 1), row(1, *files)]) as site:
        page = visit(site.page("ann"))
        ready(page, 0)
        rendering = "() => getComputedStyle(document.querySelector('#stage img')).imageRendering"
        assert page.evaluate(rendering) == "pixelated"
        page.get_by_role("button", name="Enlarge: A").press("Enter")
        page.keyboard.press("ArrowRight")
        enlarged = page.locator("#enlarged img")
        assert page.locator("#enlarged-name").inner_text() == "B"
        assert enlarged.bounding_box()["width"] > 1300
        b = page.locator("#stage .right img").get_attribute("src")
        assert enlarged.get_attribute("src").endswith(b)
        page.keyboard.press("1")
        page.keyboard.press("Escape")
        assert page.locator("#enlarged").is_hidden()
        focused = page.evaluate("document.activeElement.ariaLabel")
        assert (focused, site.rows()) == ("Enlarge: A", [])
        press(page, "1", 1)
        assert page.evaluate(rendering) == "auto"


TIMES = "() => [...document.querySelectorAll('video')].map((video) => video.currentTime)"
PAUSED = "() => [...document.querySelectorAll('video')].map((video) => video.paused)"
DISTURBED = """() => {
    const [a, b] = document.querySelectorAll('video');
    if (a.currentTime < 0.1 || a.currentTime > 0.5) return false;
    b.currentTime += 0.4;
    return true;
}"""
IN_STEP = """() => {
    const [a, b] = document.querySelectorAll('video');
    return !b.seeking && Math.abs(a.currentTime - b.currentTime) < 0.1;
}"""


@pytest.mark.slow
@pytest.mark.parametrize("n_frames", [20, 12])
def test_clips_play_in_step_over_their_ends(n_frames, visit, tmp_path):
    files = [clip(tmp_path / f"{i}.mp4", n) for i, n in enumerate((20, n_frames))]
    with sites.site(tmp_path, [row(0, *files, task="video_generation")]) as site:
        page = visit(site.page("ann"))
        ready(page, 0)
        assert page.evaluate("() => [...document.querySelectorAll('video')].every((v) => v.muted)")
        until(page, "() => document.querySelector('video').currentTime > 0.3")
        seen = []
        for _ in range(30):
            seen.append(page.evaluate(TIMES))
            page.wait_for_timeout(100)
        seconds = page.locator("video").evaluate_all("all => all.map((v) => v.duration)")
        assert sorted(seconds) == pytest.approx([n_frames / 10, 2.0])
        for times in seen:  # the shorter one rests at its end
            both = zip(times, seconds, strict=True)
            assert all(abs(min(max(times), end) - time) < 0.1 for time, end in both)
        assert any(max(after) < max(before) for before, after in pairwise(seen)), "begins again"

        page.keyboard.press("Space")
        until(page, f"() => ({PAUSED})().every(Boolean)")
        assert page.get_by_role("button", name="Play").is_visible()
        page.get_by_label("Position in the videos").fill("0.5")
        until(page, f"() => ({TIMES})().every((time) => Math.abs(time - 0.5) < 0.001)")
        page.wait_for_timeout(300)
        assert page.evaluate(TIMES) == [0.5, 0.5]
        page.get_by_role("button", name="Play").click()
        until(page, f"() => ({PAUSED})().every((paused) => !paused)")
        press(page, "2", 1)
        assert chosen(site.rows()) == ["right"]


@pytest.mark.slow
def test_clips_come_back_in_step_before_their_ends(visit, tmp_path):
    files = [clip(tmp_path / f"{i}.mp4", 60) for i in range(2)]
    with sites.site(tmp_path, [row(0, *files, task="video_generation")]) as site:
        page = visit(site.page("ann"))
        ready(page, 0)
        until(page, DISTURBED)
        assert not page.evaluate(IN_STEP)
        until(page, IN_STEP)
        assert 0.5 < page.evaluate(TIMES)[0] < 5.5


def test_clips_rest_where_motion_is_reduced(visit, tmp_path):
    with sites.site(tmp_path, clips(tmp_path, 2)) as site:
        page = visit(site.page("ann"), reduced_motion="reduce")
        ready(page, 0)
        page.wait_for_timeout(400)
        assert page.evaluate(TIMES) == [0, 0]
        page.keyboard.press("Space")
        until(page, f"() => ({TIMES})().every((time) => time > 0.1)")
        press(page, "1", 1)


def test_a_medium_that_the_browser_cannot_show_is_told(visit, tmp_path):
    with sites.site(tmp_path, clips(tmp_path, 2)) as site:
        page = visit(f"{site.url}/icon.svg")
        broken = []

        def spoil(route):
            url = route.request.url
            if not broken:
                broken.append(url)
            if url in broken:
                route.fulfill(body=b"no video", content_type="video/webm")
            else:
                route.continue_()

        page.route("**/media/*", spoil)
        page.goto(site.page("ann"))
        words = shows(page, ".failed[role=alert]:not(#problem)", "cannot be shown")
        assert "This video (A) cannot be shown" in words
        names = page.locator("#choices [aria-disabled=false]").all_inner_texts()
        assert [name.split(" 5")[0].strip() for name in names] == ["Cannot tell"]
        page.keyboard.press("1")
        assert site.rows() == []
        press(page, "5", 1)
        shows(page, ".failed[role=alert]:not(#problem)", "cannot be shown")
        page.unroute("**/media/*")
        page.get_by_role("button", name="Load again").click()
        until(
            page, "() => document.querySelectorAll('#choices [aria-disabled=false]').length === 5"
        )
        press(page, "1", 2)
        assert chosen(site.rows()) == ["cannot_tell", "left"]


def test_media_wait_for_a_server_that_is_away(visit, tmp_path):
    with sites.site(tmp_path, pictures(tmp_path, 1)) as site:
        page = visit(f"{site.url}/icon.svg")
        page.route("**/media/*", lambda route: route.abort())
        page.goto(site.page("ann"))
        shows(page, "#prompt", "a square")
        page.wait_for_timeout(300)
        assert page.locator(".failed[role=alert]:not(#problem)").count() == 0
        page.unroute("**/media/*")
        ready(page, 0)
        press(page, "1", 1)


def test_answers_and_edits_are_beside_what_they_are_about(visit, tmp_path):
    seen = {}
    with sites.site(tmp_path, kinds(tmp_path)) as site:
        page = visit(site.page("ann"))
        for done in range(5):
            ready(page, done)
            boxes = page.locator("figure").evaluate_all(
                "all => all.map((e) => [e.className, e.offsetTop])"
            )
            label = page.locator("#prompt-label").text_content()
            seen[label, page.locator("#stage video").count()] = dict(boxes)
            if label == "Question":
                texts = page.locator(".answer").evaluate_all(
                    "all => all.map((e) => [e.innerText, getComputedStyle(e).direction])"
                )
                assert sorted(texts) == [[f"  one\n\ttwo {MARKUP}", "ltr"], ["ثلاثة", "rtl"]]
            press(page, "3", done + 1)
    assert {key: set(places) for key, places in seen.items()} == {
        ("Prompt", 0): {"left", "right"},
        ("Prompt", 2): {"left", "right"},
        ("Instruction", 0): {"context", "left", "right"},
        ("Question", 0): {"context", "left", "right"},
        ("Question", 1): {"context", "left", "right"},
    }
    assert all(len(set(places.values())) == 1 for places in seen.values())


def test_stars_of_both_sides_are_kept_and_half_of_them_is_told(visit, tmp_path):
    with sites.site(tmp_path, pictures(tmp_path, 3), aspects=("colour", "shape"), seed=1) as site:
        page = visit(site.page("ann"), width=360)
        given = []
        for done in range(3):
            ready(page, done)
            given.append([(5, 2), (1, 4), (3, 1)][done])
            for side, stars in zip("AB", given[-1], strict=True):
                group = page.get_by_role("radiogroup", name=f"colour, {side}")
                group.get_by_role("radio").nth(stars - 1).locator("..").click()
            page.get_by_role("radiogroup", name="shape, B").get_by_role("radio").nth(1).focus()
            page.keyboard.press("Space")
            shows(page, "#stars p", "Give A stars too, or they do not count.")
            page.keyboard.press("Escape")
            press(page, "1", done + 1)
        rows = site.rows()
    assert {each["shown"] for each in rows} == {"ab", "ba"}, "another seed is needed"
    for (left, right), each in zip(given, rows, strict=True):
        stars = [left, right] if each["shown"] == "ab" else [right, left]
        assert each["aspects"] == {"colour": stars}
