#!/usr/bin/env python3
"""The tasks of HEAR 2021 that are there, under the published protocol.

`--help` lists the flags; `spear evaluate --suite hear` is the same command for any data folder.
"""

import sys

from spear.bin.evaluate import recipe

if __name__ == "__main__":
    sys.exit(recipe("all", __file__, "hear"))
