"""Visible content of a page, read back from the HTML itself."""

import base64
import io
import math
import re
from html.parser import HTMLParser

import numpy as np
import PIL.Image
import PIL.ImageSequence
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unified_reward.core.errors import DataError
from unified_reward.core.verdicts import Failed, Preferred, Scale, Score, Scored, Unparsed
from unified_reward.report.charts import running_mean
from unified_reward.report.page import DASH, Animation, Bar, Card, Finding, Interval, Page


VOID = {"img", "meta", "link"}


class Reader(HTMLParser):
    """Collects visible text and attributes, and fails on a tag that is not closed in order."""

    def __init__(self, page: Page) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(page.html())
        assert self.open == []
        self.text = " ".join(self.words)

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data.replace("\N{NO-BREAK SPACE}", " "))

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.attributes if key == name]


def image(width: int = 64, height: int = 64, mode: str = "RGB") -> PIL.Image.Image:
    return PIL.Image.new(mode, (width, height), 0)


def card_page(**fields) -> Page:
    page = Page("t")
    page.gallery([Card(**{"media": [image()], "title": "a cube", **fields})])
    return page


def verdict_text(verdict) -> str:
    page = Page("t")
    page.gallery([Card([], "", verdict=verdict)])
    return Reader(page).text


def full_page() -> Page:
    page = Page("Results", lead="first\nsecond")
    page.section("Numbers", "a note")
    page.text("words")
    page.table(["name", "value"], [["a", 1.5], ["b", None]])
    page.bars([Bar("a", 0.5, 0.4, 0.6, 10)], title="bars", reference=0.5, reference_label="chance")
    page.intervals([Interval("a", -0.5, -0.75, -0.25)], title="intervals")
    page.matrix({"a": {"b": Bar("", 0.5, 0.4, 0.6, 3)}, "b": {}}, title="matrix", corner="")
    page.findings([Finding("better", "a is better", ["by far"], "good")])
    page.subsection("Part", "of a section")
    page.curve({"a": [(0, 1), (1, 2)], "b": [(0, 2)]}, title="curve", x="step", y="loss", wide=True)
    page.curve({"a": [(0, 1), (1, 2)]}, title="the same again", x="step", y="loss")
    page.gallery([Card([image(), Animation(np.zeros((2, 8, 8, 3), np.uint8), 2)], "both")])
    return page


HOSTILE = '</style><script>alert("1")</script><img src=x onerror=y> & \'"'


def test_markup_in_any_text_appears_as_text():
    page = Page(HOSTILE, lead=HOSTILE)
    page.section(HOSTILE, HOSTILE)
    page.text(HOSTILE)
    page.table([HOSTILE], [[HOSTILE]])
    page.bars([Bar(HOSTILE, 1, 1, 1, 1)], title=HOSTILE, reference=0, reference_label=HOSTILE)
    page.intervals([Interval(HOSTILE, 1, 1, 1, 1, HOSTILE)], title=HOSTILE, note=HOSTILE)
    page.matrix({HOSTILE: {HOSTILE: Bar("", 1, 1, 1, 1)}}, title=HOSTILE, corner=HOSTILE)
    page.findings([Finding(HOSTILE, HOSTILE, [HOSTILE])])
    page.subsection(HOSTILE, HOSTILE)
    page.curve({HOSTILE: [(0, 0)]}, title=HOSTILE, x=HOSTILE, y=HOSTILE)
    scored = Scored(None, {HOSTILE: Score(1, Scale(0, 1))})
    for verdict in (scored, Unparsed(HOSTILE), Failed(HOSTILE)):
        page.gallery([Card([image()], HOSTILE, [HOSTILE], verdict, HOSTILE)])
    read = Reader(page)
    # <title> and 14 calls' worth: h1 lead h2 note text th td, bar title label reference,
    # curve key title x y = 1 + 14; interval title label mark note, matrix title row column corner,
    # finding mark text line, subsection h3 note = 4 + 4 + 3 + 2;
    # three cards with mark, title, line and one word of the verdict.
    assert read.text.count(HOSTILE) == 15 + 13 + 3 * 4
    assert "script" not in read.seen
    assert not any(name.startswith("on") for name, _ in read.attributes)
    assert read.values("alt") == [HOSTILE] * 3


@given(st.text(max_size=40))
def test_any_text_keeps_the_tags_balanced_and_can_be_encoded(text):
    page = Page(text, lead=text)
    page.table([text], [[text]])
    page.gallery([Card([], text, [text], Unparsed(text), text)])
    assert Reader(page).seen
    assert page.html().encode().startswith(b"<!DOCTYPE html>")


