"""What the documents name exists."""

from __future__ import annotations

import ast
import re
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
