"""The page at / in a headless Chromium: files, verdicts, failures, keyboard, widths and colours."""

import contextlib
import io
import json
import shutil
import subprocess
import threading

import httpx
import numpy as np
import PIL.Image
import pytest

from tests.unified_reward.serve.running import running, serving
from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.verdicts import Preferred, Scale, Score, Scored
from unified_reward.serve.app import create_app
from unified_reward.serve.config import ServeConfig
from unified_reward.serve.hosts import JudgeReference, LocalHost
from unified_reward.serve.metrics import Metrics


MARKUP = "<img src=x onerror=alert(1)>"
"""Text that must stay text wherever it is shown."""
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
if shutil.which("chromium") is None:
    pytest.skip("chromium is not installed", allow_module_level=True)
expect = sync_api.expect


class Brightness(BaseJudge):
    """Scores images by their mean; says the first is better wherever it is within 40 of 255."""

    family = "brightness"
    name = "brightness"

    def describe(self):
        """Scores of images with an aspect, and comparisons."""
        task = {"forms": ["score", "compare"], "scale": [0, 100], "aspects": {"hue": [0, 1]}}
        return {"tasks": {"image_generation": task}, "licence": {"code": "?", "weights": "MIT"}}

    def ask(self, samples, *, orders=2, on_progress=None):
        """Verdicts on the samples."""
        return [self._verdict(sample, orders) for sample in samples]

    def _verdict(self, sample, orders):
        means = [float(np.mean(np.asarray(one.source))) for one in sample.candidates]
        if len(means) == 1:
            score = Score(means[0] / 2.55, Scale(0, 100), sigma=7.5)
            return Scored(score, {"hue": Score(0.25, Scale(0, 1))}, text=f"bright {MARKUP}")
        given = self._preferred(*means)
        mirrored = self._preferred(*means[::-1]).mirrored()
        return Preferred(
            *((getattr(given, key) + getattr(mirrored, key)) / 2 for key in SHARES),
            orders=(given, mirrored),
        )

    def _preferred(self, a, b):
        return Preferred(0.7, 0.1, 0.2) if a > b - 40 else Preferred(0.1, 0.1, 0.8)


WORD = "sesame"
SHARES = ("p_first", "p_tie", "p_second")


class Clips(Brightness):
    """Judges videos alone."""

    name = "clips"

    def describe(self):
        """Scores of videos."""
        return {"tasks": {"video_generation": {"forms": ["score"], "scale": None}}}


JUDGES = {
    "bright": Brightness(),
    "clips": Clips(),
    "any": "scripted:first",
    "lost": "no/such/judge",
}


@pytest.fixture(scope="module")
def url():
    with serving(JUDGES) as address:
        yield address


@pytest.fixture
def visit(browser):
    """Open an address; nothing may be loaded from elsewhere, and no script may fail."""
    with contextlib.ExitStack() as closing:
        problems = []

        def open_page(address, width=1200, **settings):
            viewport = {"width": width, "height": 800}
            context = browser.new_context(viewport=viewport, **settings)
            closing.callback(context.close)
            page = context.new_page()
            page.set_default_timeout(10_000)
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("dialog", lambda dialog: problems.append(dialog.message))
            page.on(
                "console",
                lambda line: "Security Policy" in line.text and problems.append(line.text),
            )
            page.on(
                "request",
                lambda request: (
                    request.url.startswith((address, "blob:", "data:"))
                    or problems.append(request.url)
                ),
            )
            page.goto(address)
            return page

        yield open_page
        assert not problems


def picture(level, name="picture.png"):
    """A plain picture as a file of a form."""
    file = io.BytesIO()
    PIL.Image.new("RGB", (32, 24), (level, level, level)).save(file, "png")
    return {"name": name, "mimeType": "image/png", "buffer": file.getvalue()}


def ask(page, *files, prompt="a grey square"):
    page.locator("#candidates input").set_input_files(list(files))
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_role("button", name="Judge", exact=True).click()
    expect(page.locator("#status")).to_contain_text("Done in")


def card(page, name):
    heading = page.get_by_role("heading", name=name, exact=True)
    return page.get_by_role("article").filter(has=heading)


def row(page, name):
    return page.get_by_role("listitem").filter(has=page.locator(f"input[value={name}]"))


