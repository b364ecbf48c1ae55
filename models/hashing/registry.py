"""Which hash algorithms exist. A new one is a file beside this one and one line here.

Out of tree: an entry point in the group `stopframe.hashes` whose object is a `HashAlgorithm`.
"""

import importlib.metadata
from typing import Final

from models.hashing.algorithm import HashAlgorithm
from models.hashing.imagehashes import DHASH, PHASH, WHASH
from models.hashing.pdq import Pdq

ENTRY_POINT_GROUP: Final = "stopframe.hashes"

ALGORITHMS: Final[dict[str, HashAlgorithm]] = {
    "pdq": Pdq(),
    "phash": PHASH,
    "dhash": DHASH,
    "whash": WHASH,
}
"""What ships, by signal type. It wins over an entry point of the same name."""


def hash_algorithms() -> dict[str, HashAlgorithm]:
    """Every algorithm by signal type: what ships, and what is installed beside it.

    Raises:
        TypeError: An entry point names something that is no hash algorithm.
    """
    found = dict(ALGORITHMS)
    for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        if entry.name in found:
            continue
        algorithm = entry.load()
        if not isinstance(algorithm, HashAlgorithm) or algorithm.bits % 64 != 0 or algorithm.name != entry.name:
            raise TypeError(
                f"the entry point {entry.name} = {entry.value} of {ENTRY_POINT_GROUP} is no hash algorithm of that name"
                " with whole 64-bit words; uninstall its package or mend it",
            )
        found[entry.name] = algorithm
    return found