def test_an_undecodable_file_name_does_not_keep_the_page_from_being_written(tmp_path):
    card_page(title="caf\udce9.png").write(tmp_path / "page.html")
    assert "caf?.png" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_page_asks_nobody_for_anything():
    read = Reader(full_page())
    assert "http" not in full_page().html().replace('http-equiv="Content-Security-Policy"', "")
    addresses = read.values("src") + read.values("href") + read.values("xlink:href")
    assert len(addresses) > 3
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not re.search(r"@import|url\((?!#)", full_page().html())
    assert "default-src 'none'" in " ".join(read.values("content"))


def test_a_running_mean_is_that_of_the_neighbours_and_a_gap_stays_one():
    """By hand, over three points: (1 + 3) / 2, (1 + 3 + 8) / 3, (3 + 8) / 2, a gap, 6."""
    line = [(0, 1.0), (1, 3.0), (2, 8.0), (3, math.nan), (4, 6.0)]
    means = running_mean(line, 2)
    assert means[:3] == [(0, 2), (1, 4), (2, 5.5)]
    assert math.isnan(means[3][1])
    assert means[4] == (4, 6)


def test_no_element_of_two_charts_shares_an_id():
    ids = Reader(full_page()).values("id")
    assert ids
    assert len(ids) == len(set(ids))


def test_the_same_page_has_the_same_bytes():
    assert full_page().html() == full_page().html()


def test_an_unparsed_verdict_shows_its_reason_and_no_number():
    read = Reader(card_page(verdict=Unparsed("no verdict in the answer", text="about 7 of 10")))
    assert "unreadable answer" in read.text
    assert "no verdict in the answer" in read.text
    assert not re.search(r"\d", read.text)


def test_a_failed_verdict_shows_the_error_and_no_number():
    text = verdict_text(Failed("cube.png: not an image"))
    assert "not asked" in text
    assert "cube.png: not an image" in text
    assert not re.search(r"\d", text)


def test_a_score_stands_on_its_scale_with_its_spread():
    """4 on 1 to 5 lies at 75 %; sigma 0.5 of a range of 4 reaches 12.5 % to each side."""
    page = card_page(verdict=Scored(Score(4, Scale(1, 5), 0.5)))
    read = Reader(page)
    assert "score 4  ± 0.5 1 5" in read.text
    assert "left:75%" in read.values("style")
    assert "left:62.5%;right:12.5%" in read.values("style")


def test_a_spread_beyond_the_scale_is_drawn_to_its_end():
    read = Reader(card_page(verdict=Scored(Score(5, Scale(1, 5), 2))))
    assert "left:50%;right:0%" in read.values("style")


def test_a_score_on_an_open_scale_has_no_gauge():
    read = Reader(card_page(verdict=Scored(Score(0.73, Scale(None, None)))))
    assert "0.73" in read.text
    assert "gauge" not in read.values("class")


def test_aspects_without_an_overall_score_are_shown_by_name():
    assert "style 2 1 5" in verdict_text(Scored(None, {"style": Score(2, Scale(1, 5))}))


@pytest.mark.parametrize(
    ("orders", "note"),
    [
        ((), ""),
        ((Preferred(0.6, 0.2, 0.2), Preferred(0.8, 0.1, 0.1)), "both orders agree"),
        ((Preferred(0.6, 0.2, 0.2), Preferred(0.2, 0.2, 0.6)), "orders disagree"),
    ],
)
def test_a_preference_shows_three_shares_and_whether_the_orders_agree(orders, note):
    text = verdict_text(Preferred(0.62, 0.08, 0.3, orders=orders))
    assert text.split("first 62% tie 8% second 30%")[1].strip() == note


def test_two_compared_images_are_named_and_others_are_not():
    compared = Preferred(1, 0, 0)
    assert "<figcaption" in card_page(media=[image(), image()], verdict=compared).html()
    assert "<figcaption" not in card_page(media=[image(), image()]).html()
    assert "<figcaption" not in card_page(media=[image()], verdict=compared).html()


def test_bars_carry_value_interval_n_and_reference():
    page = Page("t")
    page.bars([Bar("images", 0.75, 0.7, 0.8, 1200)], title="Accuracy", reference=0.5)
    read = Reader(page)
    assert f"images 0.75 0.70{DASH}0.80 n = 1,200" in read.text
    assert {"width:75%", "left:70%;right:20%", "left:50%"} <= set(read.values("style"))


