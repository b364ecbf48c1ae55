"""`stopframe hashes disable, enable, note, confirm, deconfirm, release`: what people say of single entries."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from detector.cli.banks import BankArgument, EntryArgument, bank_faults, bank_folder, moment
from detector.cli.options import ConfigFile, read_config_quietly
from detector.cli.output import CommandFailed, note, run_async
from detector.config.units import Duration, Moment
from models.annotations import LONGEST_NOTE, EntryNote
from models.bank_store import annotate, notes
from models.evidence import Opinion
from models.opinions import set_opinion


def disable(
    bank: BankArgument,
    entry: EntryArgument,
    config: ConfigFile = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Such as 2027-01-31 or 2027-01-31T18:00:00Z.")
    ] = None,
    lasting: Annotated[str | None, typer.Option("--for", metavar="DURATION", help="Such as 30m, 12h or 7d.")] = None,
) -> None:
    """Let an entry match nothing, for a while or for good.

    In force within a second, in a running service too. Without --until or --for it stays so until it is enabled.
    """
    until_seconds = _end(until, lasting, time.time())
    _annotate(bank, entry, config, lambda noted: replace(noted, disabled_until_seconds=until_seconds))
    how_long = "until it is enabled" if math.isinf(until_seconds) else f"until {moment(until_seconds)}"
    note(f"bank {bank}: {entry} matches nothing {how_long}")


def enable(bank: BankArgument, entry: EntryArgument, config: ConfigFile = None) -> None:
    """Let a disabled entry match again."""
    before = _annotate(bank, entry, config, lambda noted: replace(noted, disabled_until_seconds=None))
    was = "matches again" if before.is_disabled(time.time()) else "was not disabled"
    note(f"bank {bank}: {entry} {was}")


def write_note(
    bank: BankArgument,
    entry: EntryArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT", help=f"Up to {LONGEST_NOTE} characters; '' removes it.")],
    config: ConfigFile = None,
) -> None:
    """Keep a remark with an entry."""
    _annotate(bank, entry, config, lambda noted: replace(noted, note=text))
    note(f"bank {bank}: the note of {entry} is {'written' if text else 'removed'}")


def confirm(bank: BankArgument, entry: EntryArgument, config: ConfigFile = None) -> None:
    """Say that an entry is rightly on the list.

    It is counted. A disputed entry is positive again, and one in quarantine is released.
    """
    with bank_faults():
        folder = bank_folder(read_config_quietly(config), bank)
        before = notes(folder).get(entry, EntryNote())
        annotate(
            folder,
            entry,
            lambda noted: replace(noted, confirmations=noted.confirmations + 1, quarantined=False),
        )
        changed = set_opinion(folder, entry, Opinion.POSITIVE, where=Opinion.DISPUTED)
    done = [
        *(["it is released from quarantine"] if before.quarantined else []),
        *(["it is no longer disputed"] if changed else []),
    ]
    note(f"bank {bank}: {entry} is confirmed{': ' if done else ''}{' and '.join(done)}")
    _tell_exchange(config, folder, entry, is_right=True)


def deconfirm(bank: BankArgument, entry: EntryArgument, config: ConfigFile = None) -> None:
    """Say that an entry is wrongly on the list.

    It is counted, and the entry is disputed: from now on it asks for reviews at most, until it is confirmed.
    """
    with bank_faults():
        folder = bank_folder(read_config_quietly(config), bank)
        annotate(folder, entry, lambda noted: replace(noted, objections=noted.objections + 1))
        set_opinion(folder, entry, Opinion.DISPUTED, where=Opinion.POSITIVE)
    note(f"bank {bank}: {entry} is disputed: it may ask for reviews, and cut nothing")
    _tell_exchange(config, folder, entry, is_right=False)


def release(bank: BankArgument, entry: EntryArgument, config: ConfigFile = None) -> None:
    """End the quarantine of an entry.

    It matched many streams at once; this does not say that it is right, as 'confirm' does, and it is counted anew.
    """
    before = _annotate(bank, entry, config, lambda noted: replace(noted, quarantined=False))
    note(f"bank {bank}: {entry} {'is released from quarantine' if before.quarantined else 'was not in quarantine'}")


def _tell_exchange(config: ConfigFile, folder: Path, entry: str, *, is_right: bool) -> None:
    """Keep the word for the exchange that fills the bank, if one does and can be told."""
    from detector.exchanges.records import SOURCE

    if not (folder / SOURCE).exists():
        return
    from detector.banks.judgements import keep_judgement
    from detector.store.faults import StoreUnavailable
    from detector.store.feedback import Verdict

    verdict = Verdict.CONFIRMED if is_right else Verdict.FALSE_MATCH
    settings = read_config_quietly(config)
    try:
        with bank_faults():
            exchange = run_async(keep_judgement(settings, folder, entry, verdict))
    except StoreUnavailable as error:
        note(f"it holds here; it could not be kept for the exchange ({error})")
        return
    if exchange is not None:
        note(f"kept for {exchange}: 'stopframe lists feedback' shows what it is, or would be, told")


def _annotate(bank: str, entry: str, config: ConfigFile, change: Callable[[EntryNote], EntryNote]) -> EntryNote:
    """Change what is noted about an entry; gives what was noted before."""
    with bank_faults():
        folder = bank_folder(read_config_quietly(config), bank)
        before = EntryNote()

        def changed(noted: EntryNote) -> EntryNote:
            nonlocal before
            before = noted
            return change(noted)

        annotate(folder, entry, changed)
    return before


def _end(until: str | None, lasting: str | None, now: float) -> float:
    """The end that is asked for, in Unix seconds; infinity for none."""
    if until is not None and lasting is not None:
        raise CommandFailed("--until and --for both say when it ends; give one of them")
    try:
        if lasting is not None:
            seconds = Duration.parse(lasting).seconds
            if seconds <= 0:
                raise CommandFailed("--for 0s ends at once; give such as 12h")
            return now + seconds
        if until is None:
            return math.inf
        end = Moment.parse(until).unix_seconds
    except ValueError as error:
        raise CommandFailed(str(error)) from None
    if end <= now:
        raise CommandFailed(f"--until {until} has passed; give a time to come, such as {moment(now + 86_400)}")
    return end
