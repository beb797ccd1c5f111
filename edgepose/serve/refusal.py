"""Answers other than success."""

from __future__ import annotations

import json
from collections.abc import Mapping

__all__ = ["Refusal"]


class Refusal(Exception):
    """A request that is not served.

    Attributes:
        status: of HTTP.
        code: a short name for programs.
        message: what failed; what was found; what to do.
        headers: to be sent with it.
    """

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})

    def to_json(self) -> bytes:
        """The body of the answer."""
        return json.dumps({"error": self.code, "message": self.message}, ensure_ascii=False).encode()
