"""What a suite is: tasks that are scored together, where their rows come from, and the protocol that is theirs."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from spear.errors import ConfigError, DataError
from spear.evaluate import contents
from spear.evaluate.protocol import PROTOCOLS
from spear.evaluate.table import Row, Table, settled
from spear.evaluate.task import Task
from spear.log import get_logger

logger = get_logger(__name__)
Refuse = Callable[[str, ConfigError], Any]


class Suite:
    """Base of the suites.

    Attributes:
        changes: fields of the settings of its tasks that the suite decides.

    Args:
        data_dir: of the recipe.
        protocol: a name in `protocol.PROTOCOLS`; empty for the suite's own.

    Raises:
        ConfigError: no such protocol.
    """

    name: str
    own_protocol: str
    manifests: str
    changes: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, data_dir: str | Path, protocol: str = ""):
        self.data_dir, self.protocol = Path(data_dir).absolute(), protocol or self.own_protocol
        if self.protocol not in PROTOCOLS:
            raise ConfigError(f"protocol '{protocol}'", " or ".join(PROTOCOLS), "correct --protocol")

    @property
    def folder(self) -> str:
        """Of its run files: scores of two protocols lie beside one another."""
        return self.name if self.protocol == self.own_protocol else f"{self.name}-{self.protocol}"

    @property
    def place(self) -> dict[str, Any]:
        """Arguments with which `suites.open_suite` makes it again in another process, and its name."""
        return {"suite": self.name, "data_dir": str(self.data_dir), "protocol": self.protocol}

    def find(self, names: Sequence[str], refuse: Refuse | None = None) -> list[Task]:
        """Tasks by name; `all` stands for those that the data have.

        Args:
            refuse: is told of a task whose entry cannot be used, if it is asked for; by default that is raised.

        Raises:
            ConfigError: no such task.
        """
        raise NotImplementedError

    def forget_audio(self) -> None:
        """Makes the next table read every audio file again (see `contents`)."""
        contents.forget(self.data_dir / self.manifests)

    def usable(
        self, task: Task, rows: list[Row], skipped: list[dict], max_items: int | None = None, gain_db: float = 0.0
    ) -> Table:
        """The table of rows that were found one by one; tells what was left out.

        Raises:
            DataError: nothing is left.
        """
        for bad in skipped[:5]:
            logger.warning("%s: left out %s: %s", task.name, bad["id"], bad["reason"])
        if skipped:
            logger.warning("%s: %d of %d recordings left out", task.name, len(skipped), len(skipped) + len(rows))
        if not rows:
            reason = f": {skipped[0]['reason']}" if skipped else ""
            raise DataError(f"no recording of {task.name}{reason}", "some of them", "unpack the task's archive again")
        return Table(settled(rows, self.data_dir / self.manifests, max_items, gain_db), skipped)

    def table(self, task: Task, max_items: int | None = None, gain_db: float = 0.0) -> Table:
        """The rows of a task; the caller may change the lists.

        Args:
            max_items: at most this many rows of each split, chosen by a hash of the id.
            gain_db: added to the level of every recording.

        Raises:
            DataError: there are none.
        """
        raise NotImplementedError
