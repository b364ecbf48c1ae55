"""What is wrong with a publisher's times, told in the log and counted."""

import structlog

from detector.metrics import Metrics
from detector.publisher_times import PublisherTimes
from streams.wire import Heartbeat

log = structlog.get_logger()


def tell_times(stream_id: str, times: PublisherTimes, beat: Heartbeat, metrics: Metrics) -> None:
    """Note a heartbeat, and tell what is due to be told of one stream's times."""
    fault = times.beat(beat)
    if fault is None:
        return
    metrics.time_fault(fault)
    log.warning(
        "stream.time_skew",
        stream=stream_id,
        fault=fault.value,
        skew_seconds=round(times.skew_seconds, 1),
        jumps=times.jumps,
    )
