"""A teacher's tokens (multi-codebook quantisation): what SPEAR predicts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import torch
from torch import Tensor
from torch.nn import functional

from spear.data.collate import Batch
from spear.data.streams import StreamConfig
from spear.models.heads import IGNORE, HeadSpec
from spear.teachers.align import align_targets, aligned_codebooks
from spear.train.objectives.base import Context, Settings
from spear.train.objectives.usage import CodebookObjective

DelayFrames = Annotated[int, msgspec.Meta(ge=0, le=100)]


@dataclass
class TokenSettings(Settings):
    """Settings of `tokens`; how many codebooks there are, their card says.

    Attributes:
        mix_tokens: take part in token mixing of speech with speech (the speech teacher only).
        delay_frames: of the student, by which its predictions come late: at frame t it says what the teacher said at
            frame t - delay_frames. A causal student has then heard what follows. 0 for students that hear everything.
        tokens: directory of the token store below the data directory; None means `tokens/<stream name>`.
    """

    mix_tokens: bool = False
    delay_frames: DelayFrames = 0
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
        self.delay_frames = context.settings.delay_frames

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
        aligned_BTC = align_targets(
            batch.targets[self.name], self.rate_hz, self.student_rate_hz, student_lens_B, token_lens_B=rows_B
        )
        return self._delayed(aligned_BTC, student_lens_B) if self.delay_frames else aligned_BTC

    def _delayed(self, targets_BTC: Tensor, lens_B: Tensor) -> Tensor:
        """The same targets so many frames later; an utterance's first frames have none, and its last are not said."""
        num_frames = targets_BTC.shape[1]
        kept_BTC = targets_BTC[:, : max(0, num_frames - self.delay_frames)]
        late_BTC = functional.pad(kept_BTC, (0, 0, num_frames - kept_BTC.shape[1], 0), value=IGNORE)
        # Not `padding_mask`, which waits for a GPU.
        padding_BT = torch.arange(num_frames, device=late_BTC.device) >= lens_B.to(late_BTC.device).unsqueeze(1)
        return late_BTC.masked_fill(padding_BT.unsqueeze(-1), IGNORE)

    def card(self) -> dict:
        """The card of the token store."""
        return self._card.to_dict()
