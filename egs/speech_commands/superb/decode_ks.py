#!/usr/bin/env python3
"""SUPERB KS: twelve classes of Speech Commands v0.01.

`--help` lists the flags; `spear evaluate --suite superb` is the same command for any data folder.
"""

import sys

from spear.bin.evaluate import recipe

if __name__ == "__main__":
    sys.exit(recipe("KS", __file__, "superb"))
