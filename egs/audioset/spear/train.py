#!/usr/bin/env python3
"""Trains the student of conf/student.yaml, or of --config FILE; alone, or in several processes under torchrun."""

import sys
from pathlib import Path

from spear.bin.main import guard
from spear.train.main import main

if __name__ == "__main__":
    sys.exit(guard(lambda argv: main(argv, recipe_dir=Path(__file__).resolve().parent)))
