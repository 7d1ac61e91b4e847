"""`spear export-tokens`: tokens as custom fields of lhotse cuts, for icefall and the authors' training scripts.

    spear export-tokens --cuts data/manifests/cuts_audioset_train.jsonl --tokens data/tokens --output data/export \\
        --fields.wavlm_codebook_indexes speech --fields.dasheng_codebook_indexes audio --format shar

"pointers" leaves tokens where they are (readers `import spear.manifest.exchange`), "numpy" and "hdf5" copy them, "shar"
makes a directory of lhotse Shar for each cuts file. `--quantizers DIR` also writes the authors' quantizer files.
"""

from dataclasses import dataclass, field
from pathlib import Path

from spear import config, locks, log
from spear.errors import ConfigError, DataError
from spear.quantize import load_quantizer
from spear.quantize.store import save_authors_file
from spear.tokens import command, open_stream

FORMATS = ("pointers", "numpy", "hdf5", "shar")


@dataclass
class ExportTokensConfig:
    """Settings of `spear export-tokens`.

    Attributes:
        cuts: cuts files of stage 1.
        tokens: directory of the streams.
        fields: stream by the name of its custom field; each stream as NAME_codebook_indexes when there is none.
        output: directory of the result.
        format: pointers, numpy, hdf5 or shar.
        audio: put FLAC audio into Shar.
        quantizers: directory of quantizers by stream; each becomes output/NAME_quantizer.pt.
    """

    cuts: list[str] = field(default_factory=list)
    tokens: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    output: str = ""
    format: str = "pointers"
    audio: bool = True
    quantizers: str = ""


def main(argv: list[str] | None = None) -> int:
    """Parses the arguments and exports."""
    settings = config.parse(ExportTokensConfig, command.normalise(argv), description=__doc__)
    log.setup()
    config.require(settings, "cuts", "tokens", "output")
    if settings.format not in FORMATS:
        raise ConfigError(f"format '{settings.format}'", "one of " + ", ".join(FORMATS), "correct --format")
    tokens, output = Path(settings.tokens), Path(settings.output)
    names = sorted(path.name for path in tokens.iterdir() if (path / "card.json").exists()) if tokens.is_dir() else []
    if not names:
        raise DataError(
            f"no stream of tokens in {tokens}", "directories with card.json, one for each stream", "correct --tokens"
        )
    fields = settings.fields or {f"{name}_codebook_indexes": name for name in names}
    streams = {}
    for label, stream in fields.items():
        if stream not in names:
            raise ConfigError(f"stream '{stream}'", f"one of {', '.join(names)}", f"look into {tokens}")
        streams[label] = (tokens / stream, open_stream(tokens / stream)[1].frame_rate_hz)
    from spear.manifest.exchange import write_cuts  # imports lhotse

    cuts = [Path(path) for path in settings.cuts]
    with locks.hold(output, "spear export-tokens"):
        counts = write_cuts(cuts, streams, output, settings.format, settings.audio)
    for name, count in counts.items():
        print(f"{output / name}: {count} cuts with {', '.join(streams)}")
    if settings.quantizers:
        for stream in sorted(set(fields.values())):
            file = output / f"{stream}_quantizer.pt"
            save_authors_file(file, load_quantizer(Path(settings.quantizers) / stream))
            print(f"{file}: the quantizer with its mean and std")
    return 0
