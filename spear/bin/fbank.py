"""`spear fbank`: stage 2, durations and statistics, and stored log-mel features unless --on-the-fly true."""

import contextlib

from spear import config, fs, locks, log
from spear.manifest.features import FeaturesConfig, make_features


def main(argv: list[str] | None = None) -> int:
    """Parses the arguments, computes, prints what was stored."""
    settings = config.parse(FeaturesConfig, argv, description=__doc__)
    log.setup()
    with contextlib.nullcontext() if settings.dry_run else locks.hold(settings.output, "spear fbank"):
        stats = make_features(settings)
    size = fs.human_bytes(stats["feature_bytes"])
    what = "would take" if settings.dry_run else "are not stored: they would take" if settings.on_the_fly else "take"
    print(f"{stats['items']} cuts, {stats['hours']} h, {stats['num_frames']} frames; features {what} {size}")
    return 0
