"""Which list formats exist. A new one is a file beside this one and one line here.

Out of tree: an entry point in the group `stopframe.lists` whose object is a `ListFormat`.
"""

import importlib.metadata
from typing import Final

from models.lists.comma_separated import CsvList
from models.lists.contents import ListFormat
from models.lists.ncmec import NcmecList
from models.lists.plain import PlainList
from models.lists.stopncii import StopNciiList
from models.lists.tech_against_terrorism import TechAgainstTerrorismList
from models.lists.threatexchange import ThreatExchangeList
from models.lists.vpdq import VpdqList

ENTRY_POINT_GROUP: Final = "stopframe.lists"

FORMATS: Final[dict[str, ListFormat]] = {
    "plain": PlainList(),
    "csv": CsvList(),
    "vpdq": VpdqList(),
    "threatexchange": ThreatExchangeList(),
    "ncmec": NcmecList(),
    "stopncii": StopNciiList(),
    "tat": TechAgainstTerrorismList(),
}
"""What ships, by name. It wins over an entry point of the same name."""


def list_formats() -> dict[str, ListFormat]:
    """Every format by name: what ships, and what is installed beside it.

    Raises:
        TypeError: An entry point names something that is no list format.
    """
    found = dict(FORMATS)
    for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        if entry.name in found:
            continue
        form = entry.load()
        if not isinstance(form, ListFormat) or form.name != entry.name:
            raise TypeError(
                f"the entry point {entry.name} = {entry.value} of {ENTRY_POINT_GROUP} is no list format of that name;"
                " uninstall its package or mend it",
            )
        found[entry.name] = form
    return found
