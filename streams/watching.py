"""A live source: every video track looked at as its sampler decides, within the CPU time that one stream may take."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from random import SystemRandom

from av.video.frame import VideoFrame

from streams.arrivals import Arrivals
from streams.cpu_budget import CpuBudget
from streams.emitter import Emitter
from streams.faults import SourceError
from streams.frame import Frame
from streams.gop import GopRing, RingBudget
from streams.job import UNPACED, Job, SourceKind
from streams.live_look import LiveLook
from streams.looked_at import LookedAt, counted_packets
from streams.messages import Adjust, EndCode, LookCloser, Order
from streams.sampling import Sampler
from streams.sender import HEARTBEAT_SECONDS, TOO_LATE, Counters
from streams.silence import PAUSE_SECONDS, Silence
from streams.source import AnyPacket, Source, VideoTrack, check_total
from streams.times import TrackTimes
from streams.whole_gop import Output

_BUDGET_SECONDS = 0.1
"""How often the CPU time used is looked at."""

_HEARD = frozenset({SourceKind.HLS, SourceKind.RTSP})
"""Where sound is not dropped unread: a playlist's renditions are fetched for it, and RTSP brings none.

Elsewhere sound alone proves, while video pauses, that the source lives; while video comes it proves nothing, and has
most of the packets.
"""

_COUNT_SECONDS = 0.4
"""How often what heartbeats tell is counted together: more often than they are sent."""

_LONGEST_REST_SECONDS = 0.25


class Watch:
    """One live source being watched, from its first packet to its end.

    `emitter` sends samples, `take_orders` gives what the service asked since.
    """

    def __init__(
        self, source: Source, job: Job, counters: Counters, emitter: Emitter, take_orders: Callable[[], list[Order]]
    ) -> None:
        self._source = source
        self._job = job
        self._counters = counters
        self._take_orders = take_orders
        self._arrivals = Arrivals(job, counters, source.tracks[0])
        self._ring_budget = RingBudget(job.ring_limit_bytes)
        self._tracks = {
            track.stream.index: _LiveTrack(track, job, self._ring_budget, emitter, self._work, self._arrivals.moment)
            for track in source.tracks
        }
        self._emitter = emitter
        self._is_paced = job.speed != UNPACED
        self._speed = job.speed if self._is_paced else 1.0
        self._budget = CpuBudget(job.cpu_limit * self._speed)
        self._budget_due_at = self._count_due_at = self._beat_due_at = -math.inf
        limit_seconds = math.inf if job.kind is SourceKind.FILE else job.read_timeout_seconds
        self._silence = Silence(counters, self._look_at_pause, self._finish, limit_seconds, stir=self._hear_again)
        self._may_be_deaf = job.kind not in _HEARD and limit_seconds > 2 * PAUSE_SECONDS
        self._is_deaf = False
        self._kept: list[tuple[AnyPacket, float]] = []
        self._waits_until = self._smallest_suspect = -math.inf
        self._follow_promise()

    @property
    def media_end_seconds(self) -> float:
        """The media clock at the end of what was read of a file, else NaN."""
        return self._arrivals.media_end_seconds

    def run(self) -> tuple[EndCode, str]:
        """Watch until the end and say why it ended."""
        with self._silence:
            end = self._take_all()
            self._finish()
        return end

    def _take_all(self) -> tuple[EndCode, str]:
        try:
            waits = self._silence.begin_wait, self._silence.end_wait
            for packet in counted_packets(self._source, self._job, self._counters, *waits):
                if self._silence.has_looked:
                    self._silence.check()
                    if self._silence.is_over:  # what was held back was looked at: what comes now cannot be decoded
                        return EndCode.TIMEOUT, TOO_LATE
                self._take(packet)
        except SourceError as error:
            return error.code, error.detail
        return EndCode.END_OF_STREAM, ""

    def _hear_again(self) -> None:
        if self._is_deaf:
            self._is_deaf = False
            self._source.hear_all(wanted=True)

    def _look_at_pause(self) -> None:
        self._take_kept()
        for track in self._tracks.values():
            track.look.pause()
        self._count()

    def _finish(self) -> None:
        self._take_kept()
        for track in self._tracks.values():
            track.look.finish()
        self._count()

    def _obey(self, order: Order) -> None:
        if isinstance(order, LookCloser):
            order = replace(order, until=self._arrivals.arrival(order.until))
        for track in self._tracks.values():
            track.obey(order)
        self._follow_promise()

    def _follow_promise(self) -> None:
        self._silence.pause_seconds = min(track.sampler.detect_within_seconds for track in self._tracks.values())

    def _take(self, packet: AnyPacket) -> None:
        """Take a packet that has just come, or let it wait where nothing depends on it yet."""
        now = self._arrivals.take(packet)
        if orders := self._take_orders():
            self._take_kept()
            for order in orders:
                self._obey(order)
        elif now < self._waits_until and packet.size < self._smallest_suspect and not packet.is_keyframe:
            self._kept.append((packet, now))
            return
        else:
            self._take_kept()
        self._look_at(packet, now)
        if len(self._tracks) == 1:
            (only,) = self._tracks.values()
            self._waits_until = only.look.may_wait_until(now) if not self._budget.is_spent else -math.inf
            self._smallest_suspect = only.sampler.smallest_suspect

    def _take_kept(self) -> None:
        kept, self._kept = self._kept, []
        for packet, arrived_at in kept:
            self._look_at(packet, arrived_at)

    def _look_at(self, packet: AnyPacket, now: float) -> None:
        track = self._tracks.get(packet.stream_index)
        if track is not None:
            self._counters.tracks_heard |= 1 << track.number
            track.take(packet, now, is_throttled=self._budget.is_spent)
            track.check_size()
            if self._may_be_deaf and not self._is_deaf:
                self._is_deaf = True
                self._source.hear_all(wanted=False)
        if track is None or len(self._tracks) > 1:
            self._take_beside(track, now)
        at = time.monotonic() if self._is_paced else now
        if at >= self._count_due_at:
            self._count_due_at = at + _COUNT_SECONDS / self._speed
            self._count()
        if at >= self._budget_due_at:
            self._budget_due_at = at + _BUDGET_SECONDS / self._speed
            self._keep_budget(at)
        if not self._is_paced and at >= self._beat_due_at:
            self._beat_due_at = at + HEARTBEAT_SECONDS
            self._emitter.beat()

    def _take_beside(self, track: "_LiveTrack | None", now: float) -> None:
        """Look at the tracks of which the latest packet is not one."""
        check_total((each.decoder.shown_pixels for each in self._tracks.values()), self._job.max_pixels)
        if self._job.kind is not SourceKind.FILE and not self._budget.is_spent:
            for other in self._tracks.values():
                if other is not track:
                    other.overhear(now, min(PAUSE_SECONDS, self._silence.pause_seconds))

    def _count(self) -> None:
        tracks, counters = self._tracks.values(), self._counters
        counters.keyframes = sum(track.look.keyframes for track in tracks)
        counters.keyframes_without_picture = sum(track.look.keyframes_without_picture for track in tracks)
        counters.decode_errors = sum(track.decoder.errors for track in tracks)
        counters.ring_bytes = self._ring_budget.held_bytes
        counters.ring_overflows = sum(track.ring.overflows for track in tracks)
        counters.bursts = sum(track.look.bursts for track in tracks)
        counters.spikes = sum(track.look.spikes for track in tracks)
        counters.spikes_blind = sum(track.sampler.is_spikes_blind for track in tracks)
        counters.charge(track.decoder.costs for track in tracks)
        counters.gop_seconds = max(track.sampler.gop_seconds for track in tracks)
        counters.time_skew_seconds = max((track.times.skew_seconds for track in tracks), key=abs)
        counters.time_jumps = sum(track.times.jumps for track in tracks)

    def _keep_budget(self, now: float) -> None:
        """Whoever wants more CPU time than his share is looked at less closely, and read more slowly if need be."""
        self._budget.note(now, time.process_time())
        self._counters.throttled_seconds = self._budget.throttled_seconds
        rest_seconds = min(self._budget.rest_seconds, _LONGEST_REST_SECONDS)
        if rest_seconds and self._is_paced:
            self._counters.working_since = math.nan
            time.sleep(rest_seconds)
            self._work()

    def _work(self) -> None:
        self._counters.working_since = time.monotonic()


class _LiveTrack(LookedAt):
    """A track with its sampler and its ring."""

    def __init__(
        self,
        track: VideoTrack,
        job: Job,
        ring_budget: RingBudget,
        emitter: Emitter,
        working: Callable[[], None],
        moment: Callable[[float], float],
    ) -> None:
        super().__init__(track, job)
        self.times = TrackTimes()
        self._heard_at = math.nan
        self._is_pausing = False
        self.sampler = Sampler(job.sampling, SystemRandom().random)
        self.ring: GopRing[AnyPacket] = GopRing(ring_budget)

        output: Output[VideoFrame, Frame] = Output(
            emit=lambda frame, at, reason: emitter.emit(self, frame, moment(at), reason),
            keep=lambda frame, at, reason: emitter.keep(self, frame, moment(at), reason),
            hand_over=emitter.hand_over,
            moved=lambda sample: replace(sample, is_moved=True),
        )
        self.look: LiveLook[AnyPacket, VideoFrame, Frame] = LiveLook(
            self.sampler, self.ring, self.decoder, output, working, self.decoder.costs.of
        )

    def take(self, packet: AnyPacket, now: float, *, is_throttled: bool) -> None:
        self._heard_at, self._is_pausing = now, False
        self.times.hear(now, self._track.seconds(packet.dts if packet.pts is None else packet.pts))
        if is_throttled:
            self.look.skim(packet, now)
        else:
            self.look.take(packet, now)

    def overhear(self, now: float, pause_seconds: float) -> None:
        """A packet of another track came. While only those come this one pauses, though its source is not silent."""
        if not self._is_pausing and now - self._heard_at >= pause_seconds:
            self._is_pausing = True
            self.look.pause()
        self.look.overhear(now)

    def obey(self, order: Order) -> None:
        match order:
            case LookCloser():
                self.sampler.look_closer(order.interval_seconds, order.until)
            case Adjust():
                self.sampler.adjust(order.sampling)
