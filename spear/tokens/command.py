"""What the extraction commands have in common: arguments, this process among the others, signals, the run itself."""

import contextlib
import faulthandler
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from spear import dist, ranges, records
from spear.errors import ConfigError
from spear.fs import human_bytes
from spear.log import get_logger, human_seconds
from spear.memory import keep_freed_memory
from spear.tokens.budget import estimate
from spear.tokens.extract import ExtractReport, ExtractSettings, extract, remove_stale, write_quarantine
from spear.tokens.streams import Stream
from spear.tokens.units import Unit

logger = get_logger(__name__)
REQUEUE_EXIT_CODE = 85
_SILENCE_SECONDS = 300.0
ALIASES = {"max-duration": "max_seconds"}


def _setting(default, text: str):
    # Help text in the field, not in the docstring: the commands' own classes inherit these settings.
    return field(default=default, metadata={"help": text})


@dataclass
class ExtractionConfig:
    """Settings of every extraction command."""

    cuts: list[str] = field(
        default_factory=list, metadata={"help": "cuts files (JSONL, .gz too) of stage 1; several follow it"}
    )
    output: str = _setting("", "directory that receives the result")
    max_seconds: records.Positive = _setting(200.0, "padded audio in a batch; longer cuts go to quarantine")
    unit_seconds: records.Positive = _setting(
        1800.0, "audio of a unit of work, which becomes one shard; hours for large corpora"
    )
    num_workers: ranges.Threads = _setting(2, "threads that read and decode audio")
    device: str = _setting("auto", "auto, cpu or cuda; under torchrun each process takes the GPU of its local rank")
    max_bad_fraction: ranges.Share = _setting(
        0.01, "share of quarantined cuts beyond which it stops; one is always allowed"
    )
    retry_quarantined: bool = _setting(False, "do the units again that hold quarantined cuts")
    overwrite: bool = _setting(False, "replace an output that was made with another teacher or quantizer")
    dry_run: bool = _setting(False, "say what would be done, with the estimate, and do nothing")

    def check(self) -> None:
        """Refuses settings that name nothing to work on.

        Raises:
            ConfigError: no cuts, no output, or a limit that is not positive.
        """
        if not self.cuts:
            raise ConfigError("no cuts", "--cuts FILE [FILE...]", "give the cuts files that stage 1 wrote")
        if not self.output:
            raise ConfigError("no output", "--output DIR", "give a directory")
        ranges.check(self)

    def settings(self) -> ExtractSettings:
        """For `spear.tokens.extract`."""
        return ExtractSettings(self.max_seconds, self.num_workers, self.max_bad_fraction, self.retry_quarantined)


def normalise(argv: Sequence[str] | None, pairs: dict[str, str] | None = None) -> list[str]:
    """Lets `--cuts A B` take several files and `--stream NAME=VALUE` be repeated, as `spear.config` takes neither.

    Args:
        argv: arguments; None means those of the process.
        pairs: flags of the form NAME=VALUE, and the mapping in the configuration that each fills.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    result: list[str] = []
    while words:
        flag, equals, value = words.pop(0).partition("=")
        values = [value] if equals else []
        while words and not words[0].startswith("--"):
            values.append(words.pop(0))
        mapping = (pairs or {}).get(flag)
        if flag == "--cuts":
            result += [flag, json.dumps([name for value in values for name in _names(value)])]
        elif mapping:
            for pair in values:
                name, sign, text = pair.partition("=")
                if not (name and sign and text):
                    raise ConfigError(f"{flag} {pair}", f"{flag} NAME=VALUE", "see --help")
                result += [f"--{mapping}.{name}", text]
        else:
            result += [f"{flag}={values.pop(0)}" if equals else flag, *values]
    return result


def _names(value: str) -> list[str]:
    if os.path.exists(value):
        return [value]  # a path with a comma, not two paths
    return json.loads(value) if value.startswith("[") else [name for name in value.split(",") if name]


def process() -> tuple[int, int]:
    """(rank, number of processes) of torchrun's environment. No process group: extraction shares only the disk."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and SIGUSR1 end the run cleanly with exit code 85, which schedulers take as "start me again"."""

    def leave(number, frame):
        logger.warning("signal %d: stopping; finished units are kept, the same command continues", number)
        raise SystemExit(REQUEUE_EXIT_CODE)

    old = {}
    with contextlib.suppress(ValueError):  # not in the main thread
        for number in (signal.SIGTERM, signal.SIGUSR1):
            old[number] = signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def run(
    config: ExtractionConfig, units: Sequence[Unit], streams: Sequence[Stream], what: str, refused: Sequence[dict] = ()
) -> ExtractReport | None:
    """Estimates, extracts this process' share, and collects the quarantine list; None for a dry run.

    Args:
        refused: {id, path, reason} of cuts that belong to no unit, for the list.

    Raises:
        CardError: the output holds something else; DataError: no space, or too many bad cuts.
    """
    rank, world_size = process()
    output = Path(config.output)
    cost = estimate(units, streams, output, world_size=world_size, measure=rank == 0)
    logger.info("%s -> %s: %d units; %s", what, output, len(units), cost)
    if config.dry_run:
        return None
    cost.require_space(output)
    with contextlib.ExitStack() as held:
        for stream in streams:  # other streams may be made beside these
            held.enter_context(dist.hold(stream.directory, f"the extraction of {what}"))
        return _extract(config, units, streams, what, refused)


def _extract(
    config: ExtractionConfig, units: Sequence[Unit], streams: Sequence[Stream], what: str, refused: Sequence[dict]
) -> ExtractReport:
    (rank, world_size), output = process(), Path(config.output)
    for stream in streams:
        stream.prepare(config.overwrite)
    if removed := remove_stale(units, streams):
        logger.info("removed %d shards that belong to no unit any more", removed)
    if all(stream.teacher.device.type == "cpu" for stream in streams):
        keep_freed_memory()
    with interruptible():
        report = extract(units, streams, config.settings(), rank=rank, world_size=world_size, heartbeat=_heartbeat)
    faulthandler.cancel_dump_traceback_later()
    bad = write_quarantine(output / "quarantine.jsonl", units, streams, refused)
    size = sum(p.stat().st_size for stream in streams for p in stream.directory.iterdir() if p.is_file())
    logger.info(
        "%s: %d units done, %d were there; %.0f s of audio in %s (%.1f x real time); %s rows; %d trimmed by one frame; "
        "%s quarantined; %s on disk",
        what,
        report.units_done,
        report.units_before,
        report.seconds,
        human_seconds(report.elapsed_seconds),
        report.seconds / max(report.elapsed_seconds, 1e-9),
        ", ".join(f"{name} {rows}" for name, rows in report.rows.items()),
        report.trimmed,
        len(report.quarantined) if bad is None else bad,
        human_bytes(size),
    )
    return report


def _heartbeat() -> None:
    """Asks for the stacks of all threads on stderr, should nothing be heard for five minutes."""
    with contextlib.suppress(ValueError, AttributeError, OSError):  # stderr may be no real file
        faulthandler.dump_traceback_later(_SILENCE_SECONDS, repeat=True, file=sys.__stderr__)