def test_a_bar_of_nothing_measured_shows_a_dash_and_no_fill():
    page = Page("t")
    page.bars([Bar("images", None, None, None, 0)], title="Accuracy")
    read = Reader(page)
    assert f"images {DASH} n = 0" in read.text
    assert not {"fill", "whisker"} & set(read.values("class"))


def test_intervals_share_an_axis_of_round_ticks_that_includes_the_reference():
    """From -1.8 to 0 in steps of 1 is -2 to 0, so that -1.5 lies at a quarter, 0 at the end."""
    page = Page("t")
    rows = [Interval("a", -1.5, -1.8, -1.2, 48, "worse"), Interval("b", None, None, None, 0)]
    page.intervals(rows, title="Differences")
    read = Reader(page)
    assert f"a worse -1.50 -1.80 to -1.20 n = 48 b {DASH} n = 0 -2 -1 0" in " ".join(
        read.text.split()
    )
    styles = read.values("style")
    assert {"left:10%;right:60%", "left:25%"} <= set(styles)
    assert styles.count("left:100%") == 2
    assert read.values("class").count("dot") == read.values("class").count("whisker") == 1


def test_values_about_another_reference_have_no_sign():
    page = Page("t")
    page.intervals([Interval("a", 0.63, 0.58, 0.68)], title="Win rates", reference=0.5)
    read = Reader(page)
    assert "a 0.630 0.580 to 0.680 0.5 0.6 0.7" in " ".join(read.text.split())


numbers = st.floats(-1e9, 1e9).map(lambda x: round(x, 9))


@given(st.lists(st.lists(numbers, min_size=3, max_size=3).map(sorted), min_size=1), numbers)
def test_every_interval_lies_on_the_axis_in_its_order(triples, reference):
    page = Page("t")
    rows = [Interval("a", value, low, high) for low, value, high in triples]
    page.intervals(rows, title="", reference=reference)
    styles = Reader(page).values("style")
    places = [float(text) for style in styles for text in re.findall(r"left:([\d.e-]+)%", style)]
    assert len(places) >= 3 * len(rows) + 2
    assert 0 <= min(places) <= max(places) <= 100
    ticks = places[3 * len(rows) :]
    assert 2 <= len(ticks) <= 6


def test_values_without_any_difference_lie_in_the_middle_of_the_axis():
    page = Page("t")
    page.intervals([Interval("a", 0.0, 0.0, 0.0)], title="Differences")
    assert Reader(page).values("style").count("left:50%") == 2


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_an_interval_that_is_no_number_is_refused_by_name(wrong):
    with pytest.raises(DataError, match="'videos' takes finite numbers"):
        Interval("videos", 0.5, 0.4, wrong)


def test_a_matrix_has_a_number_in_every_tinted_cell():
    page = Page("t")
    rows = {"a": {"b": Bar("", 0.75, 0.7, 0.8, 9)}, "b": {"a": Bar("", 0.25, None, None, 9)}}
    page.matrix(rows, title="Win rates", corner="row against")
    read = Reader(page)
    assert f"row against a b a {DASH} 0.75 0.70{DASH}0.80 b 0.25 {DASH}" in read.text
    tints = [style for style in read.values("style") if style.startswith("background")]
    assert len(tints) == 2
    assert tints[0].replace("--accent", "--series-1") == tints[1]


def test_findings_have_their_gist_in_words():
    page = Page("t")
    page.findings([Finding("better", "a is better", ["by far"], "good"), Finding("open", "b is")])
    assert "better a is better by far open b is" in Reader(page).text


def test_boxes_of_long_texts_can_be_scrolled_with_keys():
    long = "word " * 40
    cards = [Card([], long, [long], verdict) for verdict in (Unparsed(long), Unparsed("short"))]
    page = Page("t")
    page.gallery([*cards, Card([], "short", ["short"], Failed("short"))])
    assert page.html().count('tabindex="0"') == 5


def test_a_wide_curve_has_a_chart_for_phones():
    page = Page("t")
    page.curve({"a": [(0, 1), (1, 2)]}, title="loss", x="step", y="loss", wide=True)
    wide, narrow = re.findall(r'<svg.*?width="([\d.]+)pt"', page.html())
    assert float(wide) > 2 * float(narrow)


