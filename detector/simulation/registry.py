"""Which faults can be simulated, a line each, and how they are asked for: `FAULT[=AMOUNT][@BEGIN[-END]],...`."""

import re
from collections.abc import Iterable
from typing import Final

from detector.config.units import Duration
from detector.config.wording import nearest
from detector.simulation.broker_drop import BrokerDrop
from detector.simulation.clock_step import ClockStep
from detector.simulation.cutter_silent import CutterSilent
from detector.simulation.disk_full import DiskFull
from detector.simulation.fault import Fault
from detector.simulation.reading import DecodeError, PacketLoss
from detector.simulation.slow_model import SlowModel

FAULTS: Final[dict[str, type[Fault]]] = {
    kind.name: kind
    for kind in (
        PacketLoss,
        DecodeError,
        SlowModel,
        BrokerDrop,
        CutterSilent,
        DiskFull,
        ClockStep,
    )
}

_BEGINS: Final = Duration(10_000)
"""Faults begin a while after the start where nothing else is said, so that one sees the calm before."""

_FORM: Final = re.compile(r"(?P<name>[a-z-]+)(?:=(?P<amount>[^@=]+))?(?:@(?P<begins>[^@=-]+)(?:-(?P<ends>[^@=-]+))?)?")
_MOST_CHARACTERS: Final = 300


class NoSuchFault(ValueError):
    """Raised by `faults_of`: what is wrong with what was asked for; one sentence with the remedy."""


def faults_of(text: str) -> tuple[Fault, ...]:
    """Return the faults that a text asks for, which hold from here on. Raises `NoSuchFault`.

    `packet-loss=5%@60s-90s`: five per cent are lost from a minute after the start until a minute and a half after it.
    """
    if len(text) > _MOST_CHARACTERS:
        raise NoSuchFault("that is too long; simulate a few faults at a time")
    found = [_fault(part.strip()) for part in text.split(",")]
    names = [fault.name for fault in found]
    for name in names:
        if names.count(name) > 1:
            raise NoSuchFault(f"{name} is named twice; name each fault once")
    return tuple(found)


def _fault(text: str) -> Fault:
    form = _FORM.fullmatch(text)
    if form is None:
        raise NoSuchFault(f"{text!r} is no fault; write FAULT=AMOUNT@BEGIN-END, such as packet-loss=5%@60s-90s")
    kind = FAULTS.get(form["name"])
    if kind is None:
        raise NoSuchFault(f"{form['name']!r} cannot be simulated; {_meant(form['name'], FAULTS)}")
    try:
        begins = Duration.parse(form["begins"]) if form["begins"] else _BEGINS
        ends = Duration.parse(form["ends"]) if form["ends"] else None
        if ends is not None and ends <= begins:
            raise ValueError(f"it ends at {ends}, before it begins; write a later end")
        return kind(form["amount"] or kind.usual, begins, ends)
    except ValueError as error:
        raise NoSuchFault(f"{kind.name}: {error}") from None


def _meant(name: str, known: Iterable[str]) -> str:
    guess = nearest(name, known)
    return f"did you mean {guess}?" if guess else f"there are {', '.join(known)}"
