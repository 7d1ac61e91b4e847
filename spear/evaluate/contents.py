"""Which audio a file holds: its content decides, and files that have not changed since are not read again.

The digest of a file is that of all its bytes: features and scores of other audio of equal length are then never taken
for up to date, and a corpus that was moved or copied keeps its features. To read every file once is a small part of
what the encoder costs. `Contents` remembers digests in a small file, and takes a file to be unchanged while its size
and its times of modification and of change are what they were; `forget` makes it read all of them again.
"""

import os
import stat
import time
from pathlib import Path

from spear import fs, records
from spear.errors import DataError
from spear.log import get_logger

FILE_NAME = ".audio_contents.json"
_ABSENT = "absent"
_RECENT_NS = 2_000_000_000  # what changed so lately could change again without another time of change
_Stamp = tuple[int, int, int]

logger = get_logger(__name__)


class Contents:
    """Digests of audio files, each computed once.

    Args:
        directory: holds the file of what was found, if it can be written there; None keeps it in memory.
    """

    def __init__(self, directory: str | Path | None = None):
        self._file = None if directory is None else Path(directory) / FILE_NAME
        self._known: dict[str, tuple[_Stamp, str]] = {}
        self._changed = False
        if self._file is not None and self._file.is_file():
            try:
                found = records.convert(
                    fs.read_json(self._file), dict[str, tuple[_Stamp, records.Sha256]], str(self._file)
                )
                self._known = dict(found)
            except DataError as error:  # it only saves time
                logger.warning("%s: the audio is read again", error.found)

    def digest(self, path: Path) -> str:
        """SHA-256 of a file's bytes; "absent" for what is no file, or cannot be read."""
        try:
            found = os.stat(path)
            if not stat.S_ISREG(found.st_mode):
                return _ABSENT
            name, stamp = os.path.abspath(path), (found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            if name in self._known and self._known[name][0] == stamp:
                return self._known[name][1]
            began_ns = time.time_ns()
            digest = fs.sha256_file(path)
        except (OSError, ValueError):
            return _ABSENT
        if began_ns - max(stamp[1:]) > _RECENT_NS:
            self._known[name], self._changed = (stamp, digest), True
        return digest

    def save(self) -> None:
        """Writes what was found; what another process wrote meanwhile is lost and read again."""
        if self._file is None or not self._changed:
            return
        try:
            fs.write_json(self._file, self._known)
        except OSError as error:  # a data directory that may only be read
            logger.debug("%s: %s", self._file, error)
        self._changed = False


def forget(directory: str | Path) -> None:
    """Makes the next `Contents` of a directory read every file, whatever its times say."""
    (Path(directory) / FILE_NAME).unlink(missing_ok=True)
