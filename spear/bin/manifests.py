"""`spear manifests`: stage 1, from a folder of recordings to validated cuts, splits, quarantine and a summary."""

from pathlib import Path

from spear import config, locks, log
from spear.manifest import ManifestsConfig, format_summary, make_manifests


def main(argv: list[str] | None = None) -> int:
    """Parses the arguments, makes the manifests, prints the summary."""
    settings = config.parse(ManifestsConfig, argv, description=__doc__)
    settings.check()
    log.setup()
    # Corpora of different names may be prepared side by side in one folder: they share no file.
    with locks.hold(Path(settings.output) / ".done" / settings.name, "spear manifests"):
        summary = make_manifests(settings)
    print(format_summary(summary))
    if summary["quarantine"]:
        print(f"see {settings.file('quarantine')}")
    return 0
