"""A teacher's tokens (multi-codebook quantisation): what SPEAR predicts."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from spear.data.collate import Batch
from spear.data.streams import StreamConfig
from spear.models.heads import HeadSpec
from spear.teachers.align import align_targets, aligned_codebooks
from spear.train.objectives.base import Context, Settings
from spear.train.objectives.usage import CodebookObjective


@dataclass
class TokenSettings(Settings):
    """Settings of `tokens`; how many codebooks there are, their card says.

    Attributes:
        mix_tokens: take part in token mixing of speech with speech (the speech teacher only).
        tokens: directory of the token store below the data directory; None means `tokens/<stream name>`.
    """

    mix_tokens: bool = False
    tokens: str | None = None

    def stores(self, name: str) -> tuple[str, ...]:
        """See `Settings`."""
        return (self.tokens or f"tokens/{name}",)


class TokenObjective(CodebookObjective):
    """Tokens from a token store, aligned to the student's frames, predicted by one softmax for each codebook."""

    Settings = TokenSettings

    def __init__(self, context: Context):
        super().__init__(context)
        stream = context.stream
        self.rate_hz, self.student_rate_hz, self._card = stream.frame_rate_hz, context.frame_rate_hz, stream.card
        codebooks = aligned_codebooks(stream.num_codebooks, self.rate_hz, self.student_rate_hz)
        self.head = HeadSpec(codebooks, stream.codebook_size)

    @classmethod
    def reads(cls, settings, name: str, data_dir: Path, domains: tuple[str, ...]) -> StreamConfig:
        """See `Objective`."""
        [store] = settings.stores(name)
        return StreamConfig(name=name, path=str(data_dir / store), domains=domains, mix_tokens=settings.mix_tokens)

    def targets(self, batch: Batch, student_lens_B: Tensor) -> Tensor:
        """(B, T', C) token ids, -100 where there is no target."""
        # Mixing can make a cut longer than its tokens, so the padding must not be taken for missing tokens here;
        # that stored tokens are as long as their audio is verified when they are made.
        rows_B = (batch.feature_lens_B * (self.rate_hz / 100)).ceil().long()
        return align_targets(
            batch.targets[self.name], self.rate_hz, self.student_rate_hz, student_lens_B, token_lens_B=rows_B
        )

    def card(self) -> dict:
        """The card of the token store."""
        return self._card.to_dict()
