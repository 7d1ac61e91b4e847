"""`spear embed`: teacher frames of a capped, seeded sample of cuts, which train a quantizer and may then be deleted.

    spear embed --cuts data/manifests/cuts_speech_train.jsonl --teacher spear:exp/teacher_speech@-1 \\
        --max-frames 200000 --output data/embeddings/speech
"""

from dataclasses import dataclass
from pathlib import Path

from spear import config, dist, log, records
from spear.errors import ConfigError, SpearError
from spear.teachers import load_teacher
from spear.tokens import command
from spear.tokens.streams import embedding_stream
from spear.tokens.units import plan_units, read_cuts, sample_items


@dataclass
class EmbedConfig(command.ExtractionConfig):
    """Settings of `spear embed`.

    Attributes:
        teacher: KIND:PATH@LAYER,option=value.
        max_frames: cap on the frames that are stored (float16); whole cuts are drawn until it is reached.
        seed: of the draw.
    """

    teacher: str = ""
    max_frames: records.PositiveCount = 200_000
    seed: int = 42


def main(argv: list[str] | None = None) -> int:
    """Parses the arguments and embeds."""
    settings = config.parse(EmbedConfig, command.normalise(argv), command.ALIASES, description=__doc__)
    rank, _ = command.process()
    log.setup(rank=rank)
    settings.check()
    if not settings.teacher:
        raise ConfigError("no teacher", "--teacher KIND:PATH@LAYER", "see --help for an example")
    refused: list[dict] = []
    try:
        files = read_cuts(settings.cuts, refused)
        teacher = load_teacher(settings.teacher, device=dist.choose_device(settings.device))
        items = sample_items(files, settings.max_frames, teacher, settings.seed)
    except SpearError as error:
        if settings.dry_run:  # earlier stages have not run yet: say what is known
            print(
                f"would embed at most {settings.max_frames} frames of {settings.teacher} to {settings.output}; "
                f"no estimate yet: {error.found}"
            )
            return 0
        raise
    stream = embedding_stream(teacher, Path(settings.output), settings.max_frames, settings.seed)
    units = plan_units({"sample": items}, settings.unit_seconds)
    what = f"{len(items)} cuts of at most {settings.max_frames} frames"
    command.run(settings, units, [stream], what, refused)
    return 0
