"""`stopframe hashes list` and `stats`: what the banks hold, and what that may do."""

import math
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detector.cli.banks import bank_faults, bank_folder, banks_folder, counts, moment, tell_no_bank
from detector.cli.options import AsJson, ConfigFile, read_config_quietly
from detector.cli.output import CommandFailed, line, note, table
from detector.config.banks import BankKind, BankSection
from detector.config.config import Config
from models.annotations import EntryNote
from models.arrays import IndexCorrupt
from models.bank_store import BankStats, ListedEntry, bank_names, bank_stats, list_entries, notes

if TYPE_CHECKING:
    from detector.banks.budget import BankLoad

_LISTED_ENTRIES = 10_000


_HEADINGS = (
    "bank", "step", "entries", "hashes", "overlay", "opinions", "quarantine", "limits", "false/day", "MiB",
    "generation", "changed",
)  # fmt: skip


def list_banks(
    bank: Annotated[str | None, typer.Argument(metavar="[BANK]", help="Whose entries to list.")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """List the banks, or the entries of one.

    With what is said of each entry. Under state: disabled until a time, or quarantine for an entry that matched many
    streams at once, whose matches are reviews until 'stopframe hashes confirm' or 'release'.
    """
    settings = read_config_quietly(config)
    if bank is None:
        _show_stats(settings, as_json=as_json)
        return
    with bank_faults():
        folder = bank_folder(settings, bank)
        entries = list_entries(folder, _LISTED_ENTRIES + 1)
        noted = notes(folder)
    shown = entries[:_LISTED_ENTRIES]
    now = time.time()
    if as_json:
        for one in shown:
            line(_entry_row(one, noted.get(one.entry, EntryNote()), now))
    else:
        headings = ("entry", "hashes", "opinion", "state", "confirmed", "disputed", "note")
        table(headings, [_entry_cells(one, noted.get(one.entry, EntryNote()), now) for one in shown])
    if len(entries) > len(shown):
        note(f"only the first {_LISTED_ENTRIES} entries are shown; 'stopframe hashes stats' counts them all")


def stats(config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show what each bank holds, its limits, and false matches a day.

    The limits, in bits of 256, are those by which one frame may act: without a second test, by the weighted share, by
    the second hash. False matches are expected ones a day, by a pessimistic curve, at matching.streams streams.
    """
    _show_stats(read_config_quietly(config), as_json=as_json)


def _entry_row(one: ListedEntry, noted: EntryNote, now: float) -> dict[str, Any]:
    row: dict[str, Any] = {
        "entry": one.entry,
        "hashes": dict(one.rows),
        "opinions": [opinion.value for opinion in one.opinions],
    }
    if noted.is_disabled(now):
        row["disabled_until"] = _until(noted)
    if noted.quarantined:
        row["quarantined"] = True
    if noted.confirmations or noted.objections:
        row |= {"confirmations": noted.confirmations, "objections": noted.objections}
    if noted.note:
        row["note"] = noted.note
    return row


def _entry_cells(one: ListedEntry, noted: EntryNote, now: float) -> tuple[object, ...]:
    state = [
        *([f"disabled until {_until(noted) or 'enabled'}"] if noted.is_disabled(now) else []),
        *(["quarantine"] if noted.quarantined else []),
    ]
    return (
        one.entry,
        counts(one.rows),
        ", ".join(opinion.value for opinion in one.opinions),
        ", ".join(state) or None,
        noted.confirmations or None,
        noted.objections or None,
        " ".join(noted.note.split()) or None,
    )


def _until(noted: EntryNote) -> str | None:
    """The end of a disabled entry's time; None for one without an end."""
    end = noted.disabled_until_seconds
    return None if end is None or math.isinf(end) else moment(end)


def _show_stats(settings: Config, *, as_json: bool) -> None:
    from detector.banks.budget import bank_load, bank_sizes

    folder = banks_folder(settings)
    found, quarantined, damaged = [], {}, []
    with bank_faults():
        for name in bank_names(folder):
            try:
                one = bank_stats(folder / name)
                quarantined[name] = sum(each.quarantined for each in notes(folder / name).values())
                found.append(one)
            except (IndexCorrupt, FileNotFoundError) as error:
                damaged.append(f"bank {name} is not in use: {error}")
    sizes = bank_sizes(settings.state_dir)
    loads = {one.name: bank_load(settings, one.name, sizes) for one in found if one.name in sizes}
    if as_json:
        for one in found:
            limits = _limits_row(loads[one.name]) if one.name in loads else {}
            line(_stats_row(one, settings) | {"quarantined": quarantined[one.name]} | limits)
    elif found:
        table(_HEADINGS, [_stats_cells(one, settings, loads.get(one.name), quarantined[one.name]) for one in found])
    if damaged:
        raise CommandFailed("\n".join(damaged))
    if not found:
        note(tell_no_bank(folder))


def _stats_cells(one: BankStats, settings: Config, load: "BankLoad | None", quarantined: int) -> tuple[object, ...]:
    from detector.banks.budget import figure

    in_force = f"{load.radii.plain}/{load.radii.share}/{load.radii.second}" if load and load.rows else None
    if load and load.most_bits is not None:
        in_force = f"held to {max(load.most_bits, 0)}"
    return (
        one.name,
        _may(settings.bank(one.name)),
        one.entries,
        counts(one.rows),
        one.pending,
        counts(one.opinions),
        quarantined or None,
        in_force,
        figure(float(f"{load.expected_per_day:.2g}")) if load else None,
        f"{one.size_bytes / (1 << 20):.1f}",
        one.generation,
        moment(one.changed_at),
    )


def _may(bank: BankSection) -> str:
    """What a bank may do now, in a word or a few: its step, on which part of the streams, or that it rests."""
    rests_until = bank.disabled_until_seconds
    if rests_until is not None and rests_until > time.time():
        return f"rests until {moment(rests_until)}"
    if bank.kind is BankKind.NEGATIVE:
        return bank.kind.value
    return bank.step.word if bank.ratio.ratio >= 1 else f"{bank.step.word} on {100 * bank.ratio.ratio:g} %"


def _limits_row(load: "BankLoad") -> dict[str, Any]:
    radii = load.radii
    return {
        "limits": {
            "plain": radii.plain,
            "share": radii.share,
            "second_hash": radii.second,
            "review": radii.review,
        },
        "held_to": None if load.most_bits is None else max(load.most_bits, 0),
        "false_matches_per_day": load.expected_per_day,
    }


def _stats_row(one: BankStats, settings: Config) -> dict[str, Any]:
    bank = settings.bank(one.name)
    return {
        "bank": one.name,
        "kind": bank.kind.value,
        "step": bank.step.word,
        "ratio": bank.ratio.ratio,
        "disabled_until": None if bank.disabled_until_seconds is None else moment(bank.disabled_until_seconds),
        "entries": one.entries,
        "hashes": dict(one.rows),
        "overlay": one.pending,
        "opinions": dict(one.opinions),
        "size_bytes": one.size_bytes,
        "generation": one.generation,
        "changed_at": moment(one.changed_at),
    }
