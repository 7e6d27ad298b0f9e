"""One table as Markdown, CSV, LaTeX and on the terminal: the same cells, and nothing that a cell holds breaks the format."""

from __future__ import annotations

import io

import pandas as pd
from rich.console import Console

from svfap.view.tables import to_latex, to_markdown, to_terminal, write_table

TABLE = pd.DataFrame({"score": ["UAR, %", "a|b_c & d\\"], "ours ± sd": ["62.83", "−0.5"], "paper": ["", "{7} 2×3"]})


def test_markdown_aligns_numbers_and_escapes_pipes():
    assert to_markdown(TABLE, "Ours, 5 folds.").splitlines() == [
        "Ours, 5 folds.",
        "",
        "| score | ours ± sd | paper |",
        "| --- | ---: | ---: |",
        "| UAR, % | 62.83 |  |",
        "| a\\|b_c & d\\ | −0.5 | {7} 2×3 |",
    ]


def test_latex_escapes_and_has_rules():
    text = to_latex(TABLE, "100% of a_b")
    assert r"\caption{100\% of a\_b}" in text
    assert r"\begin{tabular}{lrr}" in text and r"\toprule" in text and r"\bottomrule" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert rows[0] == r"score & ours $\pm$ sd & paper \\"
    assert rows[1] == r"UAR, \% & 62.83 &  \\"
    assert rows[2] == r"a|b\_c \& d\textbackslash{} & $-$0.5 & \{7\} 2$\times$3 \\"
    assert r"\caption" not in to_latex(TABLE)


def test_terminal_shows_cells_as_they_are():
    console = Console(file=io.StringIO(), width=100)
    console.print(to_terminal(TABLE.assign(paper=["[bold]", "x"]), "A [caption]"))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "A [caption]" in printed and "[bold]" in printed and "62.83" in printed


def test_a_narrow_terminal_wraps_between_words_and_cuts_nothing():
    columns = ["training", "read by", "difference to pre-trained", "p (Holm)"]
    table = pd.DataFrame(
        [["from scratch", "fine-tuning", "−28.2 [−30.1, −26.0]", "0.073, no difference shown"]], columns=columns
    )
    words = {word for text in [*columns, *table.iloc[0]] for word in text.split()}
    for width in (55, 60, 80):
        console = Console(file=io.StringIO(), width=width)
        console.print(to_terminal(table))
        lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
        assert words <= {word for line in lines for word in line.split()} and max(map(len, lines)) <= width
    console = Console(file=io.StringIO(), width=30)  # narrower than the longest words together
    console.print(to_terminal(table))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in shown and shown.count("−") == 3


def test_files_hold_the_same_table(tmp_path):
    write_table(tmp_path / "of.both", TABLE, "Ours.")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["of.both.csv", "of.both.md", "of.both.tex"]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "of.both.csv", keep_default_na=False, dtype=str), TABLE)
    assert (tmp_path / "of.both.md").read_text() == to_markdown(TABLE, "Ours.")
    assert (tmp_path / "of.both.tex").read_text() == to_latex(TABLE, "Ours.")
