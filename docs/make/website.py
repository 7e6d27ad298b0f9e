"""The hook of mkdocs.yml: pages that are made from other files, links that leave docs/, and nothing fetched from elsewhere.

- `index.md` is README.md, `cli.md` what `svfap VERB --help` prints, and each notebook a page with its stored outputs.
- What pages link to outside of docs/ (cards, recipes, CONTRIBUTING.md) is part of the site, below `repository/`.
- A built page that would load a script, style, font or picture from another machine is an error.

`mkdocs build` imports it; `make docs` runs that.
"""

from __future__ import annotations

import contextlib
import io
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)#\s]+)(#[^)\s]*)?(?=\))")
SITE_SUFFIXES = {".md", ".ipynb", ".png", ".jpg"}  # of the files of docs/ that are on the site at their own place
LOADED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\ssrc=["']?(?:https?:)?//[^"'>\s]+
    |<link\b(?=[^>]*\brel=["']?(?:stylesheet|preload|preconnect|icon))[^>]*\shref=["']?(?:https?:)?//[^"'>\s]+
    |@import\s[^;]*//[^;]+|url\(["']?(?:https?:)?//[^)]+""",
    re.VERBOSE,
)


def place(file: Path) -> str:
    """Where a file of the repository is on the site: its `src_uri`."""
    if file == ROOT / "README.md":
        return "index.md"
    if file.is_relative_to(DOCS) and file.suffix in SITE_SUFFIXES:
        return file.relative_to(DOCS).as_posix().replace(".ipynb", ".md")
    return f"repository/{file.relative_to(ROOT).as_posix()}"


def linked_files(text: str, folder: Path) -> Iterator[Path]:
    """Files of the repository that a page in `folder` links to."""
    for target, _ in LINK.findall(text):
        file = (folder / target).resolve()
        if file.is_file() and file.is_relative_to(ROOT):
            yield file


def with_links_of_the_site(text: str, file: Path) -> str:
    """The text of a page of the repository, its links as they are on the site. Links to nothing stay, for strict mode to find."""

    def moved(match: re.Match[str]) -> str:
        target = (file.parent / match[1]).resolve()
        if not target.is_file() or not target.is_relative_to(ROOT):
            return match[0]
        return posixpath.relpath(place(target), posixpath.dirname(place(file))) + (match[2] or "")

    return LINK.sub(moved, text)


def help_of_all_verbs() -> str:
    """The page about the command: the help of every verb, and of every dataset of `prepare`, as the program prints it."""
    from svfap.cli.verbs import VERBS
    from svfap.datasets.dataset import NAMES

    parts = [(DOCS / "make" / "cli_head.md").read_text(encoding="utf-8")]
    for verb, command in VERBS.items():
        parts.append(f"\n## svfap {verb}\n\n{_help(verb)}")
        if command.variants is not None:
            parts += [f"\n### svfap {verb} {name}\n\n{_help(verb, name)}" for name in NAMES]
    return "".join(parts)


def _help(*verbs: str) -> str:
    from svfap.cli.main import main

    os.environ["COLUMNS"] = "88"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([*verbs, "--help"])
    text = printed.getvalue().replace("\b", "").strip()  # jsonargparse writes one before an optional value
    return f"```text\n{text}\n```\n"


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made, and the files outside of docs/ that pages link to."""
    from mkdocs.structure.files import File

    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        _add_notebook(notebook, files, config)
    files.append(File.generated(config, "cli.md", content=help_of_all_verbs()))
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("*/*.ipynb"))]
    for page in pages:  # the list grows: pages outside of docs/ link to others
        if place(page) not in files.src_uris:
            files.append(File.generated(config, place(page), abs_src_path=str(page)))
        if page.suffix in (".md", ".ipynb"):
            linked = linked_files(page.read_text(encoding="utf-8"), page.parent)
            pages += dict.fromkeys(file for file in linked if file not in pages)
    return files


def _add_notebook(notebook: Any, files: Any, config: Any) -> None:
    """Add a page with the cells and stored outputs of a notebook, its pictures beside."""
    from mkdocs.structure.files import File
    from nbconvert import MarkdownExporter

    text, resources = MarkdownExporter().from_filename(notebook.abs_src_path)
    folder = posixpath.dirname(notebook.src_uri)
    stem = Path(notebook.src_uri).stem
    for name, data in resources["outputs"].items():
        text = text.replace(name, f"{stem}_{name}")
        files.append(File.generated(config, f"{folder}/{stem}_{name}", content=data))
    title, rest = text.split("\n", 1)
    download = f'<a href="{stem}.ipynb" download>The notebook</a>'
    files.append(File.generated(config, f"{folder}/{stem}.md", content=f"{title}\n\n{download}\n{rest}"))


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as they are on the site."""
    return with_links_of_the_site(markdown, source_of(page.file.src_uri))


def source_of(uri: str) -> Path:
    """The file of the repository that a page of the site is made from."""
    if uri == "index.md":
        return ROOT / "README.md"
    return ROOT / uri.removeprefix("repository/") if uri.startswith("repository/") else DOCS / uri


def on_post_page(output: str, **_: Any) -> str:
    """Mend the theme: its search is a dialog without a name, and the first page would have the site's name twice as title."""
    output = output.replace("<title>SVFAP - SVFAP</title>", "<title>SVFAP</title>")
    return output.replace('role="dialog"', 'role="dialog" aria-label="Search"')


def on_post_build(config: Any, **_: Any) -> None:
    """Refuse a site that would load anything from another machine."""
    from mkdocs.exceptions import PluginError

    for file in sorted(Path(config["site_dir"]).rglob("*")):
        if file.suffix in (".html", ".css") and (found := LOADED.search(file.read_text(encoding="utf-8"))):
            raise PluginError(f"{file}: loads from another machine: {found[0][:200]}")
