#!/usr/bin/env python3
"""All ten SUPERB tasks on the small corpus, at the size of the protocol `mini`.

`--help` lists the flags; `spear evaluate --suite superb` is the same command for any data folder.
"""

import sys

from spear.bin.evaluate import recipe

if __name__ == "__main__":
    sys.exit(recipe("all", __file__, "superb", "mini"))
