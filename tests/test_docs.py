"""What the documents name exists."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

import svfap

ROOT = Path(__file__).resolve().parents[1]
PLACES = sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", (ROOT / "docs" / "paper_map.md").read_text())))


def test_the_paper_map_is_there():
    assert len(PLACES) > 25


@pytest.mark.parametrize(("file", "name"), PLACES)
def test_places_of_the_paper_map_exist(file, name):
    tree = ast.parse((Path(svfap.__file__).parent / file).read_text())
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    names |= {
        t.id for node in tree.body if isinstance(node, ast.Assign) for t in node.targets if isinstance(t, ast.Name)
    }
    names |= {
        node.target.id for node in tree.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    assert name in names


def test_the_tree_in_the_architecture_document_is_that_of_the_package():
    sys.path.insert(0, str(ROOT / "docs" / "make"))
    import tree

    document = tree.DOCUMENT.read_text(encoding="utf-8")
    assert document == tree.with_tree(document), "run `python docs/make/tree.py --write`"


def test_links_between_documents_lead_somewhere():
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_files_that_the_documents_name_exist():
    """Paths in backticks, below the root or the package."""
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for path in re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.(?:py|html|css|js))`", document.read_text(encoding="utf-8")):
            here = path.startswith("runs/") or (ROOT / path).exists() or (ROOT / "src" / "svfap" / path).exists()
            assert here, f"{document.name}: {path}"
