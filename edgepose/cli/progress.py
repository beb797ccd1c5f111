"""A progress line on stderr, when that is a terminal."""

from __future__ import annotations

import sys
import time

__all__ = ["Progress"]

_WIDTH = 30
_INTERVAL = 0.1


class Progress:
    """Counts items; shows a bar, the rate and the time left. Silent where stderr is no terminal.

    Args:
        total: number of items, None where it is not known.
        unit: what the items are called.
        hidden: show nothing, because something else is printed on the terminal.
    """

    def __init__(self, total: int | None, unit: str, *, hidden: bool = False) -> None:
        self._total = total
        self._unit = unit
        self._done = self._errors = 0
        self._started = self._shown = time.monotonic()
        self._visible = sys.stderr.isatty() and not hidden

    def grow(self, count: int) -> None:
        """Expect so many items more."""
        self._total = (self._total or 0) + count

    def step(self, count: int = 1, errors: int = 0) -> None:
        """Count an item, or several, and how many of them are errors."""
        self._done += count
        self._errors += errors
        now = time.monotonic()
        if self._visible and now - self._shown >= _INTERVAL:
            self._shown = now
            self._write(self._line(now))

    def message(self, text: str) -> None:
        """Print a line on stderr without tearing the bar."""
        if self._visible:
            self._write("")
        print(text, file=sys.stderr)

    def close(self) -> None:
        """Remove the bar."""
        if self._visible:
            self._write("")

    def _write(self, line: str) -> None:
        sys.stderr.write(f"\r\x1b[K{line}")
        sys.stderr.flush()

    def _line(self, now: float) -> str:
        rate = self._done / max(now - self._started, 1e-9)
        failed = f"  {self._errors} failed" if self._errors else ""
        if not self._total:
            return f"{self._done} {self._unit}  {rate:.1f}/s{failed}"
        part = min(self._done / self._total, 1.0)
        bar = "#" * round(part * _WIDTH)
        left = max(self._total - self._done, 0) / max(rate, 1e-9)
        return (
            f"[{bar:.<{_WIDTH}}] {self._done}/{self._total} {self._unit}  {rate:.1f}/s  "
            f"{int(left // 60)}:{int(left % 60):02d} left{failed}"
        )