def test_two_files_are_scored_and_compared_by_every_judge_that_can(url, visit):
    page = visit(url)
    ask(page, picture(100, f"{MARKUP}.png"), picture(120, "lighter.png"))
    bright = card(page, "bright")
    expect(bright).to_contain_text("A 45 %")
    expect(bright).to_contain_text("B 45 %")
    expect(bright).to_contain_text("A and B tie")
    expect(bright).to_contain_text("The two orders name different winners.")
    expect(bright).to_contain_text("39.22 ± 7.50")
    expect(bright).to_contain_text("scale 0 to 100")
    expect(bright.locator(".aspects").first).to_contain_text("0.250 of 1")
    expect(bright.locator("pre").first).to_have_text(f"bright {MARKUP}")
    dots = bright.locator(".dot")
    places = [dots.nth(i).evaluate("dot => parseFloat(dot.style.left)") for i in range(2)]
    assert places == pytest.approx([100 / 2.55, 120 / 2.55], abs=0.01)
    expect(card(page, "any")).to_contain_text("A and B tie")
    expect(page.locator("#status")).to_contain_text("bright: A and B tie")
    for name, why in (("lost", "no/such/judge"), ("clips", "does not judge generated images.")):
        expect(row(page, name)).to_contain_text(why)
        assert row(page, name).locator("input").is_disabled()
    assert page.locator("img[src=x]").count() == 0


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_request_that_is_shown_gives_the_answer_that_is_shown(url, visit, tmp_path):
    page = visit(url)
    files = [picture(100, f'it\'s; "{MARKUP}".png'), picture(250, "b, c.png")]
    for file in files:
        (tmp_path / file["name"]).write_bytes(file["buffer"])
    ask(page, *files, prompt="it's a 'grey' $quare\n")
    command = page.locator("#curl").inner_text().replace("curl ", "curl --silent ", 1)
    output = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, check=True)
    results = json.loads(output.stdout)["results"]
    assert {name: one["winner"] for name, [one] in results.items()} == {
        "bright": "second",
        "any": "tie",
    }
    python = page.locator("#python").inner_text()
    assert "judge.compare(\"it's a 'grey' $quare\", images=[" in python
    compile(python, "page", "exec")


def test_three_files_are_ranked_best_first(url, visit):
    page = visit(url)
    ask(page, picture(100), picture(250), picture(180))
    bright = card(page, "bright")
    expect(bright.locator("strong")).to_have_text("B > C > A")
    expect(bright.locator(".scores .letter")).to_have_text(["B", "C", "A"])
    page.get_by_role("button", name="Remove Candidate A").click()
    page.get_by_role("button", name="Judge", exact=True).click()
    expect(bright.locator("strong")).to_have_text("A is better")
    assert sorted(bright.locator(".scores .letter").all_inner_texts()) == ["A", "B"]


def test_a_broken_file_shows_its_failure_and_no_number(url, visit):
    page = visit(url)
    broken = {"name": "broken.png", "mimeType": "image/png", "buffer": b"no picture"}
    ask(page, picture(100), broken)
    rows = card(page, "bright").locator(".scores > li")
    expect(rows.nth(0)).to_contain_text("39.22")
    expect(rows.nth(1)).to_contain_text("Failed: ")
    assert rows.nth(1).locator("b").count() == 0
    assert rows.nth(1).locator(".dot").count() == 0
    assert card(page, "bright").locator(".shares").count() == 0
    expect(page.locator("#status")).to_contain_text("bright: no comparison, 1 of 2 without a score")
    expect(card(page, "bright").get_by_text("Failed: ")).to_have_count(2)


RING = "e => getComputedStyle(e.matches('.modes input') ? e.nextSibling : e).outlineWidth"


def test_keys_alone_judge_on_the_width_of_a_phone(url, visit):
    page = visit(url, width=360)
    page.on("filechooser", lambda chooser: chooser.set_files([picture(100), picture(250)]))
    expect(page.locator("#judges li")).to_have_count(len(JUDGES))

    def tab_to(name):
        for _ in range(20):
            page.keyboard.press("Tab")
            focused = page.locator(":focus")
            assert focused.evaluate(RING) == "3px"
            if name in focused.evaluate("e => e.labels?.[0]?.innerText ?? e.innerText"):
                return
        raise AssertionError(f"{name} cannot be reached")

    tab_to("Choose images or videos")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Remove")).to_have_count(2)
    tab_to("Prompt")
    page.keyboard.type("a grey square")
    tab_to("any")
    page.keyboard.press("Space")
    tab_to("Judge")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").filter(has_text="Done in")).to_contain_text("B is better")
    assert card(page, "any").count() == 0
    assert page.evaluate("() => document.documentElement.scrollWidth") == 360


NAMELESS = """() => [...document.querySelectorAll('button, input:not([hidden]), textarea, summary')]
    .filter((e) => !(e.labels?.length || e.ariaLabel || e.innerText)).map((e) => e.outerHTML)"""
FAINT = """() => {
    const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((x) => x / 255)
        .map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4))
        .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (e) => {
        const colour = rgb(getComputedStyle(e).backgroundColor);
        return colour[3] === 0 ? behind(e.parentElement) : colour;
    };
    const isText = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    return [...document.body.querySelectorAll('*')].filter((e) => e.checkVisibility() && isText(e))
        .map((e) => {
            const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))];
            return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.outerHTML];
        }).filter(([contrast]) => contrast < 4.5);
}"""


def test_controls_have_names_and_text_has_contrast_in_light_and_dark(url, visit):
    page = visit(url)
    page.get_by_text("Options").click()
    ask(page, picture(100), {"name": "broken.png", "mimeType": "image/png", "buffer": b"no"})
    assert page.evaluate(NAMELESS) == []
    backgrounds = set()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate(FAINT) == []
        backgrounds.add(page.evaluate("() => getComputedStyle(document.body).backgroundColor"))
    assert len(backgrounds) == 2


