from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from unified_reward.arena.queue import QueueConfig, VoteQueue
from unified_reward.core.errors import ConfigError


RATERS = ("ann", "bob", "eve")
PLAIN = {"gold_share": 0.0, "repeat_share": 0.0}


def queue_of(n_items, gold=(), **settings_):
    return VoteQueue([f"i{i}" for i in range(n_items)], gold, QueueConfig(**settings_))


def vote_all(queue, rater, now=0.0, limit=1000):
    """Vote until nothing is left; the questions in order."""
    turns = []
    while (turn := queue.next(rater, now)) and len(turns) < limit:
        queue.add(rater, turn.id)
        turns.append(turn)
    return turns


class VotingMachine(RuleBasedStateMachine):
    """Raters who vote, take back, go away and come back, in any order, against plain sets."""

    @initialize(n=st.integers(1, 6), votes=st.integers(1, 3), seed=st.integers(0, 9))
    def begin(self, n, votes, seed):
        self.needed = votes
        self.queue = queue_of(
            n, ("g0", "g1"), votes=votes, gold_share=0.3, repeat_share=0.3, repeat_gap=2, seed=seed
        )
        self.items = {f"i{i}" for i in range(n)}
        self.votes = {rater: [] for rater in RATERS}
        self.now = 0.0

    @rule(rater=st.sampled_from(RATERS))
    def vote(self, rater):
        turn = self.queue.next(rater, self.now)
        assert turn == self.queue.next(rater, self.now), "a reload shows the same"
        if turn:
            assert turn.id not in self.votes[rater]
            assert not turn.repeats or turn.repeats in self.votes[rater]
            self.queue.add(rater, turn.id)
            self.votes[rater].append(turn.id)

    @rule(rater=st.sampled_from(RATERS))
    def look_and_go_away(self, rater):
        self.queue.next(rater, self.now)

    @rule(rater=st.sampled_from(RATERS))
    def undo(self, rater):
        name = self.queue.last(rater)
        assert name == (self.votes[rater][-1] if self.votes[rater] else None)
        if name:
            self.queue.withdraw(rater, self.votes[rater].pop(), self.now)
            assert self.queue.next(rater, self.now).id == name

    @rule(seconds=st.sampled_from([1.0, 700.0]))
    def wait(self, seconds):
        self.now += seconds

    @invariant()
    def every_vote_counts_once(self):
        if not hasattr(self, "queue"):
            return
        counts = Counter(name for names in self.votes.values() for name in names)
        counted = sum(min(counts[item], self.needed) for item in self.items)
        for rater, names in self.votes.items():
            progress = self.queue.progress(rater)
            assert progress.votes == len(names) == len(set(names))
            assert progress.all_votes == counted
            assert progress.needed == self.needed * len(self.items)

    def teardown(self):
        """No item is lost: once all raters go on to the end, each has its votes."""
        if not hasattr(self, "queue"):
            return
        for rater in RATERS:
            self.votes[rater] += [turn.id for turn in vote_all(self.queue, rater, self.now)]
        counts = Counter(name for names in self.votes.values() for name in names)
        assert all(counts[item] >= self.needed for item in self.items)


VotingMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestVoting = VotingMachine.TestCase


def test_an_item_open_elsewhere_is_asked_last_and_nobody_waits_for_it():
    queue = queue_of(2, votes=1, **PLAIN)
    assert queue.next("ann", 0).id == "i0"
    assert [turn.id for turn in vote_all(queue, "bob")] == ["i1", "i0"]
    queue.add("ann", "i0")
    assert queue.progress("ann") == (1, 0, 2, 2), "the extra vote is kept, and counted once"


def test_a_lease_ends_so_that_the_order_of_the_file_counts_again():
    queue = queue_of(3, votes=1, lease_s=600, **PLAIN)
    queue.next("ann", 0)
    assert queue.following("bob", queue.next("bob", 599), 599).id == "i2"
    queue.add("bob", "i1")
    assert queue.next("bob", 601).id == "i0"


def test_items_get_their_first_votes_before_any_gets_its_second():
    queue = queue_of(3, votes=2, **PLAIN)
    queue.add("ann", "i0")
    queue.add("ann", "i1")
    assert [turn.id for turn in vote_all(queue, "bob")] == ["i2", "i0", "i1"]


def test_sides_differ_between_raters_and_items_and_never_between_looks():
    queue, again = (queue_of(200, votes=2, **PLAIN) for _ in range(2))
    orders = {
        rater: [queue.turn(rater, f"i{i}").order for i in range(200)] for rater in ("ann", "bob")
    }
    assert orders["ann"] == [again.turn("ann", f"i{i}").order for i in range(200)]
    # Standard deviation of 200 fair sides is 7; of the agreements of two raters as well.
    assert all(65 <= sides.count("ab") <= 135 for sides in orders.values())
    assert 65 <= sum(a == b for a, b in zip(*orders.values(), strict=True)) <= 135


def test_gold_items_and_repeats_come_at_their_shares_and_repeats_swap_sides():
    gold = [f"g{i}" for i in range(100)]
    queue = queue_of(1000, gold, votes=1, gold_share=0.1, repeat_share=0.2, repeat_gap=10)
    turns = vote_all(queue, "ann", limit=1000)
    places = {turn.id: place for place, turn in enumerate(turns)}
    repeats = [turn for turn in turns if turn.repeats]
    # Binomial standard deviations of 1000 slots: 9.5 and 12.6.
    assert 70 <= sum(turn.id in gold for turn in turns) <= 130
    assert 160 <= len(repeats) <= 240
    for repeat in repeats:
        first = turns[places[repeat.repeats]]
        assert places[repeat.id] - places[first.id] > 10
        assert {first.order, repeat.order} == {"ab", "ba"}
    assert queue.progress("ann").all_votes == 1000 - len(repeats) - sum(t.id in gold for t in turns)


def test_a_removed_item_is_asked_of_nobody_and_its_votes_stay():
    queue = queue_of(3, votes=1, **PLAIN)
    queue.add("ann", "i0")
    queue.next("bob", 0)
    queue.remove("i0")
    queue.remove("i1")
    assert [turn.id for turn in vote_all(queue, "bob")] == ["i2"]
    assert queue.turn("ann", "i0") is None
    assert queue.last("ann") is None, "what is asked no more cannot be taken back"
    assert queue.progress("ann") == (1, 0, 1, 1)


def test_a_vote_on_an_item_of_another_input_is_kept_apart():
    queue = queue_of(1, votes=1, **PLAIN)
    queue.add("ann", "elsewhere")
    assert queue.progress("ann") == (1, 1, 0, 1)
    assert queue.has_voted("ann", "elsewhere")


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"votes": 0}, "votes is 0"),
        ({"gold_share": 0.6}, "gold_share is 0.6"),
        ({"repeat_share": -1}, "repeat_share is -1"),
    ],
)
def test_impossible_settings_are_refused(wrong, reason):
    with pytest.raises(ConfigError, match=reason):
        QueueConfig(**wrong)
