#!/usr/bin/env python3
"""SUPERB ASV: trials of VoxCeleb1-O (cleaned), with an x-vector head on frozen features.

`--help` lists the flags; `spear evaluate --suite superb` is the same command for any data folder.
"""

import sys

from spear.bin.evaluate import recipe

if __name__ == "__main__":
    sys.exit(recipe("ASV", __file__, "superb"))
