"""`spear import-tokens`: tokens made elsewhere (icefall, the authors' scripts) as a stream that training accepts.

    spear import-tokens --cuts cuts_with_codes.jsonl.gz --field codebook_indexes --teacher wavlm@21 \\
        --quantizer wavlm_quantizer.pt --output data/tokens/speech

The cuts are lhotse's, in JSONL or in a Shar directory, whatever stores their arrays (HDF5 needs h5py). Ids must be
those of the cuts to be trained on. The stream is named after the output directory.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from spear import config, locks, log
from spear.quantize import load_quantizer
from spear.teachers import TeacherSpec, identity_of, load_teacher
from spear.tokens.exchange import import_tokens, imported_card


@dataclass
class ImportTokensConfig:
    """Settings of `spear import-tokens`.

    Attributes:
        cuts: lhotse cuts (JSONL, JSONL.gz) or a Shar directory.
        field: custom field with the arrays: codebook_indexes, wavlm_codebook_indexes, dasheng_codebook_indexes...
        teacher: NAME@LAYER of the teacher; with NAME:PATH@LAYER its weights are read and their hash is on the card.
        quantizer: the authors' file with "quantizer", "mean" and "std", or a directory of ours.
        output: directory of the stream, such as data/tokens/speech.
        domains: domains of the cuts that have tokens; empty: all.
    """

    cuts: str = ""
    field: str = "codebook_indexes"
    teacher: str = ""
    quantizer: str = ""
    output: str = ""
    domains: list[str] = dataclasses.field(default_factory=list)


def main(argv: list[str] | None = None) -> int:
    """Parses the arguments and imports."""
    settings = config.parse(ImportTokensConfig, argv, description=__doc__)
    log.setup()
    config.require(settings, "cuts", "teacher", "quantizer", "output")
    from spear.manifest.exchange import read_arrays  # imports lhotse

    trained, output, spec = (
        load_quantizer(settings.quantizer),
        Path(settings.output),
        TeacherSpec.parse(settings.teacher),
    )
    if spec.path:
        teacher = load_teacher(settings.teacher).fingerprint()
    else:
        teacher = identity_of(spec.name, spec.layer, int(trained.card["dim"]))
    card = imported_card(output.name, teacher, trained.card, settings.domains)
    source = Path(settings.cuts)
    with locks.hold(output, "spear import-tokens"):
        report = import_tokens(read_arrays(source, settings.field), card, output, source.name.split(".")[0])
    print(report.text(f"{output}: {report.cuts} cuts", card))
    return 0
