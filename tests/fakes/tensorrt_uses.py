"""What the sources use of TensorRT, read from their text, so that lines no test runs are seen too."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["FILES", "RECORD", "VERSIONS", "Use", "members", "problems", "uses_in"]

ROOT = Path(__file__).parents[2]
RECORD = json.loads(Path(__file__).with_name("tensorrt_names.json").read_text())
VERSIONS: tuple[str, ...] = tuple(RECORD["versions"])
MODULE = "tensorrt"

# What holds objects of TensorRT: by file, expression or function:expression, the class.
FILES: dict[str, dict[str, str]] = {
    "edgepose/backends/tensorrt_log.py": {"trt": MODULE},
    "edgepose/backends/tensorrt.py": {
        "trt": MODULE,
        "_check:engine": "ICudaEngine",
        "engine.engine": "ICudaEngine",
        "self._runtime": "Runtime",
        "context": "IExecutionContext",
        "self._context": "IExecutionContext",
    },
    "edgepose/builder/tensorrt.py": {
        "trt": MODULE,
        "self._trt": MODULE,
        "self._builder": "Builder",
        "self._parser": "OnnxParser",
        "config": "IBuilderConfig",
        "config:profile": "IOptimizationProfile",
        "_save_cache:cache": "ITimingCache",
        "kinds": "NetworkDefinitionCreationFlag",
        "levels": "HardwareCompatibilityLevel",
        "pools": "MemoryPoolType",
    },
}
# Functions that run only for versions that have what they use; calls of them stand behind `hasattr`.
GUARDED = {"_monitor_class"}
# Where names of values are looked up as text: what versions lack stands in these alone.
FALLBACKS = {"_typing", "_preview_features", "HARDWARE"}
ENUMS = (
    "BuilderFlag", "NetworkDefinitionCreationFlag", "HardwareCompatibilityLevel", "PreviewFeature",
    "DataType", "ILogger",
)  # fmt: skip
NOT_TENSORRT = {"XDG_CACHE_HOME"}


@dataclass(frozen=True)
class Use:
    """A name that a source takes from TensorRT.

    Attributes:
        owner: the class, or `MODULE`.
        name: of the member.
        line: where.
        guarded: whether it is only used where it was found to be there.
        arguments: count of positional ones and names of the others, of a call; None: no call, or unknown.
    """

    owner: str
    name: str
    line: int
    guarded: bool
    arguments: tuple[int, tuple[str, ...]] | None = None


def members(owner: str) -> dict[str, list[int]]:
    """Names of a class, or of the module, with the places in `VERSIONS` that have each."""
    if owner == MODULE:
        classes = {name: entry["in"] for name, entry in RECORD["classes"].items()}
        return {**RECORD["module"], **classes}
    return {name: entry[0] for name, entry in RECORD["classes"][owner]["members"].items()}


def uses_in(text: str, holders: dict[str, str]) -> Iterator[Use | str]:
    """All uses in a source; a text for what looks like one and is not known in `FILES`."""
    tree = ast.parse(text)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    recorded = {name for owner in RECORD["classes"] for name in members(owner)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        above = list(_above(node, parents))
        functions = [item.name for item in above if isinstance(item, ast.FunctionDef)]
        owner = _owner(node.value, functions, holders)
        if owner is None:
            if "_" in node.attr.strip("_") and node.attr in recorded:
                yield f"line {node.lineno}: {ast.unparse(node)} may be of TensorRT; name its class in FILES"
            continue
        parent = parents[node]
        arguments = None
        called = isinstance(parent, ast.Call) and parent.func is node
        if called and not any(isinstance(argument, ast.Starred) for argument in parent.args):
            arguments = len(parent.args), tuple(str(item.arg) for item in parent.keywords)
        yield Use(owner, node.attr, node.lineno, _is_guarded(above, functions), arguments)


def problems(text: str, holders: dict[str, str]) -> list[str]:
    """What in a source does not fit the recorded names of every version."""
    found = []
    for use in uses_in(text, holders):
        if isinstance(use, str):
            found.append(use)
        if isinstance(use, str) or use.name in ("__init__", "__name__"):  # see `_overrides`
            continue
        where = f"line {use.line}: {use.owner}.{use.name}"
        places = members(use.owner).get(use.name)
        if places is None:
            found.append(f"{where} is in no version")
            continue
        lacking = [version for place, version in enumerate(VERSIONS) if place not in places]
        lacking = [version for version in lacking if _has(use.owner, version)]
        if lacking and not use.guarded:
            found.append(f"{where} is not in {', '.join(lacking)}, and is not guarded")
        if use.arguments is not None and not _fits(use):
            found.append(f"{where} does not take {use.arguments}")
    return [*found, *_text_problems(text), *_method_problems(text)]


def _owner(value: ast.expr, functions: list[str], holders: dict[str, str]) -> str | None:
    """The class of an expression."""
    text = ast.unparse(value)
    for key in (*(f"{function}:{text}" for function in functions), text):
        if key in holders:
            return holders[key]
    if isinstance(value, ast.Attribute):  # trt.BuilderFlag, trt.ILogger.Severity
        above = _owner(value.value, functions, holders)
        if above == MODULE and value.attr in RECORD["classes"]:
            return value.attr
    return None


def _above(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> Iterator[ast.AST]:
    while node in parents:
        node = parents[node]
        yield node


def _is_guarded(above: list[ast.AST], functions: list[str]) -> bool:
    tests = [node.test for node in above if isinstance(node, (ast.If, ast.IfExp))]
    return bool(GUARDED & set(functions)) or any("hasattr(" in ast.unparse(test) for test in tests)


def _has(owner: str, version: str) -> bool:
    """Whether a version has the class: where it has not, its members need no word of their own."""
    return owner == MODULE or VERSIONS.index(version) in RECORD["classes"][owner]["in"]


def _fits(use: Use) -> bool:
    if use.owner == MODULE:
        overloads = RECORD["classes"].get(use.name, {}).get("init", [])
    else:
        entry = RECORD["classes"][use.owner]["members"][use.name]
        overloads = [signature for signature, _ in entry[1]] if len(entry) > 1 else []
    if not overloads:
        return use.owner == MODULE  # a function without a recorded signature; else no method
    count, names = use.arguments or (0, ())
    for wanted in overloads:
        bare = [argument.rstrip("=") for argument in wanted]
        given = {*bare[:count], *names}
        required = {argument for argument in wanted if not argument.endswith("=")}
        if count <= len(bare) and required <= given <= set(bare) and not set(bare[:count]) & set(names):
            return True
    return False


def _text_problems(text: str) -> Iterator[str]:
    """Names of enum values that are written as text."""
    tree = ast.parse(text)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        name = node.value
        if not (len(name) > 2 and name.isupper() and name.replace("_", "").isalnum()) or name in NOT_TENSORRT:
            continue
        places = [members(owner)[name] for owner in ENUMS if name in members(owner)]
        if not places:
            yield f"line {node.lineno}: {name!r} is a value of no enum"
            continue
        homes = set()
        for item in _above(node, parents):
            if isinstance(item, ast.FunctionDef):
                homes.add(item.name)
            if isinstance(item, ast.Assign):
                homes.update(ast.unparse(target) for target in item.targets)
        if not any(len(found) == len(VERSIONS) for found in places) and not homes & FALLBACKS:
            yield f"line {node.lineno}: {name!r} is not in every version, and stands outside of {FALLBACKS}"


def _method_problems(text: str) -> Iterator[str]:
    """Methods that TensorRT calls must take the recorded arguments; guarded functions are called guarded."""
    tree = ast.parse(text)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            owners = [ast.unparse(base).removeprefix("trt.") for base in node.bases]
            for owner in set(owners) & RECORD["classes"].keys():
                yield from _overrides(node, owner)
        called = isinstance(node, ast.Call) and ast.unparse(node.func) in GUARDED
        if called and not _is_guarded(list(_above(node, parents)), []):
            yield f"line {node.lineno}: {ast.unparse(node)} stands behind no hasattr"


def _overrides(node: ast.ClassDef, owner: str) -> Iterator[str]:
    methods = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
    calls_init = f"trt.{owner}.__init__(self)"
    if "__init__" not in methods or calls_init not in ast.unparse(methods["__init__"]):
        yield f"line {node.lineno}: {node.name}.__init__ does not call {calls_init}"
    for name, entry in RECORD["classes"][owner]["members"].items():
        if len(entry) < 2:
            continue
        wanted = entry[1][0][0]
        given: Any = [item.arg for item in methods[name].args.args[1:]] if name in methods else None
        if given != wanted:
            yield f"line {node.lineno}: {node.name}.{name} takes {given}, TensorRT gives {wanted}"
