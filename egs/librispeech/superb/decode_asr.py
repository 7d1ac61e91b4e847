#!/usr/bin/env python3
"""SUPERB ASR: words of test-clean by a recurrent CTC head on frozen features.

`--help` lists the flags; `spear evaluate --suite superb` is the same command for any data folder.
"""

import sys

from spear.bin.evaluate import recipe

if __name__ == "__main__":
    sys.exit(recipe("ASR", __file__, "superb"))
