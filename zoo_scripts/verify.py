"""The long form of the tests of correctness: gradients against exact ones, and faults with 50 kills.

    python zoo_scripts/verify.py

Runs verify_gradients.py and verify_faults.py with their defaults; they write the tables of docs/correctness.md and
docs/reliability.md. Fails if one of them does.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

SCRIPTS = ("verify_gradients.py", "verify_faults.py")


def main() -> int:
    """Command line; the exit status is the number of scripts that failed."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    here = Path(__file__).parent
    return sum(subprocess.run([sys.executable, str(here / script)], check=False).returncode != 0 for script in SCRIPTS)


if __name__ == "__main__":
    sys.exit(main())
