#!/usr/bin/env python3
"""SUPERB SID: the 1251 speakers of VoxCeleb1.

`--help` lists the flags; `spear evaluate --suite superb` is the same command for any data folder.
"""

import sys

from spear.bin.evaluate import recipe

if __name__ == "__main__":
    sys.exit(recipe("SID", __file__, "superb"))
