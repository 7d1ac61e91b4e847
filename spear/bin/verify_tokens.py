"""`spear verify-tokens`: checks counts, lengths, checksums, cards and codebook use, and writes the READY file.

    spear verify-tokens --tokens data/tokens --cuts data/manifests/cuts_speech_train.jsonl

With `--recompute 50` and the streams as `spear extract-tokens` was given them, the tokens of 50 cuts are made again
from the audio and compared: the only check that notices other audio under the same ids.

    spear verify-tokens --tokens data/tokens --cuts data/manifests/cuts_speech_train.jsonl --recompute 50 \\
        --stream speech=spear:exp/teacher_speech@-1,data/quantizer/speech
"""

from dataclasses import dataclass, field
from pathlib import Path

from spear import config, dist, log, ranges
from spear.errors import ConfigError
from spear.tokens import command
from spear.tokens.recompute import recompute
from spear.tokens.streams import load_streams, parse_streams
from spear.tokens.units import read_cuts
from spear.tokens.verify import VerifyReport, verify_tokens, write_ready

_PAIRS = {"--stream": "streams", "--quantizer": "quantizers"}


@dataclass
class VerifyTokensConfig:
    """Settings of `spear verify-tokens`.

    Attributes:
        tokens: directory whose subdirectories are the streams.
        cuts: every cuts file that the tokens are meant for.
        ready: the file to write when all is well; READY beside the tokens if empty.
        recompute: tokens of so many cuts of every stream are made again and compared; 0: none.
        streams: TEACHER,QUANTIZER_DIR of each stream to be recomputed, by name; `--stream NAME=...` adds one.
        quantizers: QUANTIZER_DIR by the stream's name, where `streams` gives the teacher alone.
        device: of the teachers.
        dry_run: say what would be checked, and do nothing.
    """

    tokens: str = ""
    cuts: list[str] = field(default_factory=list)
    ready: str = ""
    recompute: ranges.Jobs = 0
    streams: dict[str, str] = field(default_factory=dict)
    quantizers: dict[str, str] = field(default_factory=dict)
    device: str = "auto"
    dry_run: bool = False


def main(argv: list[str] | None = None) -> int:
    """Parses the arguments, verifies, prints the table; 1 when there is a problem."""
    settings = config.parse(VerifyTokensConfig, command.normalise(argv, _PAIRS), description=__doc__)
    log.setup()
    if not settings.tokens or not settings.cuts:
        raise ConfigError("no tokens or no cuts", "--tokens DIR --cuts FILE [FILE...]", "give both")
    ready = Path(settings.ready) if settings.ready else Path(settings.tokens).absolute().parent / "READY"
    if settings.dry_run:
        print(f"would check {settings.tokens} against {len(settings.cuts)} cuts files and write {ready}")
        return 0
    report = verify_tokens(settings.tokens, settings.cuts)
    if settings.recompute and not report.problems:
        _recompute(settings, report)
    write_ready(ready, report, settings.cuts)
    print(report.table())
    if report.problems:
        print(f"{len(report.problems)} problems; {ready} is not written. Run spear extract-tokens again.")
        return 1
    print(f"tokens are ready: {ready}")
    return 0


def _recompute(settings: VerifyTokensConfig, report: VerifyReport) -> None:
    """Makes the tokens of a sample again, for every stream whose teacher is given."""
    texts, quantizers = (
        [f"{name}={text}" for name, text in each.items()] for each in (settings.streams, settings.quantizers)
    )
    unknown = sorted(set(settings.streams) - {stream.name for stream in report.streams})
    if not texts or unknown:
        raise ConfigError(
            f"--recompute {settings.recompute} with "
            + (f"the unknown stream '{unknown[0]}'" if unknown else "no stream"),
            "--stream NAME=TEACHER,QUANTIZER_DIR for every stream to be made again, as for spear extract-tokens",
            f"name one of {', '.join(stream.name for stream in report.streams)}",
        )
    items = [item for group in read_cuts(settings.cuts).values() for item in group]
    parsed = parse_streams(texts, [], quantizers)
    for stream in load_streams(parsed, Path(settings.tokens), dist.choose_device(settings.device)):
        agreement = recompute(stream, items, settings.recompute)
        print(f"{stream.name}: {len(agreement.shares)} cuts made again, {agreement.mean:.2%} of their codes are equal")
        report.add(agreement)
