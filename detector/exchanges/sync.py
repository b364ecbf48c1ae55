"""One sync of one list: fetch the whole chain, hold it against what may change, take it in, then move the checkpoint.

Whatever ends in between leaves the old list and the old checkpoint in force, or the new list and the old checkpoint:
what is then fetched again changes nothing.
"""

import asyncio
import contextlib
import shutil
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector.banks.intake import Intake, take_in
from detector.exchanges.canaries import named, suspicious
from detector.exchanges.changes import Change, DayChange, compare, rows_at, with_withdrawn
from detector.exchanges.client import (
    ChainBroken,
    Checkpoint,
    Clock,
    ExchangeClient,
    ExchangeFailed,
    NotAdopted,
    Page,
)
from detector.exchanges.paging import CLOCK_OFF_SECONDS
from detector.exchanges.records import (
    Outcome,
    Source,
    SyncState,
    read_source,
    read_state,
    turn,
    write_source,
    write_state,
)
from detector.exchanges.staging import Staged
from detector.private_folder import make_private
from models.arrays import IndexCorrupt
from models.bank_rows import EntryNames, name_keys
from models.bank_store import BankMissing, BankNameError, bank_stats, load_bank
from models.banks import Bank
from models.generations import POINTER, restore_pointer
from models.hashing.registry import hash_algorithms
from models.lists.contents import ListContents, PageUnreadable

_DAY_SECONDS: Final = 86_400.0

_PROBED: Final = 16
"""Rows of the new list that are looked up in it before it may stay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """What one list is held to. `harmless` are the folders of negative banks; `accepted` is what somebody let pass.

    `place` is the server that gives it, in whatever words, where checkpoints of another one mean nothing to it.
    """

    exchange: str
    kind: str
    collection: str
    place: str = ""
    bank_dir: Path
    state_dir: Path
    most_rows: int
    most_change: float
    harmless: tuple[Path, ...] = ()
    accepted: tuple[int, int] | None = None


class _Surplus(NotAdopted):
    def __init__(self, sentence: str, came: int, went: int) -> None:
        super().__init__(sentence)
        self.came = came
        self.went = went


async def sync(client: ExchangeClient, adoption: Adoption, clock: Clock) -> SyncState:
    """Bring a bank up to its list, and say how that went; the same is written down for whoever asks later.

    Nothing is written down where another process has its turn.
    """
    before = read_state(adoption.state_dir, adoption.exchange)
    before = before or SyncState(adoption.exchange, adoption.bank_dir.name)
    with turn(adoption.state_dir, adoption.exchange) as is_ours:
        if not is_ours:
            sentence = f"{adoption.exchange} is being synced already; wait until that has ended"
            return replace(before, outcome=Outcome.BUSY, sentence=sentence)
        state = replace(before, bank=adoption.bank_dir.name, tried_at=clock(), retry_at=0.0)
        try:
            state = await _sync(client, adoption, clock, state)
        except _Surplus as error:
            state = replace(state, outcome=Outcome.REFUSED, sentence=str(error), came=error.came, went=error.went)
        except NotAdopted as error:
            state = replace(state, outcome=Outcome.REFUSED, sentence=str(error), came=0, went=0)
        except ExchangeFailed as error:
            retry_at = clock() + error.retry_after_seconds if error.retry_after_seconds else 0.0
            state = replace(state, outcome=Outcome.FAILED, sentence=str(error), retry_at=retry_at)
        except (IndexCorrupt, BankNameError, PageUnreadable, ValueError) as error:
            state = replace(state, outcome=Outcome.FAILED, sentence=f"{adoption.exchange}: {error}")
        except OSError as error:
            why = f"{adoption.exchange}: the list cannot be written ({error.strerror}); free space, or see who owns it"
            state = replace(state, outcome=Outcome.FAILED, sentence=why)
        failures = 0 if state.outcome == Outcome.SYNCED else before.failures + 1
        state = replace(state, failures=failures)
        try:
            write_state(adoption.state_dir, state)
        except OSError as error:
            why = f"{adoption.exchange}: how it went cannot be written down ({error.strerror}); free space"
            state = replace(state, outcome=Outcome.FAILED, sentence=why, failures=before.failures + 1)
        return state


async def _sync(client: ExchangeClient, adoption: Adoption, clock: Clock, state: SyncState) -> SyncState:
    source = _own_source(adoption, clock())
    checkpoint = usable(source.checkpoint, client.refetch_after_seconds, clock())
    try:
        staged, last = await _fetch(client, checkpoint, adoption)
    except ChainBroken:
        staged, last = await _fetch(client, checkpoint, adoption)
    contents = await asyncio.to_thread(staged.contents)
    taken = await asyncio.to_thread(_adopt, adoption, source, contents, last, int(clock() // _DAY_SECONDS))
    assert last.checkpoint is not None
    version = last.checkpoint.version
    write_source(adoption.bank_dir, replace(source, checkpoint=last.checkpoint, usual=taken.usual, version=version))
    return replace(
        state,
        outcome=Outcome.SYNCED,
        sentence="",
        came=0,
        went=0,
        fresh_at=clock(),
        version=version,
        rows=taken.rows,
        added=state.added + taken.intake.added,
        changed=state.changed + taken.intake.changed,
        withdrawn=state.withdrawn + taken.intake.withdrawn,
        bad=state.bad + contents.bad.count,
        quarantined=state.quarantined + taken.quarantined,
        left_out=contents.left_out if last.is_everything else state.left_out,
    )


def usable(checkpoint: Checkpoint | None, refetch_after_seconds: float | None, now: float) -> Checkpoint | None:
    """The checkpoint to go on from; None where everything has to be fetched again."""
    if checkpoint is None or checkpoint.at_seconds > now + CLOCK_OFF_SECONDS:
        return None
    is_old = refetch_after_seconds is not None and now - checkpoint.at_seconds > refetch_after_seconds
    return None if is_old else checkpoint


def _own_source(adoption: Adoption, now: float) -> Source:
    """The record of the bank; a new one where there is no bank yet, or where the exchange's collection is another."""
    new = Source(adoption.exchange, adoption.kind, adoption.collection, place=adoption.place, since=now)
    known = read_source(adoption.bank_dir)
    bank = adoption.bank_dir.name
    if known is None:
        if (adoption.bank_dir / POINTER).is_file():
            raise NotAdopted(
                f"bank {bank} is there already and was not filled by {adoption.exchange}, which would take its rows "
                f"for withdrawn; name another bank, or remove the folder {adoption.bank_dir}"
            )
        return new
    if known.exchange != adoption.exchange:
        raise NotAdopted(
            f"bank {bank} is filled by {known.exchange}; name another bank for {adoption.exchange}, or remove the "
            f"folder {adoption.bank_dir}"
        )
    same = (known.kind, known.collection, known.place) == (adoption.kind, adoption.collection, adoption.place)
    return known if same else new


