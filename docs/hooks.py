"""What the site adds to the pages of this folder: options, public names, model cards."""

from __future__ import annotations

import argparse
import inspect
import json
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

LINKS = re.compile(r"(<(?:a|autoref|h[1-6])\b.*?</(?:a|autoref|h[1-6])>)", re.DOTALL)
TAG = re.compile(r"<[^>]+>")
TOGETHER = re.compile(r"<b><code>(?:<[^>]+>)*(\w+),(?:<[^>]+>)*</code></b>\s*\(<code>(.*?)</code>[^)]*\)")
"""``mean, std: ...`` of a docstring, which is taken for one name and a type."""
OPTION = re.compile(r"<code>(--?[a-z][a-z-]*)</code>")
"""An option of the command line, which must not be broken at its dashes."""
CODE = re.compile(r"<code>([A-Za-z_][\w.]*)</code>")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie outside of this folder: the changelog, and the packaged models' cards."""
    files.append(File.generated(config, "changelog.md", abs_src_path=str(ROOT / "CHANGELOG.md")))
    for path in sorted((ROOT / "edgepose" / "models").iterdir()):
        if path.suffix in (".md", ".png"):
            files.append(File.generated(config, f"models/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Fill the places of generated text, and lead to where the site has the models' cards."""
    if COMMANDS in markdown:
        markdown = markdown.replace(COMMANDS, command_reference())
    if NAMES in markdown:
        markdown = markdown.replace(NAMES, name_table())
    return markdown.replace("](../edgepose/models/", "](models/")  # as `on_files` lays them


def on_page_content(html: str, **_: Any) -> str:
    """Join names that are described together, keep options whole; lead from names of edgepose to theirs."""
    html = TOGETHER.sub(_together, html)
    html = OPTION.sub(r'<code class="option">\1</code>', html)
    parts = LINKS.split(html)
    return "".join(part if index % 2 else CODE.sub(_reference, part) for index, part in enumerate(parts))


def on_post_build(config: MkDocsConfig) -> None:
    """Write what searches on pages that are opened from a folder: see ``from_files.js``."""
    site = Path(config.site_dir)
    index = (site / "search" / "search_index.json").read_text("utf-8")
    (site / "search" / "search_index.js").write_text(f"var __index = {index}", "utf-8")
    (worker,) = (site / "assets" / "javascripts" / "workers").glob("search.*.min.js")
    source = json.dumps(worker.read_text("utf-8"))
    (site / "search" / "worker.js").write_text(f"window.searchWorker = {source}", "utf-8")


def command_reference() -> str:
    """A section for each verb, from its parser."""
    (verbs,) = (action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction))
    return "\n".join(_verb_section(name, parser) for name, parser in verbs.choices.items())


def name_table() -> str:
    """A row for each public name: its first sentence, and the way to its description."""
    rows = ["| name | |", "|---|---|"]
    for name in sorted(edgepose.__all__, key=str.lower):
        value = getattr(edgepose, name)
        if isinstance(value, str):
            about = "The version of the package."
        elif isinstance(value, edgepose.Skeleton):
            about = f"The skeleton of {len(value)} joints: {', '.join(value.joints)}."
        else:
            about = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
        rows.append(f"| [`{name}`][edgepose.{name}] | {_plain(about)} |")
    return "\n".join(rows)


def _together(found: re.Match[str]) -> str:
    others = TAG.sub("", found[2]).strip("()")
    return f"<b><code>{found[1]}, {others}</code></b>"


def _reference(code: re.Match[str]) -> str:
    name = code[1]
    if name in edgepose.__all__:
        name = f"edgepose.{name}"
    if not name.startswith("edgepose."):
        return code[0]
    return f'<autoref optional identifier="{name}">{code[0]}</autoref>'


def _verb_section(name: str, parser: argparse.ArgumentParser) -> str:
    parts = [f"## edgepose {name}", "", _plain(parser.description or ""), ""]
    parts += ["```text", _usage(parser), "```", ""]
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.dest != "help"]
        if not actions:
            continue
        if group.title not in ("positional arguments", "options"):
            parts += [f"**{(group.title or '').capitalize()}**", ""]
        parts += [line for action in actions for line in _option(parser, name, action)]
    return "\n".join(parts)


def _usage(parser: argparse.ArgumentParser) -> str:
    formatter = argparse.HelpFormatter(parser.prog, width=88)
    formatter.add_usage(None, parser._actions, parser._mutually_exclusive_groups)
    prefix = "usage: "
    return formatter.format_help().strip().removeprefix(prefix).replace("\n" + " " * len(prefix), "\n")


def _option(parser: argparse.ArgumentParser, verb: str, action: argparse.Action) -> list[str]:
    """An argument as an entry of a definition list, with an anchor of its own."""
    formatter = parser._get_formatter()
    if not action.option_strings:
        value = str(action.metavar or action.dest)
    else:
        value = formatter._format_args(action, action.dest.upper()) if action.nargs != 0 else ""
    names = ", ".join(action.option_strings)
    anchor = f"{verb}-{(action.option_strings or [action.dest])[-1].lstrip('-')}"
    help_text = formatter._expand_help(action) if action.help else ""
    return [f"`{f'{names} {value}'.strip()}` {{ #{anchor} }}", f":   {_plain(help_text)}", ""]


def _plain(text: str) -> str:
    """Text as it stands: options as code, and nothing outside of code taken for Markdown."""
    text = re.sub(r"(?<![\w`-])(--[a-z-]*[a-z])", r"`\1`", text)
    parts = re.split(r"(``.+?``|`[^`]+`)", text)
    return "".join(
        part if index % 2 else re.sub(r"([<>|*_\[\]])", r"\\\1", part) for index, part in enumerate(parts)
    )
