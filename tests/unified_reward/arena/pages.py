"""Steps in the pages of an arena, each with a wait for its outcome."""


def until(page, expression, argument=None):
    """Wait until an expression is true in a page."""
    page.wait_for_function(expression, arg=argument)


def ready(page, done):
    """Wait until a number of votes is saved, and the next one can be given or none is left."""
    until(
        page,
        """done => document.querySelector('#progress').ariaValueNow === String(done) &&
            (document.querySelector('#end:not([hidden])') ||
            document.querySelector('#choices [aria-disabled=false]'))""",
        done,
    )


def press(page, key, done):
    """Vote by a key, and wait for the next pair."""
    page.keyboard.press(key)
    ready(page, done)


def shows(page, selector, words):
    """Wait for words in an element; returns all of its text."""
    until(
        page,
        "([s, w]) => [...document.querySelectorAll(s)].some((e) => e.innerText.includes(w))",
        [selector, words],
    )
    return page.locator(selector).first.inner_text()


def chosen(rows):
    """Choices of the rows of a journal, by side as it was seen."""
    left = {"ab": "a", "ba": "b"}
    return [
        ("left" if vote == left[each["shown"]] else "right") if vote in ("a", "b") else vote
        for each in rows
        for vote in [each["vote"]]
    ]
