"""`spear import-quantizer`: a quantizer trained elsewhere, bound to its teacher, for spear extract-tokens.

    spear import-quantizer --file wavlm_large_21_cb16.pt --teacher wavlm:microsoft/wavlm-large@21 \\
        --output data/quantizer/speech

The file is the authors' ({"quantizer", "mean", "std"} by torch.save) or one of the package multi_quantization.
"""

from dataclasses import dataclass

from spear import config, locks, log
from spear.errors import CardError
from spear.quantize import load_quantizer, save_quantizer
from spear.teachers import load_teacher


@dataclass
class ImportQuantizerConfig:
    """Settings of `spear import-quantizer`.

    Attributes:
        file: the quantizer.
        teacher: the teacher whose frames it was trained on, as NAME:PATH@LAYER,option=value.
        output: directory that receives it, such as data/quantizer/speech.
    """

    file: str = ""
    teacher: str = ""
    output: str = ""


def main(argv: list[str] | None = None) -> int:
    """Parses the arguments and imports."""
    settings = config.parse(ImportQuantizerConfig, argv, description=__doc__)
    log.setup()
    config.require(settings, "file", "teacher", "output")
    trained, teacher = load_quantizer(settings.file), load_teacher(settings.teacher)
    if trained.quantizer.dim != teacher.dim:
        raise CardError(
            f"{settings.file} for frames of dim {trained.quantizer.dim}",
            f"dim {teacher.dim} of {settings.teacher}",
            "give the teacher that it was trained with",
        )
    with locks.hold(settings.output, "spear import-quantizer"):
        card = save_quantizer(settings.output, trained.quantizer, trained.mean, trained.std, teacher.fingerprint())
    print(
        f"{settings.output}: {card['num_codebooks']} codebooks of {card['codebook_size']}, dim {card['dim']}, "
        f"{'normalised' if card['normalise'] else 'not normalised'}, content {card['content_sha256'][:16]}"
    )
    return 0
