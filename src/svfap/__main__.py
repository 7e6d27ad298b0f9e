"""`python -m svfap`, which is what torchrun and `accelerate launch` start."""

import sys

from svfap.cli.main import main

sys.exit(main())
