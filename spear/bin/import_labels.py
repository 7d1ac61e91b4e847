"""`spear import-labels`: k-means labels of HuBERT's tools (.km beside .tsv) as a stream for the objective `labels`.

    spear import-labels --labels train.km --recordings train.tsv --num-classes 500 \\
        --cuts data/manifests/cuts_librispeech_train.jsonl --output data/tokens/hubert500

Recordings are found by their paths from the end, so that folders and formats (.flac, .wav) may differ. Labels of 50 Hz
are taken for those of a wav2vec 2.0 front end (HuBERT's own layers), of 100 Hz for MFCC frames of 25 ms. The stream is
named after the output directory; train with `streams: {hubert500: {objective: labels}}`.
"""

from dataclasses import dataclass, field
from pathlib import Path

from spear import config, locks, log, records
from spear.errors import ConfigError
from spear.fs import sha256_file
from spear.teachers import TeacherSpec, identity_of
from spear.tokens.card import CodebookSize
from spear.tokens.exchange import import_tokens, imported_card
from spear.tokens.labels import read_labels
from spear.tokens.units import read_cuts

RULES = {50.0: "wav2vec2-50hz", 100.0: "kaldi-100hz"}


@dataclass
class ImportLabelsConfig:
    """Settings of `spear import-labels`.

    Attributes:
        labels: the .km file.
        recordings: the .tsv file that says whose labels its lines are.
        cuts: cuts files of stage 1.
        num_classes: that there are, up to 65,536; a larger label is refused.
        output: directory of the stream, such as data/tokens/hubert500.
        frame_rate_hz: of the labels: 50 or 100.
        teacher: NAME@LAYER of the model whose frames were clustered, for the card; empty: not known.
        kmeans: file of the clustering, whose hash goes on the card; it is not opened.
        domains: domains of the cuts that have labels; empty: all.
    """

    labels: str = ""
    recordings: str = ""
    cuts: list[str] = field(default_factory=list)
    num_classes: CodebookSize = 500
    output: str = ""
    frame_rate_hz: records.Positive = 50.0
    teacher: str = ""
    kmeans: str = ""
    domains: list[str] = field(default_factory=list)


def main(argv: list[str] | None = None) -> int:
    """Parses the arguments and imports."""
    settings = config.parse(ImportLabelsConfig, argv, description=__doc__)
    log.setup()
    config.require(settings, "labels", "recordings", "cuts", "output")
    output, labels = Path(settings.output), Path(settings.labels)
    quantizer = {
        "content_sha256": sha256_file(settings.kmeans) if settings.kmeans else "unknown",
        "num_codebooks": 1,
        "codebook_size": settings.num_classes,
    }
    card = imported_card(output.name, _teacher(settings), quantizer, settings.domains)
    cuts = [item for items in read_cuts(settings.cuts).values() for item in items]
    cuts = [cut for cut in cuts if not settings.domains or cut.domain in settings.domains]
    with locks.hold(output, "spear import-labels"):
        arrays = read_labels(labels, Path(settings.recordings), cuts, card.teacher)
        report = import_tokens(arrays, card, output, labels.name.split(".")[0])
    print(report.text(f"{output}: labels of {report.cuts} of {len(cuts)} cuts", card))
    return 0


def _teacher(settings: ImportLabelsConfig) -> dict:
    """What the labels' frames are, for the card."""
    if settings.frame_rate_hz not in RULES:
        raise ConfigError(
            f"--frame-rate-hz {settings.frame_rate_hz:g}", " or ".join(f"{rate:g}" for rate in RULES), "correct it"
        )
    frames = {"frame_rate_hz": settings.frame_rate_hz, "frame_rule": RULES[settings.frame_rate_hz]}
    if settings.teacher:
        spec = TeacherSpec.parse(settings.teacher)
        return {**identity_of(spec.name, spec.layer, 1), **frames}
    return {"teacher": "labels", "weights_sha256": "unknown", "layer": 0, "sample_rate_hz": 16000, "dim": 1, **frames}
