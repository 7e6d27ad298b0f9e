"""Files, names and links in the documentation exist."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path

import pytest
import yaml

import svfap
from svfap.cli.main import main
from svfap.datasets.dataset import NAMES, get_dataset
from svfap.shipped import RECIPES, SHIPPED

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs" / "make"))
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))]
DOCUMENTS = [*PAGES, *RECIPES.rglob("*.yaml"), *SHIPPED.rglob("README.md")]
ENTRIES = sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", (ROOT / "docs" / "paper_map.md").read_text())))


def text_of(document: Path) -> str:
    """The text of a document; of a notebook that of its cells, without outputs."""
    text = document.read_text(encoding="utf-8")
    if document.suffix != ".ipynb":
        return text
    return "\n\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])


def test_the_paper_map_has_entries():
    assert len(ENTRIES) > 25


@pytest.mark.parametrize(("file", "name"), ENTRIES)
def test_entries_of_the_paper_map_exist(file, name):
    tree = ast.parse((Path(svfap.__file__).parent / file).read_text())
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    names |= {
        t.id for node in tree.body if isinstance(node, ast.Assign) for t in node.targets if isinstance(t, ast.Name)
    }
    names |= {
        node.target.id for node in tree.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    assert name in names


def test_the_tree_in_the_architecture_document_is_current():
    import tree

    document = tree.DOCUMENT.read_text(encoding="utf-8")
    assert document == tree.with_tree(document), "run `python docs/make/tree.py --write`"


def test_links_between_documents_are_valid():
    for document in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text_of(document)):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_files_named_in_documents_exist():
    """Paths in backticks, relative to the root or to the package."""
    for document in PAGES:
        for path in re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.(?:py|html|css|js))`", text_of(document)):
            exists = path.startswith("runs/") or (ROOT / path).exists() or (ROOT / "src" / "svfap" / path).exists()
            assert exists, f"{document.name}: {path}"


def documented_commands() -> dict[tuple[str, ...], dict[str, str]]:
    """Verb, with the dataset of `prepare` -> each option used with it, and a document that uses it."""
    used: dict[tuple[str, ...], dict[str, str]] = {}
    for document in DOCUMENTS:
        text = text_of(document).replace("\\\n", " ")
        for line in re.findall(r"(?:^#? +|`|\bdo |-m |&& |\(BIN\)/)svfap ([a-z][^`#;\n]*)", text, re.MULTILINE):
            verb, *rest = line.split()
            key = (verb, rest[0]) if verb == "prepare" and rest and re.fullmatch("[a-z_0-9]+", rest[0]) else (verb,)
            options = re.findall(r"(?<=\s)--([a-zA-Z_]\w*)", line)
            used.setdefault(key, {}).update(dict.fromkeys(options, document.name))
    return used


@pytest.mark.parametrize("command", sorted(documented_commands()), ids=" ".join)
def test_documented_commands_have_the_options(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    printed = capsys.readouterr()
    assert end.value.code == 0, printed.err
    for option, document in documented_commands()[command].items():
        assert re.search(rf"--{option}\b", printed.out), f"{document}: svfap {' '.join(command)} --{option}"


def test_documented_commands_cover_most_verbs():
    assert len({command[0] for command in documented_commands()}) >= 12


def test_every_public_name_is_in_the_reference_once():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^::: svfap\.(\w+)$", page, re.MULTILINE)) == sorted(svfap.__all__)


def test_quoted_messages_are_those_of_the_program():
    """In docs/troubleshooting.md a line that begins with > is a message; … stands for what it inserts."""
    quoted = re.findall(r"^> (.+)$", (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(quoted) >= 15
    nodes = (
        node for file in Path(svfap.__file__).parent.rglob("*.py") for node in ast.walk(ast.parse(file.read_text()))
    )
    texts = "\0".join(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))
    for message in quoted:
        for part in re.split(r"\s*…\s*", message):
            assert part in texts, message


def test_every_page_has_a_place_on_the_site():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    placed = re.findall(r"[\w/]+\.md", json.dumps(settings["nav"]))
    docs = ROOT / "docs"
    made = {"index.md", "cli.md"}  # by docs/make/website.py
    notebooks = {f"tutorials/{file.stem}.md" for file in (docs / "tutorials").glob("*.ipynb")}
    inside = {page for page in placed if not page.startswith("repository/")}
    assert len(placed) == len(set(placed))
    assert inside == {file.name for file in docs.glob("*.md")} | notebooks | made


def test_links_of_the_site_are_those_of_the_repository():
    import website

    text = (
        "[a](docs/limits.md#x) [b](CHANGELOG.md) [c](https://a.b/c) [d](docs/tutorials/1_own_data.ipynb) [e](gone.md)"
    )
    moved = "[a](limits.md#x) [b](repository/CHANGELOG.md) [c](https://a.b/c) [d](tutorials/1_own_data.md) [e](gone.md)"
    assert website.with_links_of_the_site(text, ROOT / "README.md") == moved
    card = ROOT / "src/svfap/models/movement/README.md"
    text = "[card](../src/svfap/models/movement/README.md) [here](#x)"
    moved = "[card](repository/src/svfap/models/movement/README.md) [here](#x)"
    assert website.with_links_of_the_site(text, ROOT / "docs" / "numbers.md") == moved
    assert website.source_of(website.place(card)) == card


def test_the_site_may_load_nothing_from_elsewhere():
    import website

    for tag in (
        '<script src="https://a.b/c.js">',
        '<link href="//a.b/c.css" rel="stylesheet">',
        "<img src=http://a.b>",
    ):
        assert website.LOADED.search(tag), tag
    for tag in ('<a href="https://a.b">', '<script src="assets/c.js">', '<link rel="canonical" href="https://a.b">'):
        assert not website.LOADED.search(tag), tag


def test_every_dataset_is_listed_and_documented():
    package = Path(svfap.__file__).parent / "datasets"
    described = {
        file.stem for file in package.glob("*.py") if re.search(r"^DATASET = ", file.read_text(), re.MULTILINE)
    }
    assert described == set(NAMES)
    document = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
    for name in NAMES:
        assert get_dataset(name).title in document or f"svfap prepare {name}" in document, (
            f"docs/datasets.md: no {name}"
        )
