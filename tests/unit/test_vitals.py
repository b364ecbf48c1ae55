"""What health is made of: each part's sentences, and those of streams by how many of them are concerned."""

from hypothesis import given
from hypothesis import strategies as st

from detector.vitals import Sentences


@given(live=st.integers(0, 20), concerned=st.integers(0, 20))
def test_streams_turn_health_red_only_where_they_are_most(live: int, concerned: int) -> None:
    """One publisher in two or more cannot turn the node red; what most of them suffer is the node's own problem."""
    said = Sentences((), (), lambda: [(concerned, "late")], lambda: live)

    problems, notes = said.gathered()

    assert (problems, notes) == ((["late"], []) if concerned > live / 2 else ([], ["late"]))


def test_sentences_come_in_the_order_of_their_parts() -> None:
    """An operator reads the first problem in `systemctl status`: the order is the table's, streams come last."""
    said = Sentences(
        problems=(lambda: ["a", "b"], lambda: (), lambda: ["c"]),
        notes=(lambda: ["d"],),
        by_streams=lambda: [(2, "most"), (1, "few")],
        live_streams=lambda: 3,
    )

    assert said.gathered() == (["a", "b", "c", "most"], ["d", "few"])
