"""The messages that edgepose can give, as patterns: read from its sources."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import edgepose
from edgepose import errors

__all__ = ["Message", "messages"]

LEAST = 9
"""A message that has fewer letters of its own fits everything, and shows nothing."""


class Message:
    """One message: the module that gives it, and what it looks like."""

    def __init__(self, module: str, pattern: str) -> None:
        self.module = module
        self.pattern = re.compile(pattern.partition("\\\n")[0], re.DOTALL)  # tables follow some

    def __repr__(self) -> str:
        return f"{self.module}: {self.pattern.pattern}"


@functools.cache
def messages(*, own: bool = False) -> list[Message]:
    """Every text that is raised, made to be raised, or logged; `own`: our errors and warnings alone."""
    root = Path(edgepose.__file__).parent
    found = []
    for path in sorted(root.rglob("*.py")):
        module = path.relative_to(root).with_suffix("").as_posix()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            for text in _texts(node, module, own):
                pattern = _pattern(text)
                if len(re.findall(r"[a-z]", re.sub(r"\.\*|\\.", "", pattern))) >= LEAST:
                    found.append(Message(module, pattern))
    return found


def _texts(node: ast.AST, module: str, own: bool) -> list[ast.expr]:
    if isinstance(node, ast.Call) and node.args:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in ("warning", "warn"):
            return node.args[:1]
        if name in errors.__all__ or (name.endswith("Error") and not own):
            return node.args[-1:]
        if name == "_damaged":
            return [ast.JoinedStr([_ANY, *_parts(node.args[-1]), _ANY])]
    if isinstance(node, ast.Return) and module == "errors" and isinstance(node.value, ast.JoinedStr):
        return [node.value]
    return []


_ANY = ast.FormattedValue(ast.Constant(0), -1)


def _parts(text: ast.expr) -> list[ast.expr]:
    return text.values if isinstance(text, ast.JoinedStr) else [text]


def _pattern(text: ast.expr) -> str:
    if isinstance(text, ast.Constant) and isinstance(text.value, str):
        return ".*".join(re.escape(part) for part in re.split(r"%[sd]", text.value))
    if isinstance(text, ast.JoinedStr):
        return "".join(_pattern(part) for part in text.values)
    if isinstance(text, ast.BinOp) and isinstance(text.op, ast.Add):
        return _pattern(text.left) + _pattern(text.right)
    if isinstance(text, ast.IfExp):
        return f"(?:{_pattern(text.body)}|{_pattern(text.orelse)})"
    return ".*"