async def _fetch(client: ExchangeClient, checkpoint: Checkpoint | None, adoption: Adoption) -> tuple[Staged, Page]:
    staged = Staged(adoption.exchange, adoption.most_rows)
    async with aclosing(client.fetch(checkpoint)) as pages:
        async for page in pages:
            staged.take(page.contents)
            if page.is_last:
                return staged, page
    raise ExchangeFailed(f"{adoption.exchange} ended its list in the middle; it is tried again")


@dataclass(frozen=True, slots=True)
class _Taken:
    intake: Intake
    rows: int
    quarantined: int
    usual: tuple[DayChange, ...]


def _adopt(adoption: Adoption, source: Source, contents: ListContents, last: Page, today: int) -> _Taken:
    """Take a chain in, if it may be; what it would do is known before anything of it counts."""
    contents = _of_known_kinds(contents)
    if last.is_everything:  # what an entry had and the list does not name is gone as well
        contents = replace(contents, is_whole=True)
    bank = _bank(adoption.bank_dir)
    compared = compare(bank, contents, is_everything=last.is_everything)
    contents = with_withdrawn(contents, compared.left_out)
    _refuse_surplus(adoption, source, compared.change, contents, today)
    harmful = _quarantined(adoption, contents, compared.new_rows)
    pointer = adoption.bank_dir / POINTER
    before = pointer.read_bytes() if pointer.is_file() else None
    make_private(adoption.bank_dir)  # an empty list has a checkpoint, too
    assert last.checkpoint is not None
    # Before it is in force: the first alert of a new list names it.
    write_source(adoption.bank_dir, replace(source, version=last.checkpoint.version))
    try:
        intake = take_in(adoption.bank_dir, contents, stem=adoption.exchange, quarantined=harmful)
    except BaseException:
        with contextlib.suppress(OSError):
            write_source(adoption.bank_dir, source)
        raise
    _keep_or_restore(adoption, source, contents, before, intake)
    usual = compared.change.noted(source.usual, today, is_accepted=compared.change.is_within(adoption.accepted))
    rows = sum(bank_stats(adoption.bank_dir).rows.values()) if pointer.is_file() else 0
    return _Taken(intake, rows, len(harmful), usual)


def _of_known_kinds(contents: ListContents) -> ListContents:
    known = hash_algorithms()
    return replace(contents, rows={signal: rows for signal, rows in contents.rows.items() if signal in known})