@pytest.mark.parametrize("wrong", [1.2, -0.1, float("nan")])
def test_a_bar_outside_its_axis_is_refused_by_name(wrong):
    with pytest.raises(DataError, match=r"'videos' takes shares in \[0, 1\] or None"):
        Bar("videos", 0.5, 0.4, wrong, 10)


def test_numbers_of_a_table_stand_right_and_missing_ones_are_dashes():
    page = Page("t")
    missing = [None, float("nan"), float("inf")]
    rows = [["a", 0.12345], *(["b", one] for one in missing), ["c", 12000]]
    page.table(["task", "value"], rows)
    cells = re.findall(r'<td class="number">(.*?)</td>', page.html())
    assert cells == ["0.123", DASH, DASH, DASH, "12,000"]
    assert re.findall(r'<th scope="col" class="(.*?)">', page.html()) == ["", "number"]


def test_an_interval_in_a_table_has_the_digits_that_it_can_tell():
    page = Page("t")
    page.table(
        ["value"], [[Interval("", 3.1234, 3.012, 3.456)], [Interval("", 3.1234, None, None)]]
    )
    assert "value 3.12 3.01 to 3.46 3.123" in " ".join(Reader(page).text.split())


def test_a_row_of_the_wrong_length_is_refused():
    with pytest.raises(DataError, match="row 1 has 1 cells, the header has 2"):
        Page("t").table(["a", "b"], [["x", 1], ["y"]])


def test_a_chart_follows_the_colour_scheme_and_leaves_words_alone():
    page = Page("t")
    page.curve({"_a $x^2$": [(0, 0), (1, 1)]}, title="t", x="$n_$", y="y")
    chart = page.html().partition("<svg")[2].partition("</svg>")[0]
    assert "var(--series-0)" in chart
    assert "var(--muted)" in chart
    assert not re.search(r"#0103?0\d+", chart)
    assert {"_a $x^2$", "$n_$"} <= set(Reader(page).words)


def test_a_chart_survives_points_that_are_no_numbers_and_a_single_point():
    page = Page("t")
    nan, inf = float("nan"), float("inf")
    page.curve({"a": [(0, nan), (1, inf), (2, 1)], "b": [], "c": [(0, 1)]}, title="t", x="", y="")
    assert {"a", "b", "c"} <= set(Reader(page).words)


def test_nothing_to_show_is_said():
    page = Page("t")
    page.bars([], title="no bars")
    page.curve({"a": []}, title="no curve", x="", y="")
    page.gallery([])
    assert Reader(page).text.count("Nothing to show.") == 3


def embedded(page: Page) -> tuple[str, PIL.Image.Image]:
    (source,) = Reader(page).values("src")
    kind, _, data = source.partition(";base64,")
    return kind, PIL.Image.open(io.BytesIO(base64.b64decode(data)))


def test_a_video_is_embedded_as_a_moving_webp_of_the_same_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    kind, webp = embedded(card_page(media=[Animation(pixels, 4)]))
    assert kind == "data:image/webp"
    frames = [np.asarray(frame.convert("RGB")) for frame in PIL.ImageSequence.Iterator(webp)]
    assert np.array_equal(frames, pixels)


def test_a_small_image_is_enlarged_by_a_whole_factor_and_kept_crisp():
    """64 px fit three times into 200."""
    page = card_page(media=[image(64, 32)])
    assert embedded(page)[1].size == (64, 32)
    assert '<img class="crisp" width="192"' in page.html()


def test_a_photograph_is_embedded_smaller_and_not_made_crisp():
    page = card_page(media=[image(2000, 1000)])
    width, height = embedded(page)[1].size
    assert width * height <= 512 * 512
    assert width == pytest.approx(2 * height, abs=2)
    assert 'class="crisp"' not in page.html()


@pytest.mark.parametrize("mode", ["CMYK", "RGBA", "P", "1", "I;16"])
def test_images_of_every_mode_can_be_shown(mode):
    assert embedded(card_page(media=[image(mode=mode)]))[0] == "data:image/png"


def test_captions_take_the_direction_of_their_own_words():
    assert '<h3 dir="auto">مكعب أحمر</h3>' in card_page(title="مكعب أحمر").html()


def test_a_written_page_is_complete_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "new" / "page.html"
    full_page().write(path)
    assert path.read_text(encoding="utf-8") == full_page().html()
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_breaks_off_keeps_the_old_page(tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    path.write_text("old")
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(DataError, match=r"page\.html cannot be written: full"):
        full_page().write(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
