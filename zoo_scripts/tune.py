"""Search hyperparameters over several seeds (see ``sb3_pg.tune``)."""

import sys

from sb3_pg.tune.command import main

if __name__ == "__main__":
    sys.exit(main())
