"""Put faults into the code on purpose, one at a time, and count those that the tests do not notice.

    python benchmarks/faults/mutations.py --map            # once: which test runs which line; as long as the tests
    python benchmarks/faults/mutations.py --number 200     # the faults, drawn at random over the folders

A fault is a small change of the syntax tree: a comparison, an operation or a constant replaced, a condition turned round, a
keyword argument or a statement left out. For each, the tests that run its line are run, the quickest first, until one fails.
A line that no test runs counts as not noticed. Texts, annotations and what only words a message are left alone. Every outcome
is a line of OUT, from which an interrupted run goes on. Prints a Markdown table and the faults that survived.
"""

from __future__ import annotations

import argparse
import ast
import bisect
import copy
import itertools
import json
import math
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "svfap"
FOLDERS = ("train", "data", "evaluation", "faces", "model", "predict", "crop", "features")
# A test that a fault keeps from ending counts as failed: after so many times what the tests took without it, and the rest.
PATIENCE, START_S = 4.0, 90.0
OPERATIONS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
# What such calls get only words a message or a label.
WORDING = (
    "say",
    "UserError",
    "VideoError",
    "StreamError",
    "ManifestError",
    "CheckpointError",
    "ValueError",
    "add_argument",
)


@dataclass(frozen=True)
class Fault:
    """A change of one node: the `number`-th possible change of a module.

    line: of the node. first, last: lines of the statement around it. inside: whether it is within a function; the other lines
    are run when the module is imported.
    """

    module: str
    number: int
    line: int
    what: str
    first: int
    last: int
    inside: bool


class _Change(ast.NodeTransformer):
    """Numbers all possible changes of a module, and makes the one that is asked for."""

    def __init__(self, wanted: int | None = None) -> None:
        self.wanted: int | None = wanted
        self.found: list[tuple[int, str, int, int, bool]] = []
        self._statements: list[ast.stmt] = []

    def _offer(self, node: ast.AST, what: str) -> bool:
        around = self._statements[-1]
        inside = any(isinstance(statement, ast.FunctionDef) for statement in self._statements)
        # Of an `if` or a loop, the line that decides; not all that lies within it.
        last = around.body[0].lineno - 1 if hasattr(around, "body") else around.end_lineno or around.lineno
        self.found.append((node.lineno, what, around.lineno, last, inside))  # type: ignore[attr-defined]
        return len(self.found) - 1 == self.wanted

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert | ast.Import | ast.ImportFrom):
            return node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return node
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in WORDING:
            return node
        if not isinstance(node, ast.stmt):
            return super().visit(node)
        self._statements.append(node)
        try:
            return super().visit(node)
        finally:
            self._statements.pop()

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.args.defaults = [self.visit(default) for default in node.args.defaults]
        node.args.kw_defaults = [None if default is None else self.visit(default) for default in node.args.kw_defaults]
        node.body = [self.visit(statement) for statement in node.body]
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        if isinstance(node.value, ast.Constant):  # a docstring
            return node
        acts = isinstance(node.value, ast.Call) and ast.unparse(node.value.func).split(".")[-1] not in WORDING
        if acts and self._offer(node, f"left out: {ast.unparse(node)[:80]}"):
            return ast.copy_location(ast.Pass(), node)
        return self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        for i, operation in enumerate(node.ops):
            if type(operation) in OPERATIONS and self._offer(node, f"compared otherwise: {ast.unparse(node)[:80]}"):
                node.ops[i] = OPERATIONS[type(operation)]()
        return self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        is_number = type(node.op) in OPERATIONS and not _is_text(node)
        if is_number and self._offer(node, f"calculated otherwise: {ast.unparse(node)[:80]}"):
            node.op = OPERATIONS[type(node.op)]()
        return self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        if self._offer(node, f"and/or exchanged: {ast.unparse(node)[:80]}"):
            node.op = OPERATIONS[type(node.op)]()
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST:
        if self._offer(node, f"turned round: if {ast.unparse(node.test)[:80]}"):
            node.test = ast.copy_location(ast.UnaryOp(ast.Not(), node.test), node.test)
        return self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        if self._offer(node, f"turned round: {ast.unparse(node)[:80]}"):
            node.body, node.orelse = node.orelse, node.body
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        for i, keyword in enumerate(node.keywords):
            if keyword.arg and self._offer(node, f"argument left out: {keyword.arg} of {ast.unparse(node.func)[:60]}"):
                del node.keywords[i]
                break
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        value = node.value
        if isinstance(value, bool):
            if self._offer(node, f"{value} is {not value}"):
                return ast.copy_location(ast.Constant(not value), node)
        elif isinstance(value, int | float):
            other = value + 1 if isinstance(value, int) else value * 2 + 0.1
            if self._offer(node, f"{value} is {other:g}"):
                return ast.copy_location(ast.Constant(other), node)
        return node


