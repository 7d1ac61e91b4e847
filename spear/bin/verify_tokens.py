"""`spear verify-tokens`: checks counts, lengths, checksums, cards and codebook use, and writes the READY file.

spear verify-tokens --tokens data/tokens --cuts data/manifests/cuts_speech_train.jsonl
"""

from dataclasses import dataclass, field
from pathlib import Path

from spear import config, log
from spear.errors import ConfigError
from spear.tokens import command
from spear.tokens.verify import verify_tokens, write_ready


@dataclass
class VerifyTokensConfig:
    """Settings of `spear verify-tokens`.

    Attributes:
        tokens: directory whose subdirectories are the streams.
        cuts: every cuts file that the tokens are meant for.
        ready: the file to write when all is well; READY beside the tokens if empty.
        dry_run: say what would be checked, and do nothing.
    """

    tokens: str = ""
    cuts: list[str] = field(default_factory=list)
    ready: str = ""
    dry_run: bool = False


def main(argv: list[str] | None = None) -> int:
    """Parses the arguments, verifies, prints the table; 1 when there is a problem."""
    settings = config.parse(VerifyTokensConfig, command.normalise(argv), description=__doc__)
    log.setup()
    if not settings.tokens or not settings.cuts:
        raise ConfigError("no tokens or no cuts", "--tokens DIR --cuts FILE [FILE...]", "give both")
    ready = Path(settings.ready) if settings.ready else Path(settings.tokens).absolute().parent / "READY"
    if settings.dry_run:
        print(f"would check {settings.tokens} against {len(settings.cuts)} cuts files and write {ready}")
        return 0
    report = verify_tokens(settings.tokens, settings.cuts)
    write_ready(ready, report, settings.cuts)
    print(report.table())
    if report.problems:
        print(f"{len(report.problems)} problems; {ready} is not written. Run spear extract-tokens again.")
        return 1
    print(f"tokens are ready: {ready}")
    return 0
