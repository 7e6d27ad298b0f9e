"""Run the tutorials and store their outputs in them: `docs/tutorials/*.ipynb`, with the sizes that stand in them.

    pip install -c constraints.txt 'svfap[docs]'
    python docs/make/tutorials.py                      # all of them, some minutes each on two cores
    python docs/make/tutorials.py 3_a_papers_fold      # one

Run a tutorial again after a change of its code; until then `tests/test_tutorials.py` fails. Progress on standard error is not
stored, warnings are. Pictures are stored with at most `COLOURS` colours and `WIDTH` pixels across, so that the files stay small.
"""

from __future__ import annotations

import base64
import hashlib
import io
import sys
import time
from pathlib import Path

import nbformat
from PIL import Image

FOLDER = Path(__file__).resolve().parents[1] / "tutorials"
COLOURS, WIDTH = 64, 900
TIMEOUT_S = 3600


def source_digest(notebook: nbformat.NotebookNode) -> str:
    """Of the code of a notebook; kept in its metadata, it says which code the stored outputs are of."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()[:16]


def execute(file: Path) -> None:
    """Run a notebook in its folder, and store it with its outputs."""
    from nbclient import NotebookClient

    notebook = nbformat.read(file, as_version=4)
    NotebookClient(notebook, timeout=TIMEOUT_S, record_timing=False, resources={"metadata": {"path": FOLDER}}).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [kept for output in cell.outputs if (kept := tidy(output)) is not None]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "svfap": {"outputs_of": source_digest(notebook)},
    }
    nbformat.write(notebook, file)


def tidy(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    """An output as it is stored; None for progress alone."""
    if output.output_type == "stream" and output.name == "stderr":
        output.text = "".join(line for line in output.text.splitlines(True) if line.startswith("WARNING"))
        return output if output.text else None
    if "image/png" in output.get("data", {}):
        output.data["image/png"] = smaller(output.data["image/png"])
        output.data.pop("image/jpeg", None)  # the same picture once more
    return output


def smaller(png: str) -> str:
    """A picture, PNG in base64, with fewer colours, and scaled down if it is wide."""
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        picture = image.convert("RGB")
    picture.thumbnail((WIDTH, 10 * WIDTH))
    file = io.BytesIO()
    picture.quantize(COLOURS).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def main() -> None:
    for name in sys.argv[1:] or [file.stem for file in sorted(FOLDER.glob("*.ipynb"))]:
        start, file = time.perf_counter(), FOLDER / f"{name}.ipynb"
        execute(file)
        print(f"{name}: {time.perf_counter() - start:.0f} s, {file.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
