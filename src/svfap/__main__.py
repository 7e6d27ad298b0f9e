"""`python -m svfap`, which is what torchrun and `accelerate launch` start."""

from svfap.cli.main import run

run()