def _bank(bank_dir: Path) -> Bank | None:
    try:
        return load_bank(bank_dir)
    except BankMissing:
        return None


def _refuse_surplus(adoption: Adoption, source: Source, change: Change, contents: ListContents, today: int) -> None:
    is_too_long = change.came > 0 and change.rows_after > adoption.most_rows
    is_too_much = change.exceeds(source.usual, adoption.most_change, today) and not change.is_within(adoption.accepted)
    if not is_too_long and not is_too_much:
        return
    rest = "nothing of it was taken"
    withdrawn = _withdrawn_alone(contents)
    if withdrawn and not change.takes_too_much(source.usual, adoption.most_change, today):
        # Somebody's word is asked about what comes; what people took back is not to wait for it.
        intake = take_in(adoption.bank_dir, ListContents(withdrawn=withdrawn), stem=adoption.exchange)
        gone = Change(change.held, 0, intake.withdrawn).noted(source.usual, today, is_accepted=False)
        write_source(adoption.bank_dir, replace(source, usual=gone))
        rest = "nothing of it was taken but what was withdrawn"
    if is_too_long:
        raise NotAdopted(
            f"{adoption.exchange} would come to {change.rows_after:,} rows, more than most_rows "
            f"({adoption.most_rows:,}); {rest}: raise that if the exchange says it is right"
        )
    raise _Surplus(
        f"{adoption.exchange} would bring {change.came:,} rows and take {change.went:,} from its {change.held:,}, "
        f"with what else changed today more than {adoption.most_change:.0%} beyond what is usual in a day; {rest}: "
        f"see that it is right, then 'stopframe lists accept {adoption.exchange}'",
        change.came,
        change.went,
    )


def _withdrawn_alone(contents: ListContents) -> Sequence[str]:
    """The entries that a list takes back and does not list again."""
    if not contents.withdrawn:
        return ()
    names = EntryNames.of(contents.withdrawn)
    keys = name_keys(names)
    is_listed = np.zeros(len(names), dtype=np.bool_)
    for rows in contents.rows.values():
        is_listed |= np.isin(keys, name_keys(EntryNames.of(rows.entries)))
    return tuple(names.taken(np.flatnonzero(~is_listed)))


def _quarantined(
    adoption: Adoption, contents: ListContents, new_rows: Mapping[str, NDArray[np.int64]]
) -> tuple[str, ...]:
    """The entries of which a new row matches what is harmless."""
    chosen = {signal: rows_at(contents.rows[signal], places) for signal, places in new_rows.items() if len(places)}
    found = suspicious({signal: hashes for signal, (hashes, _) in chosen.items()}, _harmless(adoption.harmless))
    names = [chosen[signal][1].taken(np.flatnonzero(is_bad)) for signal, is_bad in found.items()]
    return tuple(dict.fromkeys(name for some in names for name in some))


def _harmless(folders: Sequence[Path]) -> dict[str, list[NDArray[np.uint8]]]:
    held: dict[str, list[NDArray[np.uint8]]] = {}
    for folder in folders:
        bank = _bank(folder)
        for algorithm in bank.algorithms if bank is not None else ():
            rows = bank.rows(algorithm) if bank is not None else None
            if rows is not None and len(rows):
                held.setdefault(algorithm, []).append(rows.hashes)
    return held


def _keep_or_restore(
    adoption: Adoption, source: Source, contents: ListContents, before: bytes | None, intake: Intake
) -> None:
    """Open what is in force now, and go back to what was where it does not load or does not hold what was taken in."""
    if not intake.generation:
        return
    try:
        bank = load_bank(adoption.bank_dir)
        missing = _missing(bank, contents)
        if not missing:
            return
        why = f"entries are missing in it ({named(missing)})"
    except (IndexCorrupt, OSError) as error:
        why = str(error)
    if before is None:
        shutil.rmtree(adoption.bank_dir, ignore_errors=True)
    else:
        restore_pointer(adoption.bank_dir, before, intake.generation)
        write_source(adoption.bank_dir, source)
    raise ExchangeFailed(f"the new list of {adoption.exchange} did not load, and the old one is in force again: {why}")


def _missing(bank: Bank, contents: ListContents) -> list[str]:
    missing: list[str] = []
    for signal, rows in contents.rows.items():
        held = bank.rows(signal)
        places = np.linspace(0, len(rows) - 1, min(_PROBED, len(rows))).astype(np.int64)
        for place in places.tolist():
            name = rows.entries[place]
            numbers = held.names.find(name) if held is not None else np.zeros(0, np.int64)
            if held is None or not np.any(np.all(held.hashes[numbers] == rows.hashes[place], axis=1)):
                missing.append(name)
    return missing
