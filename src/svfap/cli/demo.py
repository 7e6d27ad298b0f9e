"""`svfap demo`."""

from __future__ import annotations

from svfap.console import say
from svfap.demo.config import DemoConfig


def run(config: DemoConfig) -> None:
    """Run what is left of the demo, and print its table."""
    from svfap.demo.demo import run_demo

    done = run_demo(config)
    print(done.table)
    say(f"page: {done.page}; table: {config.out / 'table.md'}")
