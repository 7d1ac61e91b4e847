#!/usr/bin/env python3
"""The corpora of ARCH that are there, clean; `--suite arch,arch_legacy` adds the numbers of the published protocol.

`--help` lists the flags; `spear evaluate --suite arch` is the same command for any data folder.
"""

import sys

from spear.bin.evaluate import recipe

if __name__ == "__main__":
    sys.exit(recipe("all", __file__, "arch"))
