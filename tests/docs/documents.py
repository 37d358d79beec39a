"""The commands in README and docs, and what is said of each block of them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from helpers import ROOT

BLOCK = re.compile(
    r"(?:^<!-- (?P<kind>tested|needs): (?P<what>[^\n]*) -->\n)?"
    r"^```(?:bash|console|sh)\n(?P<text>.*?)\n```$",
    re.DOTALL | re.MULTILINE,
)
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
BEFORE_A_COMMAND = {"do", "then", "else", "{", "!", "("}


def documents() -> list[Path]:
    """README and all pages that are written by hand."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@dataclass(frozen=True)
class Block:
    """Commands of a page; `kind` is tested, needs, or empty for those to run here."""

    page: Path
    text: str
    kind: str
    what: str


def blocks(page: Path) -> list[Block]:
    """Blocks of shell commands in a page."""
    found = BLOCK.finditer(page.read_text())
    return [Block(page, m["text"], m["kind"] or "", m["what"] or "") for m in found]


def simple_commands(text: str) -> list[list[str]]:
    """The commands of a shell script as lists of words; loops and pipes are taken apart.

    Variable assignments before a command, redirections and comments are left out.
    """
    text = re.sub(r"(?m)(^|\s)#.*$", "", text.replace("\\\n", " "))
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";|&<>\n")
    # the lexer's own comments would take the end of the line with them
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    commands: list[list[str]] = [[]]
    words = iter(lexer)
    for word in words:
        if set(word) <= set("<>"):
            next(words)  # the file
        elif set(word) <= set(";|&\n"):
            commands.append([])
        elif commands[-1] or not (word in BEFORE_A_COMMAND or re.match(r"\w+=", word)):
            commands[-1].append(word)
    return [command for command in commands if command]


def inline_code(page: Path) -> list[str]:
    """Code in running text, line breaks taken out."""
    return [" ".join(code.split()) for code in INLINE.findall(FENCED.sub("", page.read_text()))]
