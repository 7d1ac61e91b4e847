"""`spear kmeans-labels`: clusters a teacher's frames and labels every cut with them, as HuBERT's tools do.

    spear kmeans-labels --embeddings data/embeddings/speech --teacher spear:exp/teacher_speech@-1 --num-classes 500 \\
        --cuts data/manifests/cuts_speech_train.jsonl --output data/tokens/kmeans500

The frames that are clustered are those of `spear embed`; the teacher must be the same one. The stream is named after
the output directory; train with `streams: {kmeans500: {objective: labels}}`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec

from spear import config, dist, log
from spear.teachers import load_teacher
from spear.tokens import command
from spear.tokens.card import MAX_CODEBOOK_SIZE
from spear.tokens.kmeans import cluster
from spear.tokens.streams import token_stream
from spear.tokens.units import plan_units, read_cuts


@dataclass
class KmeansLabelsConfig(command.ExtractionConfig):
    """Settings of `spear kmeans-labels`.

    Attributes:
        embeddings: directory that `spear embed` wrote.
        teacher: KIND:PATH@LAYER,option=value, the one whose frames these are.
        num_classes: clusters, up to 65,536.
        seed: of the first centers.
        domains: domains of the cuts that get labels; empty: all.
    """

    embeddings: str = ""
    teacher: str = ""
    num_classes: Annotated[int, msgspec.Meta(ge=2, le=MAX_CODEBOOK_SIZE)] = 500
    seed: int = 42
    domains: list[str] = field(default_factory=list)


def main(argv: list[str] | None = None) -> int:
    """Parses the arguments, clusters and labels."""
    settings = config.parse(KmeansLabelsConfig, command.normalise(argv), command.ALIASES, description=__doc__)
    rank, _ = command.process()
    log.setup(rank=rank)
    settings.check()
    config.require(settings, "embeddings", "teacher")
    output, device = Path(settings.output), dist.choose_device(settings.device)
    if settings.dry_run and not Path(settings.embeddings, "card.json").is_file():
        print(f"would cluster {settings.embeddings}, which is not there yet, and label the cuts in {output}")
        return 0
    refused: list[dict] = []
    units = plan_units(read_cuts(settings.cuts, refused), settings.unit_seconds)
    sizes = settings.num_classes, settings.seed
    clusters = cluster(Path(settings.embeddings), *sizes, device, output, settings.dry_run)
    teacher = load_teacher(settings.teacher, device=device)
    stream = token_stream(output.name, teacher, clusters, settings.embeddings, output, settings.domains)
    command.run(settings, units, [stream], f"{settings.num_classes} labels of {settings.teacher}", refused)
    return 0
