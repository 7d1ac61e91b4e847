#!/usr/bin/env python3
"""Linear probes of frozen encoders on ESC-50.

`--help` lists the flags; `spear evaluate --suite esc50` is the same command for any data folder.
"""

import sys

from spear.bin.evaluate import recipe

if __name__ == "__main__":
    sys.exit(recipe("all", __file__, "esc50"))
