"""How much memory parts may still take on the host between two samples of it.

Owns one account for all models: the room at the last sample, what parts on their way may take of it, and what workers
have kept of theirs since. Bytes everywhere.
"""

from collections.abc import Hashable


class MemoryRoom:
    """The account. An owner is a model; its reservation covers all its parts at the worker together.

    `room` reaches to the level that is to be kept, `last` to the one up to which single rows still go; both None while
    nothing is known of the host, and then nothing may be asked.
    """

    __slots__ = ("_kept", "_reserved", "_taken", "last", "room")

    def __init__(self) -> None:
        self.room: int | None = None
        self.last: int | None = None
        self._reserved: dict[Hashable, int] = {}
        self._kept: dict[Hashable, int] = {}
        self._taken = 0  # the sum of both

    def set(self, room: int | None, last: int | None, grown: int = 0) -> None:
        """A new sample: what was left then, and what of the reservations was in use already.

        The latter is added back, or a part would count twice as soon as a sample falls into it. What was kept before
        is in the sample.
        """
        self.room = None if room is None else room + grown
        self.last = None if last is None else last + grown
        self._taken -= sum(self._kept.values())
        self._kept.clear()

    def left(self, owner: Hashable) -> int:
        """What the parts of this owner may take, all together: the room without what others have reserved."""
        assert self.room is not None, "asked for only while the host is known"
        return self.room - self._taken + self._reserved.get(owner, 0)

    def left_at_last(self, owner: Hashable) -> int:
        """The same, up to the last level."""
        assert self.last is not None, "asked for only while the host is known"
        return self.last - self._taken + self._reserved.get(owner, 0)

    def shared(self, owner: Hashable) -> bool:
        """Whether others have reserved anything."""
        return any(other != owner for other in self._reserved)

    def reserved(self, owner: Hashable) -> int:
        """What this owner has reserved."""
        return self._reserved.get(owner, 0)

    def reserve(self, owner: Hashable, size: int) -> None:
        """All that this owner has on its way may take so much, from now on and instead of what was said before."""
        self._taken += size - self._reserved.get(owner, 0)
        self._reserved[owner] = size

    def release(self, owner: Hashable) -> None:
        """Nothing of this owner is on its way any more. Its worker may have kept all of it until it is looked at."""
        size = self._reserved.pop(owner, 0)
        self._taken -= size
        self.keeps(owner, max(size, self._kept.get(owner, 0)))

    def keeps(self, owner: Hashable, size: int) -> None:
        """Its worker holds so much more than at the last sample, with nothing on its way."""
        self._taken += size - self._kept.get(owner, 0)
        self._kept[owner] = size

    def forget(self, owner: Hashable) -> None:
        """Its worker is gone, with all it held."""
        self._taken -= self._reserved.pop(owner, 0) + self._kept.pop(owner, 0)
