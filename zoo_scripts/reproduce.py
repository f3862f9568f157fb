"""Reproduce a study: train what is missing, write its report (see ``sb3_pg.study`` and docs/studies/README.md)."""

import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy and torch read it

from sb3_pg.study.command import main

if __name__ == "__main__":
    sys.exit(main())
