"""``python -m sb3_pg.study``."""

import sys

from sb3_pg.study.command import main

if __name__ == "__main__":
    sys.exit(main())
