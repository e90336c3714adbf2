"""Random verdicts, and models whose answers a test determines."""

from hypothesis import strategies as st

from unified_reward.core.requests import Answer
from unified_reward.core.verdicts import Preferred


@st.composite
def preferences(draw):
    """A comparison: any distribution over first, tie and second, with one aspect."""
    weights = draw(st.tuples(*[st.integers(0, 100)] * 3).filter(any))
    shares = [weight / sum(weights) for weight in weights]
    return Preferred(*shares, aspects={"style": draw(st.floats(0, 1))}, text=draw(st.text()))


class Says:
    """A model that answers each request by a function of it, and keeps the requests."""

    name = "says"

    def __init__(self, answer):
        self._answer = answer
        self.requests = []

    def generate(self, requests):
        self.requests += requests
        reply = [self._answer(request) for request in requests]
        return [Answer(item) if isinstance(item, str) else item for item in reply]


def words(request):
    """The text of a request, pictures left out."""
    return "".join(part for part in request.parts if isinstance(part, str))
