"""What an account's last frames voted, kept from one of its streams to the next. Pure."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace

from detector.policy import History

ACCOUNTS_KEPT = 20_000
"""Accounts whose votes are remembered; the one that was heard of longest ago makes room and is counted."""

Histories = Mapping[int, History]
"""By video track."""


def joined(before: History, own: History, most: int) -> tuple[History, History]:
    """Put what was voted before in front of a stream's own votes, as far as these leave room.

    Returns the joined history and what found no room: a stream with `most` votes of its own takes none, so that one
    that shows nothing cannot use up what another one voted.
    """
    votes, left = dict(own.votes), {}
    for name, past in before.votes.items():
        present = own.votes.get(name, ())
        room = most - len(present)
        if room > 0:
            votes[name] = (*past[-room:], *present)
        else:
            left[name] = past
    has_room = not own.sequences.votes
    sequences = before.sequences if has_room else own.sequences
    rest = History() if has_room else History(sequences=before.sequences)
    return replace(own, votes=votes, sequences=sequences), replace(rest, votes=left)


def stronger(one: History, other: History) -> History:
    """Of two streams of one account that have ended, what speaks more against it, class by class."""
    votes = dict(one.votes)
    for name, past in other.votes.items():
        if name not in votes or sum(past) > sum(votes[name]):
            votes[name] = past
    most = max(one.sequences, other.sequences, key=lambda each: sum(map(len, each.votes.values())))
    return History(votes, most)


class VoteBook:
    """Votes of streams that have ended, by account, until another stream of it takes them or they are old.

    Bounded; `forgotten_total` counts accounts that made room. Times are monotonic seconds.
    """

    def __init__(self, most: int = ACCOUNTS_KEPT) -> None:
        self.forgotten_total = 0
        self._most = most
        self._kept: OrderedDict[str, tuple[float, dict[int, History]]] = OrderedDict()

    def __len__(self) -> int:
        """How many accounts have votes here."""
        return len(self._kept)

    def give(self, account: str, histories: Histories, now: float) -> None:
        """A stream of `account` has ended."""
        voted = {track: one for track, one in histories.items() if _speaks(one)}
        if not voted:
            return
        _, before = self._kept.pop(account, (now, {}))
        for track, one in voted.items():
            before[track] = stronger(before[track], one) if track in before else one
        self._kept[account] = (now, before)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
            self.forgotten_total += 1

    def take(self, account: str, track: int, own: History, most: int, *, since: float) -> History:
        """A stream's own history, with what was kept of its account since then in front; what was taken is gone."""
        known = self._kept.get(account)
        if known is None:
            return own
        given_at, histories = known
        if given_at < since:
            del self._kept[account]
            return own
        before = histories.pop(track, None)
        if before is not None:
            own, left = joined(before, own, most)
            if _speaks(left):
                histories[track] = left
        if not histories:
            del self._kept[account]
        return own

    def forget(self, account: str) -> None:
        """What it voted was a mistake."""
        self._kept.pop(account, None)


def _speaks(history: History) -> bool:
    """Whether anything in it is a vote against its stream."""
    return bool(history.sequences.votes) or any(any(past) for past in history.votes.values())
