"""Transcripts by CTC, and what objectives of transcripts share."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from spear import ranges
from spear.data.collate import Batch
from spear.data.streams import StreamConfig
from spear.data.supervisions import SupervisionStreamConfig
from spear.evaluate.metrics import item_counts
from spear.manifest.vocabulary import Normalisation
from spear.models.ctc_head import CtcHeadSpec
from spear.models.greedy import ctc_greedy
from spear.models.heads import IGNORE, Encoded
from spear.train.objectives.base import Context
from spear.train.objectives.supervised import SupervisedObjective, SupervisedSettings


@dataclass
class TextSettings(SupervisedSettings):
    """Settings of objectives of transcripts.

    Attributes:
        units: `chars`, or `bpe:SIZE`, made from the training cuts alone.
        case: of transcripts: `upper`, `lower` or `keep`.
        punctuation: whether it stays in transcripts.
    """

    units: str = "chars"
    case: str = "upper"
    punctuation: bool = True

    def __post_init__(self):
        super().__post_init__()
        Normalisation(self.case, self.punctuation)

    def stream(self, name: str, data_dir: Path, domains: tuple[str, ...], **limits) -> SupervisionStreamConfig:
        """The transcripts of a stream."""
        return SupervisionStreamConfig(
            name,
            "",
            domains,
            units=self.units,
            vocabulary=str(data_dir / self.vocabulary) if self.vocabulary else "",
            normalise=Normalisation(self.case, self.punctuation),
            **limits,
        )


@dataclass
class CtcSettings(TextSettings):
    """Settings of `ctc`.

    Attributes:
        dropout: of what the head reads.
    """

    dropout: ranges.Part = 0.1


class TextObjective(SupervisedObjective):
    """Base of objectives of transcripts; the validation gives word and character error rates of greedy decoding."""

    unit, judged, falling, least_labels = "nats a unit", ("wer", "cer", "utterances"), ("wer", "cer"), 3

    def targets(self, batch: Batch, student_lens_B: Tensor) -> Tensor:
        """(B, U) units, -100 past an utterance's end."""
        return super().targets(batch, student_lens_B)[:, :, 0]

    def judge(self, scores: list[tuple[Tensor, ...]]) -> dict[str, float]:
        """Error rates over the utterances that have a transcript."""
        pairs = [
            [self.vocabulary.decode(row[row != IGNORE].long().tolist()) for row in pair]
            for found_BU, true_BU in scores
            for pair in zip(found_BU, true_BU)
        ]
        rates = {}
        for metric in ("wer", "cer") if pairs else ():
            counts = [item_counts(metric, true, found) for found, true in pairs]
            rates[metric] = sum(edits for edits, _ in counts) / max(1, sum(length for _, length in counts))
        return {**rates, "utterances": float(len(pairs))}


class CtcObjective(TextObjective):
    """CTC at the encoder's output rate: 50 Hz, or 25 Hz where it is downsampled, as published recipes for words are.

    Losses are summed over utterances. On a GPU torch's CTC loss is not deterministic, so resumed runs may differ in the
    last bits there.
    """

    Settings = CtcSettings

    def __init__(self, context: Context):
        super().__init__(context)
        self.head = CtcHeadSpec(self.vocabulary.size, self.settings.dropout, self.settings.layers)

    @classmethod
    def reads(cls, settings: CtcSettings, name: str, data_dir: Path, domains: tuple[str, ...]) -> StreamConfig:
        """See `Objective`; transcripts that need more frames than there are take no part."""
        return settings.stream(name, data_dir, domains, aligned=True)

    def decode(self, head: nn.Module, encoded: Encoded) -> list[str]:
        """Greedy transcripts."""
        found = ctc_greedy(head.log_probs(head.read(encoded)), encoded.lens_B)
        return [self.vocabulary.decode(each.units) for each in found]
