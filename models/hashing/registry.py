"""Which hash algorithms exist. A new one is a file beside this one and one line here.

Out of tree: an entry point in the group `stopframe.hashes` whose object is a `HashAlgorithm`.
"""

from typing import Final

from models.hashing.algorithm import HashAlgorithm
from models.hashing.imagehashes import DHASH, PHASH, WHASH
from models.hashing.pdq import Pdq
from models.hashing.plugins import installed

ALGORITHMS: Final[dict[str, HashAlgorithm]] = {
    "pdq": Pdq(),
    "phash": PHASH,
    "dhash": DHASH,
    "whash": WHASH,
}
"""What ships, by signal type. It wins over an entry point of the same name."""


def hash_algorithms() -> dict[str, HashAlgorithm]:
    """Every algorithm by signal type: what ships, and what is installed beside it and keeps its promises."""
    return {**ALGORITHMS, **installed(frozenset(ALGORITHMS))[0]}


def refused_algorithms() -> list[str]:
    """One sentence for each installed algorithm that is not in use."""
    return list(installed(frozenset(ALGORITHMS))[1].values())


def may_cut_alone(name: str) -> bool:
    """Whether an algorithm's own word is that one match of it may cut; shorter and unknown hashes never may."""
    if name == "pdq":
        return True
    plugin = installed(frozenset(ALGORITHMS))[0].get(name)
    return plugin is not None and plugin.may_cut
