"""Whether an ingest server really asks our hook before it lets publishers in.

A key that is not asked for cannot be denied.
"""

from collections import OrderedDict
from collections.abc import Iterable

from detector.events import StreamKey

_KEYS_KEPT = 16_384


class HookWatch:
    """Compares the keys that the hook was asked for with the publishers that the server lists.

    Publishers that were live at the first listing may have come before we did and say nothing.
    """

    def __init__(self) -> None:
        self.unasked_total = 0
        """Publishers who got in without the hook being asked."""
        self._asked: OrderedDict[StreamKey, None] = OrderedDict()
        self._known: set[StreamKey] | None = None
        self._unasked: set[StreamKey] = set()

    def asked(self, key: StreamKey) -> None:
        """The hook was asked for `key`."""
        self._asked[key] = None
        self._asked.move_to_end(key)
        self._unasked.discard(key)
        while len(self._asked) > _KEYS_KEPT:
            self._asked.popitem(last=False)

    def listed(self, keys: Iterable[StreamKey]) -> None:
        """The server lists publishers of `keys`, and of no others."""
        present = set(keys)
        if self._known is not None:
            fresh = {key for key in present - self._known if key not in self._asked}
            self.unasked_total += len(fresh)
            self._unasked |= fresh
        self._unasked &= present
        self._known = present

    @property
    def unasked(self) -> int:
        """Live publishers who got in without the hook being asked."""
        return len(self._unasked)
