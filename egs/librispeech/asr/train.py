#!/usr/bin/env python3
"""Fine-tunes a recogniser: --config shared/conf/finetune/ctc_100h.yaml --init-from CHECKPOINT."""

import sys
from pathlib import Path

from spear.bin.main import guard
from spear.train.main import main

if __name__ == "__main__":
    sys.exit(guard(lambda argv: main(argv, recipe_dir=Path(__file__).resolve().parent)))
