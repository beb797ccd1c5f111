"""What a server takes on at most."""

from __future__ import annotations

from dataclasses import dataclass

from edgepose._inputs import check_number

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """Limits of a server. What they allow bounds its memory: about ``queue * max_bytes`` for pictures that
    wait as files, ``2 * batch * 3 * max_pixels`` bytes for those that are decoded, and for each of the two
    that are just being decoded up to ``6 * max_pixels`` more.

    Attributes:
        queue: requests with a picture under way at once, from their first byte to their answer; further ones
            are answered 503.
        max_bytes: of the picture's file; a larger one is answered 413.
        max_pixels: of the decoded picture; a larger one is answered 413, undecoded.
        timeout: seconds from the first byte to the answer; then the request is answered 504 (408 where the
            picture had not arrived), and what waits of it is dropped.
        batch: pictures that go through the network together where several wait.
        viewers: browsers that watch the source at once.

    Raises:
        InvalidInputError: one is not a number above 0.
    """

    queue: int = 32
    max_bytes: int = 10_000_000
    max_pixels: int = 25_000_000
    timeout: float = 10.0
    batch: int = 4
    viewers: int = 8

    def __post_init__(self) -> None:
        for name in ("queue", "max_bytes", "max_pixels", "batch", "viewers"):
            check_number(name, getattr(self, name), 1, None, whole=True)
        check_number("timeout", self.timeout, 0.001, None)
