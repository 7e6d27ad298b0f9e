"""The tree in docs/architecture.md: every file of the package with the first sentence of its docstring.

    python docs/make/tree.py            # print it
    python docs/make/tree.py --write    # put it into docs/architecture.md, between its two markers
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE, DOCUMENT = ROOT / "src" / "svfap", ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- tree: written by docs/make/tree.py -->\n", "<!-- end of tree -->\n"
ORDER = (
    *("model", "weights", "data", "datasets", "synth", "train", "evaluation", "faces", "crop", "predict", "features"),
    *("view", "reports", "experiments", "jobs", "cli"),
)  # folders in the order in which the tree shows them: the method, then what is done with it


def first_sentence(file: Path) -> str:
    """What a module says of itself, in one line; of other files, the first comment."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        docstring = ast.get_docstring(ast.parse(text)) or ""
    else:
        docstring = text.split("\n", 1)[0].strip("<!-/*# \t{}>").strip()
    return " ".join(docstring.split("\n\n")[0].split())


def tree() -> str:
    """The tree as a Markdown code block, folders in `ORDER`, the leaves last."""
    lines = ["src/svfap/"]
    for name in ORDER:
        folder = PACKAGE / name
        lines.append(f"  {name + '/':<24} {first_sentence(folder / '__init__.py')}")
        lines += _files(folder, 4)
    lines += _files(PACKAGE, 2)
    return "```text\n" + "\n".join(line.rstrip() for line in lines) + "\n```\n"


def _files(folder: Path, indent: int) -> list[str]:
    files = [f for f in sorted(folder.iterdir()) if f.suffix in (".py", ".html", ".css", ".js", ".yaml", ".mplstyle", ".pyi")]
    skipped = ("__init__.py", "__main__.py") if folder != PACKAGE else ("__main__.py",)
    return [f"{' ' * indent}{f.name:<{26 - indent}} {first_sentence(f)}" for f in files if f.name not in skipped]


def with_tree(document: str) -> str:
    """The document with the present tree between its markers."""
    before, rest = document.split(BEGIN)
    return before + BEGIN + tree() + END + rest.split(END)[1]


if __name__ == "__main__":
    if "--write" in sys.argv:
        DOCUMENT.write_text(with_tree(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(tree())