def test_answers_about_an_image_are_compared(url, visit):
    page = visit(url)
    page.get_by_role("radio", name="Answers").check()
    expect(row(page, "bright")).to_contain_text("does not judge answers")
    page.locator("#context input").set_input_files([picture(100)])
    page.get_by_label("Question").fill("what is it?")
    page.get_by_label("Answer A").fill("a square")
    page.keyboard.press("Control+Enter")
    expect(card(page, "any")).to_contain_text("50.00")
    page.get_by_label("Answer B").fill("a circle")
    page.keyboard.press("Control+Enter")
    expect(card(page, "any")).to_contain_text("A and B tie")
    expect(page.locator("#curl")).to_contain_text('"text":"a circle"')
    assert card(page, "any").count() == 1


def test_what_is_missing_is_named_and_files_are_dropped_and_removed(url, visit):
    page = visit(url)
    submit = page.get_by_role("button", name="Judge", exact=True)
    submit.click()
    expect(page.get_by_role("alert")).to_have_text("Add an image or a video.")
    page.locator("#candidates input").set_input_files([picture(100)])
    submit.click()
    expect(page.get_by_role("alert")).to_have_text("Write the prompt.")
    expect(page.get_by_label("Prompt", exact=True)).to_be_focused()
    page.keyboard.type("a grey square")
    dropped = page.evaluate_handle(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File(['x'], 'dropped.mp4', {type: 'video/mp4'}));
            return data;
        }"""
    )
    page.locator("main").dispatch_event("drop", {"dataTransfer": dropped})
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("alert")).to_contain_text("either all images or all videos")
    page.get_by_role("button", name="Remove Candidate A").click()
    expect(page.get_by_role("button", name="Remove Candidate A: dropped.mp4")).to_be_focused()
    expect(row(page, "clips").locator("input")).to_be_enabled()
    assert page.get_by_role("button", name="Remove Candidate").count() == 1


def test_the_token_is_asked_for_and_kept_in_the_tab_alone(visit):
    with serving({"bright": Brightness()}, token=WORD, max_body_bytes=1000) as url:
        policy = httpx.get(url).headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        page = visit(url)
        field = page.get_by_label("Token")
        expect(field).to_be_focused()
        field.fill("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_text("The server does not take this token.")).to_be_visible()
        field.fill(WORD)
        page.keyboard.press("Enter")
        expect(page.locator("#judges li")).to_have_text(["brightscores 0 to 100 · compares · MIT"])
        assert field.is_hidden()
        stored = "() => [document.cookie, localStorage.length, Object.values(sessionStorage)]"
        assert page.evaluate(stored) == ["", 0, [WORD]]
        page.locator("#candidates input").set_input_files([picture(100)])
        page.get_by_label("Prompt", exact=True).fill("long " * 300)
        page.keyboard.press("Control+Enter")
        expect(page.get_by_role("alert").filter(visible=True)).to_contain_text("at most 1000")
        assert "$UNIFIED_REWARD_TOKEN" in page.locator("#curl").inner_text()
        assert WORD not in page.locator("body").inner_text()


class Waiting(Brightness):
    """Answers when it may."""

    def __init__(self):
        self.may_answer = threading.Event()

    def ask(self, samples, *, orders=2, on_progress=None):
        """Verdicts on the samples."""
        self.may_answer.wait(10)
        return super().ask(samples, orders=orders)


def test_a_judge_that_loads_and_takes_long_is_awaited_or_stopped(visit, monkeypatch):
    is_loaded, judge = threading.Event(), Waiting()

    def load(_):
        is_loaded.wait(10)
        return judge

    monkeypatch.setattr(JudgeReference, "open", load)
    metrics = Metrics()
    host = LocalHost([JudgeReference("slow", "slow")], ServeConfig(), metrics)
    with running(create_app(host, ServeConfig(), metrics)) as url:
        page = visit(url)
        expect(page.locator("#judges")).to_contain_text("loading")
        expect(page.locator("#judges input")).to_be_disabled()
        is_loaded.set()
        expect(page.locator("#judges input")).to_be_checked()
        expect(page.locator("#server")).to_have_text("Judges: 1 ready.")
        page.locator("#candidates input").set_input_files([picture(100)])
        page.get_by_label("Prompt", exact=True).fill("a grey square")
        page.keyboard.press("Control+Enter")
        page.get_by_role("button", name="Stop").click()
        expect(page.locator("#status")).to_have_text("Stopped.")
        expect(page.get_by_role("button", name="Judge", exact=True)).to_be_focused()
        judge.may_answer.set()
        page.keyboard.press("Enter")
        expect(card(page, "slow")).to_contain_text("39.22 ± 7.50")
        assert card(page, "slow").count() == 1, "the answer that was stopped is dropped"
