"""What the site adds to the pages of this folder: the command line's options, the public names, model cards."""

from __future__ import annotations

import argparse
import inspect
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import edgepose
from edgepose.cli import make_parser

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = "<!-- commands: written from the parsers -->"
NAMES = "<!-- names: written from edgepose.__all__ -->"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside of this folder: the changelog, and the packaged models' cards."""
    files.append(File.generated(config, "changelog.md", abs_src_path=str(ROOT / "CHANGELOG.md")))
    for path in sorted((ROOT / "edgepose" / "models").iterdir()):
        if path.suffix in (".md", ".png"):
            files.append(File.generated(config, f"models/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Fill the places of generated text."""
    if COMMANDS in markdown:
        markdown = markdown.replace(COMMANDS, command_reference())
    if NAMES in markdown:
        markdown = markdown.replace(NAMES, name_table())
    return markdown


def command_reference() -> str:
    """A section for each verb, from its parser."""
    (verbs,) = (action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction))
    return "\n".join(_verb_section(name, parser) for name, parser in verbs.choices.items())


def name_table() -> str:
    """A row for each public name: its first sentence, and the way to its description."""
    rows = ["| name | |", "|---|---|"]
    for name in edgepose.__all__:
        value = getattr(edgepose, name)
        if isinstance(value, str):
            about = "The version of the package."
        elif isinstance(value, edgepose.Skeleton):
            about = f"The skeleton of {len(value)} joints: {', '.join(value.joints)}."
        else:
            about = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
        rows.append(f"| [`{name}`][edgepose.{name}] | {_plain(about)} |")
    return "\n".join(rows)


def _verb_section(name: str, parser: argparse.ArgumentParser) -> str:
    parts = [f"## edgepose {name}", "", parser.description or "", ""]
    usage = re.sub(r"^usage: ", "", parser.format_usage()).rstrip()
    parts += ["```text", usage, "```", ""]
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        if not actions:
            continue
        if group.title not in ("positional arguments", "options"):
            parts += [f"**{(group.title or '').capitalize()}**", ""]
        parts += [line for action in actions for line in _option(parser, name, action)]
    return "\n".join(parts)


def _option(parser: argparse.ArgumentParser, verb: str, action: argparse.Action) -> list[str]:
    """An argument as an entry of a definition list, with an anchor of its own."""
    formatter = parser._get_formatter()
    value = formatter._format_args(action, action.dest.upper()) if action.nargs != 0 else ""
    if not action.option_strings:
        value = value.strip("[]")
    names = ", ".join(action.option_strings)
    anchor = f"{verb}-{(action.option_strings or [action.dest])[-1].lstrip('-')}"
    help_text = formatter._expand_help(action) if action.help else ""
    return [f"`{f'{names} {value}'.strip()}` {{ #{anchor} }}", f":   {_plain(help_text)}", ""]


def _plain(text: str) -> str:
    """Text as it stands, with what Markdown would take for its own marked as not so, outside of code."""
    parts = re.split(r"(``.+?``|`[^`]+`)", text)
    return "".join(part if index % 2 else re.sub(r"([<>|*_\[\]])", r"\\\1", part) for index, part in enumerate(parts))
