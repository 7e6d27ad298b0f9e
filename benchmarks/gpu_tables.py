"""What `gpu.py` has measured, as tables, beside its targets."""

from __future__ import annotations

from typing import Any

from common import table

# Of each task, for one row. speed and memory: divided by those of the reference, with the same batch.
TARGETS = {
    "fine-tuning": {"speed": (">=", 2.5), "share_of_matrix_rate": (">=", 0.5), "memory": ("<=", 0.6)},
    "pre-training": {"speed": (">=", 3.0), "memory": ("<=", 0.6)},
}
REFERENCE, PUBLISHED = "fp16, waits", "plain, fp16, waits"
CORRECTNESS = "errors against fp32"


def compare(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each row in which the host does not wait, beside the reference of its task.

    task, row, the values of `TARGETS` (None: not measured), met: whether the row meets all targets of its task, and
    speed_of_plain, memory_of_plain: beside the unoptimised model in fp16.
    """
    found = []
    for row in rows:
        named = {r["row"]: r for r in rows if r["task"] == row["task"]}
        if REFERENCE not in named or "waits" in row["row"]:
            continue
        values: dict[str, float | None] = {"share_of_matrix_rate": row["share_of_matrix_rate"]}
        for name, end in ((REFERENCE, ""), (PUBLISHED, "_of_plain")):
            other = named.get(name)
            values[f"speed{end}"] = row["clips_per_s"] / other["clips_per_s"] if other else None
            values[f"memory{end}"] = row["peak_gb"] / other["peak_gb"] if other and other["peak_gb"] else None
        met = all(meets(values[name], target) for name, target in TARGETS[row["task"]].items())
        found.append({"task": row["task"], "row": row["row"], **values, "met": met})
    return found


def meets(value: float | None, target: tuple[str, float]) -> bool:
    sign, limit = target
    return value is not None and (value >= limit if sign == ">=" else value <= limit)


def problems(results: dict[str, Any]) -> list[str]:
    """Why the exit status is 1: rows that failed, errors beyond their limits, and errors that were not checked."""
    found = [f"{row['name']}: {row['error']}" for row in results["failed"]]
    for r in results["correctness"]:
        if not r["fits"]:
            name = f"{r['task']}, {r['precision']}, {r['of']}"
            found.append(f"{name}: the error {r['error']:.1e} is not within its limit {r['limit']:.0e}")
    return found + [f"{name}: not checked" for name in results["dropped"] if name.endswith(CORRECTNESS)]


def number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def markdown(results: dict[str, Any]) -> str:
    """All results as tables."""
    parts = ["\n".join(results["machine"])]
    if failures := problems(results):
        parts.append("### Failed\n\n" + "\n".join(f"- {line}" for line in failures))
    rows = [
        [
            f"{r['task']}, {r['precision']}, {r['of']}",
            f"{r['error']:.1e}",
            f"{r['limit']:.0e}",
            "yes" if r["fits"] else "**no**",
        ]
        for r in results["correctness"]
    ]
    if rows:
        parts.append("### Relative errors against fp32\n\n" + table(("", "error", "limit", "fits"), rows))
    rows = []
    for r in results["training"]:
        low, high = r["ms_range"]
        rows.append(
            [
                f"{r['task']}: {r['row']}",
                str(r["batch"]),
                f"{r['ms']:.1f} ({low:.1f} to {high:.1f})",
                f"{r['clips_per_s']:.1f}",
                number(r["share_of_matrix_rate"], ".1%"),
                number(r["peak_gb"], ".1f"),
                number(r["waits_per_step"], ".1f"),
            ]
        )
    header = [
        "step",
        "clips",
        "ms (range)",
        "clips/s",
        "of the matrix rate",
        "peak GB",
        "waits of the host",
    ]
    if rows:
        parts.append("### Training steps\n\n" + table(header, rows))
    rows = []
    for task, targets in TARGETS.items():
        cells = {
            name: f"{'≥' if sign == '>=' else '≤'} {limit:{'.0%' if name == 'share_of_matrix_rate' else 'g'}}"
            for name, (sign, limit) in targets.items()
        }
        columns = ("speed", "share_of_matrix_rate", "memory", "speed_of_plain", "memory_of_plain")
        rows.append([f"{task}: **target**", *(cells.get(name, "") for name in columns), ""])
        for r in (r for r in results["compared"] if r["task"] == task):
            values = [number(r[name], ".1%" if name == "share_of_matrix_rate" else ".2f") for name in columns]
            rows.append([f"{task}: {r['row']}", *values, "yes" if r["met"] else "no"])
    header = ["row", f"clips/s ÷ {REFERENCE}", "of the matrix rate", f"peak memory ÷ {REFERENCE}"]
    header += ["clips/s ÷ plain", "peak memory ÷ plain", "meets all targets"]
    if results["compared"]:
        parts.append("### Beside the targets\n\n" + table(header, rows))
    if results["inference"]:
        rows = [
            [r["row"], str(r["batch"]), f"{r['clips_per_s']:.1f} ({r['range'][0]:.1f} to {r['range'][1]:.1f})"]
            for r in results["inference"]
        ]
        parts.append("### Inference\n\n" + table(("forward", "clips", "clips/s (range)"), rows))
    if profiled := results["profile"]:
        rows = [
            [
                k["name"][:80].replace("|", "/"),
                f"{k['share']:.1%}",
                f"{k['ms_per_step']:.2f}",
                f"{k['calls_per_step']:.0f}",
            ]
            for k in profiled["kernels"]
        ]
        text = table(("kernel", "share", "ms a step", "calls a step"), rows)
        text += (
            f"\n\nA step takes {profiled['ms_per_step']:.1f} ms, {profiled['ms_per_step_profiled']:.1f} ms profiled."
        )
        if profiled["shares"]:
            text += (
                " The GPU runs a kernel in {kernel:.1%} of the time, only copies in {copy:.1%}, nothing in {idle:.1%}."
            ).format(**profiled["shares"])
            text += f" Copies take {profiled['copies_ms_per_step']:.2f} ms a step."
        parts.append(f"### Fine-tuning in bf16, not compiled: where the time goes\n\n{text}")
    if results["dropped"]:
        why = (
            "after the interruption"
            if results["interrupted"]
            else "as the time would not have been enough (`--seconds`)"
        )
        parts.append(f"Left out, {why}: {'; '.join(results['dropped'])}.")
    return "\n\n".join(parts) + "\n"