def _is_text(node: ast.BinOp) -> bool:
    return any(
        isinstance(part, ast.JoinedStr) or isinstance(getattr(part, "value", None), str) for part in ast.walk(node)
    )


def all_faults() -> Iterator[Fault]:
    for folder in FOLDERS:
        for file in sorted((PACKAGE / folder).glob("*.py")):
            change = _Change()
            change.visit(ast.parse(file.read_text(encoding="utf-8")))
            for number, found in enumerate(change.found):
                yield Fault(str(file.relative_to(PACKAGE)), number, *found)


def source_with(fault: Fault) -> str:
    tree = ast.parse((PACKAGE / fault.module).read_text(encoding="utf-8"))
    return ast.unparse(ast.fix_missing_locations(_Change(fault.number).visit(copy.deepcopy(tree))))


def write_map(file: Path, tests: list[str]) -> None:
    """Run all tests once, and keep which of them run which line, and how long each takes; not those that fail without a fault."""
    with tempfile.TemporaryDirectory() as name:
        data, times = Path(name) / "coverage", Path(name) / "times.xml"
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-n", "2", "--cov=svfap", "--cov-context=test", "--cov-report=",
             f"--junitxml={times}", *tests],
            cwd=ROOT, env={**os.environ, "COVERAGE_FILE": str(data), "PYTHONPATH": str(ROOT / "src")}, check=False,
        )  # fmt: skip
        seconds: dict[str, float] = {}
        for case in ET.parse(times).iter("testcase"):
            path = (case.get("classname") or "").replace(".", "/") + ".py"
            if case.find("failure") is None and case.find("error") is None:
                seconds[f"{path}::{case.get('name')}"] = float(case.get("time") or 0)
        lines: dict[str, dict[int, list[str]]] = {}
        from coverage.numbits import numbits_to_nums

        with sqlite3.connect(data) as base:
            files = {number: Path(path) for number, path in base.execute("select id, path from file")}
            contexts = dict(base.execute("select id, context from context"))
            branches = base.execute("select name from sqlite_master where name = 'arc'").fetchone()
            rows = (
                (
                    (f, c, [abs(a), abs(b)])
                    for f, c, a, b in base.execute("select file_id, context_id, fromno, tono from arc")
                )
                if branches
                else (
                    (f, c, numbits_to_nums(n))
                    for f, c, n in base.execute("select file_id, context_id, numbits from line_bits")
                )
            )
            found: dict[tuple[str, int], set[str]] = {}
            for f, c, numbers in rows:
                test = contexts[c].split("|")[0]
                if test in seconds and files[f].is_relative_to(PACKAGE):
                    for line in numbers:
                        found.setdefault((str(files[f].relative_to(PACKAGE)), line), set()).add(test)
        for (module, line), names in found.items():
            lines.setdefault(module, {})[line] = sorted(names)
        file.write_text(json.dumps({"seconds": seconds, "lines": lines}))
        print(f"{len(seconds)} tests, {len(found)} lines: {file}")


