"""`spear extract-tokens`: one pass audio -> teachers -> token streams; restarts where it stopped.

    spear extract-tokens --cuts data/manifests/cuts_speech_train.jsonl data/manifests/cuts_audio_train.jsonl \\
        --stream speech=spear:exp/teacher_speech@-1,data/quantizer/speech \\
        --stream audio=spear:exp/teacher_audio@-1,frame_rate_hz=25,data/quantizer/audio --output data/tokens

A stream is NAME=TEACHER,QUANTIZER_DIR, a teacher is KIND:PATH@LAYER,option=value. `--quantizer NAME=DIR` gives a
stream's quantizer apart, for paths with commas. `--stream-domains audio=audio` restricts a stream to cuts of some
domains. Under torchrun the units of work are shared by all processes.
"""

from dataclasses import dataclass, field
from pathlib import Path

from spear import config, dist, log, records
from spear.errors import ConfigError, SpearError
from spear.quantize.codec import DEFAULT_BEAM, DEFAULT_PASSES
from spear.tokens import command
from spear.tokens.streams import load_streams, parse_streams
from spear.tokens.units import plan_units, read_cuts


@dataclass
class ExtractTokensConfig(command.ExtractionConfig):
    """Settings of `spear extract-tokens`.

    Attributes:
        streams: TEACHER,QUANTIZER_DIR of each stream, by name; `--stream NAME=...` adds one.
        quantizers: QUANTIZER_DIR by the stream's name, where `streams` gives the teacher alone.
        refine_passes: of the code search; fewer are faster, and the tokens' card says how many.
        beam: combinations that the code search keeps.
        bfloat16_search: the search's products in bfloat16: faster where the processor has it; the card says so.
        stream_domains: domains (speech, audio) of the cuts in a stream, by name; a stream not named takes all cuts.
    """

    streams: dict[str, str] = field(default_factory=dict)
    quantizers: dict[str, str] = field(default_factory=dict)
    refine_passes: records.Count = DEFAULT_PASSES
    beam: records.PositiveCount = DEFAULT_BEAM
    bfloat16_search: bool = False
    stream_domains: dict[str, str] = field(default_factory=dict)


def main(argv: list[str] | None = None) -> int:
    """Parses the arguments and extracts."""
    pairs = {"--stream": "streams", "--stream-domains": "stream_domains", "--quantizer": "quantizers"}
    words = command.normalise(argv, pairs)
    settings = config.parse(ExtractTokensConfig, words, command.ALIASES, description=__doc__)
    rank, _ = command.process()
    log.setup(rank=rank)
    settings.check()
    parsed = parse_streams(
        [f"{name}={text}" for name, text in settings.streams.items()],
        [f"{name}={text}" for name, text in settings.stream_domains.items()],
        [f"{name}={text}" for name, text in settings.quantizers.items()],
    )
    if not parsed:
        raise ConfigError("no stream", "--stream NAME=TEACHER,QUANTIZER_DIR", "see --help for an example")
    refused: list[dict] = []
    try:
        units = plan_units(read_cuts(settings.cuts, refused), settings.unit_seconds)
        search = {"refine_passes": settings.refine_passes, "beam": settings.beam}
        if settings.bfloat16_search:
            search["bfloat16"] = True
        streams = load_streams(parsed, Path(settings.output), dist.choose_device(settings.device), search)
    except SpearError as error:
        if settings.dry_run:  # earlier stages have not run yet: say what is known
            print(f"would extract {', '.join(settings.streams)} to {settings.output}; no estimate yet: {error.found}")
            return 0
        raise
    command.run(settings, units, streams, f"tokens {', '.join(stream.name for stream in streams)}", refused)
    return 0
