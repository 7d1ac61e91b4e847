"""From a folder of recordings to validated cuts, splits and features.

Everything that reads or writes lhotse manifests is here and in `spear.data`.
"""

from spear.manifest.ingest import ManifestsConfig, make_manifests
from spear.manifest.item import Item, iter_items, manifest_files, read_items
from spear.manifest.summary import format_summary, summarise

__all__ = [
    "Item",
    "ManifestsConfig",
    "format_summary",
    "iter_items",
    "make_manifests",
    "manifest_files",
    "read_items",
    "summarise",
]
