"""The tree in docs/architecture.md: every file of the package with the first sentence of its docstring.

python docs/make/tree.py            # print it
python docs/make/tree.py --write    # put it into docs/architecture.md, between its two markers
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE, DOCUMENT = ROOT / "src" / "svfap", ROOT / "docs" / "architecture.md"
SHOWN = (".py", ".pyi", ".html", ".css", ".js", ".mplstyle")
BEGIN, END = "<!-- tree: written by docs/make/tree.py -->\n", "<!-- end of tree -->\n"
ORDER = (
    *("model", "weights", "data", "datasets", "synth", "train", "evaluation", "probe", "faces", "crop", "packing"),
    *(
        "predict",
        "features",
        "export",
        "huggingface",
        "serve",
        "view",
        "reports",
        "sweep",
        "experiments",
        "demo",
        "bench",
        "jobs",
        "cli",
    ),
)  # folders in the order in which the tree shows them: the method, then what is done with it


def summary(file: Path) -> str:
    """What a file says of itself: the first sentence of a module's docstring, or the first comment of another file."""
    text = file.read_text(encoding="utf-8")
    if file.suffix in (".py", ".pyi"):
        docstring = ast.get_docstring(ast.parse(text)) or ""
    else:
        comment = re.match(r"\s*(?:/\*|//|<!--|\{#|#)(.*?)(?:\*/|-->|#\}|\n\n|\n(?!#|//))", text, re.DOTALL)
        docstring = "" if comment is None else re.sub(r"\n(?:#|//)", " ", comment[1])
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    return re.split(r"(?<!Sec)(?<!Eq)(?<!Fig)\. ", paragraph)[0].removesuffix(".")


def tree() -> str:
    """The tree as a Markdown code block, folders in `ORDER`, the leaves last."""
    folders = {folder.name for folder in PACKAGE.iterdir() if any(folder.glob("*.py"))}
    assert folders == set(ORDER), f"ORDER in {__file__} lacks or has too many: {sorted(folders ^ set(ORDER))}"
    lines = ["src/svfap/"]
    for name in ORDER:
        lines += _folder(PACKAGE / name, 2)
    lines += _files(PACKAGE, 2)
    return "```text\n" + "\n".join(line.rstrip() for line in lines) + "\n```\n"


def _folder(folder: Path, indent: int) -> list[str]:
    lines = [f"{' ' * indent}{folder.name + '/':<{26 - indent}} {summary(folder / '__init__.py')}"]
    lines += _files(folder, indent + 2)
    for inner in sorted(folder.iterdir()):
        if (inner / "__init__.py").is_file():
            lines += _folder(inner, indent + 2)
    return lines


def _files(folder: Path, indent: int) -> list[str]:
    skipped = ("__init__.py", "__main__.py") if folder != PACKAGE else ("__main__.py",)
    files = [file for file in sorted(folder.iterdir()) if file.suffix in SHOWN and file.name not in skipped]
    return [f"{' ' * indent}{file.name:<{26 - indent}} {summary(file)}" for file in files]


def with_tree(document: str) -> str:
    """The document with the present tree between its markers."""
    before, rest = document.split(BEGIN)
    return before + BEGIN + tree() + END + rest.split(END)[1]


if __name__ == "__main__":
    if "--write" in sys.argv:
        DOCUMENT.write_text(with_tree(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(tree())