def existing_tests() -> set[str]:
    """The names of all tests that there are now; those of the map may have been renamed since."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {line for line in done.stdout.splitlines() if "::" in line}


def tests_of(fault: Fault, known: dict) -> list[str]:
    """The tests that run the fault's statement; first those of its folder and of the wiring, the quickest first.

    All that run anything of its module where that is run on import, or by processes that the tests start, which are not seen.
    """
    lines = known["lines"].get(fault.module, {})
    around = range(fault.first, max(fault.last, fault.line) + 1) if fault.inside else ()
    names = {name for line in around for name in lines.get(str(line), ())}
    names = names or {name for tests in lines.values() for name in tests}
    return sorted(names, key=lambda name: (not name.startswith(_near(fault)), known["seconds"].get(name, 1.0)))


def _near(fault: Fault) -> tuple[str, str]:
    """The folders of the tests that are most likely to notice a fault."""
    return f"tests/{fault.module.split('/')[0]}/", "tests/wiring/"


def is_noticed(fault: Fault, tests: list[str], most_s: float) -> str:
    """The test that failed first, or "" if none does; they may take `most_s` seconds."""
    with tempfile.TemporaryDirectory(prefix="svfap-fault-") as name:
        src = Path(name) / "src"
        shutil.copytree(PACKAGE, src / "svfap", ignore=shutil.ignore_patterns("__pycache__"))
        (src / "svfap" / fault.module).write_text(source_with(fault), encoding="utf-8")
        environment = {**os.environ, "PYTHONPATH": str(src), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        arguments = Path(name) / "tests.txt"
        arguments.write_text("\n".join(tests) + "\n")
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"@{arguments}"]
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip
        try:
            output, _ = process.communicate(timeout=most_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return "(ran past its time)"
    if process.returncode == 0:
        return ""
    failed = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0].split(" - ")[0] if failed else f"(exit {process.returncode})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--map", action="store_true", help="find out which test runs which line, and stop")
    parser.add_argument("--number", type=int, default=200, help="faults; default: 200")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parallel", type=int, default=2, help="faults tried at a time; default: 2")
    parser.add_argument("--most_s", type=float, default=300.0, help="seconds of tests run for a fault; default: 300")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "runs" / "mutations", help="folder of the map and the outcomes"
    )
    parser.add_argument("--again", action="store_true", help="try those once more that survived")
    parser.add_argument("tests", nargs="*", help="test files for --map; default: all")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.map:
        return write_map(args.out / "map.json", args.tests)
    known = json.loads((args.out / "map.json").read_text())
    existing = existing_tests()
    outcomes = args.out / "outcomes.jsonl"
    done = [json.loads(line) for line in outcomes.read_text().splitlines()] if outcomes.exists() else []
    if args.again:
        done = [outcome for outcome in done if outcome["by"]]
    tried = {(outcome["module"], outcome["number"]) for outcome in done}
    by_folder: dict[str, list[Fault]] = {}
    for fault in all_faults():
        by_folder.setdefault(fault.module.split("/")[0], []).append(fault)
    rng, chosen = random.Random(args.seed), []
    whole = sum(map(len, by_folder.values()))
    for faults in by_folder.values():  # each folder by its share of all possible faults
        chosen += rng.sample(faults, min(round(args.number * len(faults) / whole) or 1, len(faults)))
    rng.shuffle(chosen)  # so that an unfinished run is a fair sample
    left = [fault for fault in chosen if (fault.module, fault.number) not in tried]

    def attempt(fault: Fault) -> dict:
        began = time.monotonic()
        tests = [name for name in tests_of(fault, known) if name in existing and name in known["seconds"]]
        # The first for half of the time, and of the others some from all over.
        ends = list(itertools.accumulate(known["seconds"][name] for name in tests))
        quick = bisect.bisect(ends, args.most_s / 2)
        step = math.ceil(max((ends[-1] if ends else 0) - args.most_s / 2, 1) / (args.most_s / 2))
        some = tests[:quick] + tests[quick::step]
        usual_s = sum(known["seconds"][name] for name in some)
        newer = existing - known["seconds"].keys()  # written after the map
        some = sorted(newer, key=lambda name: not name.startswith(_near(fault))) + some
        by = is_noticed(fault, some, START_S + PATIENCE * usual_s) if tests else ""
        return {**asdict(fault), "by": by, "tests": len(tests), "seconds": round(time.monotonic() - began, 1)}

    with ThreadPoolExecutor(args.parallel) as pool, outcomes.open("w" if args.again else "a") as file:
        if args.again:
            file.writelines(json.dumps(outcome) + "\n" for outcome in done)
        for outcome in pool.map(attempt, left):
            done.append(outcome)
            file.write(json.dumps(outcome) + "\n")
            file.flush()
            print(
                f"{len(done)}: {outcome['module']}:{outcome['line']} {outcome['what']}: {outcome['by'] or 'SURVIVED'}",
                flush=True,
            )
    print("\n| folder | faults | not noticed |\n| --- | ---: | ---: |")
    for folder in FOLDERS:
        here = [outcome for outcome in done if outcome["module"].startswith(f"{folder}/")]
        print(f"| {folder} | {len(here)} | {sum(not outcome['by'] for outcome in here)} |")
    survivors = [outcome for outcome in done if not outcome["by"]]
    print(f"| all | {len(done)} | {len(survivors)} |\n")
    for outcome in survivors:
        print(f"- {outcome['module']}:{outcome['line']}: {outcome['what']} ({outcome['tests']} tests run the line)")


if __name__ == "__main__":
    main()
