"""What comes over MQTT reaches whoever listens to its topic, and nobody else."""

from hypothesis import example, given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from detector.alerts.mqtt_inbox import Inbox, Received, fits

_level = st.sampled_from(["a", "b", "", "$c"])
_topics = st.lists(_level, min_size=1, max_size=4).map("/".join)
_filters = st.tuples(st.lists(_level | st.just("+"), min_size=1, max_size=4), st.sampled_from([[], [], ["#"]])).map(
    lambda parts: "/".join([*parts[0], *parts[1]])
)


@given(_topics, _filters)
@example("a", "a/#")
@example("$c/a", "+/a")
def test_filters_fit_as_the_standard_says(topic: str, topic_filter: str) -> None:
    """Every filter fits what it fits for a client library that knows the standard."""
    assert fits(topic, topic_filter) == topic_matches_sub(topic_filter, topic)


def test_each_listener_hears_its_own_and_a_faulty_one_disturbs_nobody() -> None:
    """What nobody asked for is dropped; a listener that raises is counted."""
    inbox, heard = Inbox(), []

    def faulty(_: Received) -> None:
        raise KeyError

    inbox.add("p/cmd/n/+", faulty)
    inbox.add("p/#", lambda received: heard.append(received.topic))
    for topic in ("p/cmd/n/cut", "q/x", "p/x"):
        inbox.take(Received(topic, b"", 0.0))
    assert heard == ["p/cmd/n/cut", "p/x"]
    assert inbox.faults_total == 1
    assert inbox.missing(["p/#"]) == ["p/cmd/n/+"]


def test_a_denial_is_a_problem_until_it_is_over() -> None:
    """The sentence names the filter and the remedy."""
    inbox = Inbox()
    inbox.note("p/cmd/n/+", 0x87)
    assert inbox.problems() == [
        "the MQTT broker denies subscribing to p/cmd/n/+: let this node's user read that in its ACL"
    ]
    inbox.note("p/cmd/n/+", 1)
    assert inbox.problems() == []
