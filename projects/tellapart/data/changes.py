"""What reading a data set has changed, dropped or ignored: counts per kind, for one summary."""

from __future__ import annotations


class Changes:
    """Counts per kind of change, with the ids of the first three items of each kind."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._first_items: dict[str, list[str]] = {}

    def add(self, kind: str, item: object) -> None:
        """Count one change.

        Args:
            kind: what was done, in the plural, such as "polygons with fewer than 3 points dropped".
            item: the id or name of what was changed.
        """
        self._counts[kind] = self._counts.get(kind, 0) + 1
        items = self._first_items.setdefault(kind, [])
        if len(items) < 3:
            items.append(str(item))

    def update(self, other: Changes) -> None:
        """Add all changes of ``other``."""
        for kind, count in other._counts.items():
            self._counts[kind] = self._counts.get(kind, 0) + count
            items = self._first_items.setdefault(kind, [])
            items += other._first_items[kind][: 3 - len(items)]

    def count(self, kind: str) -> int:
        """Return the number of changes of one kind."""
        return self._counts.get(kind, 0)

    def __bool__(self) -> bool:
        return bool(self._counts)

    def summary(self) -> str:
        """Return one line per kind: the kind, the count, and the first three ids."""
        lines = []
        for kind, count in self._counts.items():
            items = self._first_items[kind]
            more = f" and {count - len(items)} more" if count > len(items) else ""
            lines.append(f"{kind}: {count} ({', '.join(items)}{more})")
        return "\n".join(lines)
