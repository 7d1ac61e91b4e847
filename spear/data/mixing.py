"""Mixing: noise into any cut, speech into speech, and the targets that follow (SPEAR, token mixing).

All decisions of a batch are drawn at once, for every cut, whether or not they are used, from a stream named by the
batch's number in the epoch. They depend neither on the rank and worker that make the batch nor on files that fail.
"""

from dataclasses import dataclass, replace

import numpy as np

from spear import ranges, records
from spear.audio.augment import mean_power, mix, replacement_probability
from spear.data.cuts import SAMPLE_RATE_HZ
from spear.data.streams import IGNORE, TargetStream
from spear.errors import ConfigError

KINDS = ("none", "noise", "speech", "mixup")
NOISE_PIECES = 3  # noise recordings that are strung together when one is shorter than the cut


@dataclass(frozen=True)
class MixingConfig:
    """How cuts are mixed. The defaults are those of the token-mixing recipe.

    Args:
        probability: a speech cut is mixed.
        noise_probability: a mixed speech cut is mixed with noise; otherwise with another speech cut of the batch.
        audio_noise_probability: an audio cut is mixed, always with noise.
        noise_snr_db, speech_snr_db: ranges of the uniform level of the cut over what is mixed in, from mean powers.
        token_mixing: targets of `mix_tokens` streams are mixed as the audio is. Without it targets stay those of the
            cut (denoising), and speech is mixed in "inside".
        mode: "max": the partner is whole, starts up to `max_offset_seconds` late, and may outlast the cut.
            "inside": a random piece of the partner, `overlap` of the cut's length, anywhere inside the cut.
        max_offset_seconds: latest start of the partner in "max".
        overlap: range of the piece's share of the cut in "inside".
        noises: manifests of what is mixed in as noise (below the data directory), such as manifests/noise_musan.jsonl.
            They are lists of their own: without any there is no noise, whatever else is trained on.
        mixup_probability: a cut is added to another one of the batch, and their tags are mixed in the same proportion
            (arXiv 1710.09412). Noise and speech are then not mixed into it.
        mixup_alpha: the cut's part of the sum is drawn from Beta(alpha, alpha).
        reverb_probability: a cut is first heard in a room.
        impulse_responses: manifests of the rooms' impulse responses (below the data directory).
    """

    probability: ranges.Share = 0.5
    noise_probability: ranges.Share = 0.8
    audio_noise_probability: ranges.Share = 0.5
    noise_snr_db: tuple[float, float] = (10.0, 20.0)
    speech_snr_db: tuple[float, float] = (-5.0, 5.0)
    token_mixing: bool = True
    mode: str = "max"
    max_offset_seconds: records.NotNegative = 2.0
    overlap: tuple[ranges.Share, ranges.Share] = (0.2, 0.5)
    noises: tuple[str, ...] = ()
    mixup_probability: ranges.Share = 0.0
    mixup_alpha: records.Positive = 10.0
    reverb_probability: ranges.Share = 0.0
    impulse_responses: tuple[str, ...] = ()

    def __post_init__(self):
        ranges.check(self)
        for name in ("noise_snr_db", "speech_snr_db", "overlap"):
            low, high = getattr(self, name)
            if not low <= high or (name == "overlap" and not 0 < low <= high <= 1):
                raise ConfigError(f"mixing.{name} = {low}, {high}", "lowest, highest", f"correct mixing.{name}")
        if self.mode not in ("max", "inside"):
            raise ConfigError(f"mixing.mode = '{self.mode}'", "'max' or 'inside'", "correct mixing.mode")

    @property
    def speech_mode(self) -> str:
        """The mode in force: preserved targets need a partner inside the cut."""
        return self.mode if self.token_mixing else "inside"

    def noise_share(self, domain: str) -> float:
        """Share of a domain's cuts that noise is meant for."""
        return self.probability * self.noise_probability if domain == "speech" else self.audio_noise_probability

    @property
    def headroom_seconds(self) -> float:
        """How much longer a cut may become; the plan keeps this much free."""
        speech = self.probability > 0 and self.noise_probability < 1 and self.speech_mode == "max"
        return self.max_offset_seconds if speech else 0.0


@dataclass(frozen=True, eq=False)
class Decisions:
    """Decisions for a batch of B cuts.

    Args:
        kinds_B: index into `KINDS`.
        partners_B: row of the partner, -1 without one.
        noises_BK: indexes of noise recordings.
        snrs_db_B: level of the cut over what is mixed in.
        uniforms_B3: offset, length and start of the piece of speech as shares of their ranges; for noise the first is
            the place in the recording, for mixup the place in the partner.
        shares_B: the cut's part of a sum with its partner; None without mixup.
    """

    kinds_B: np.ndarray
    partners_B: np.ndarray
    noises_BK: np.ndarray
    snrs_db_B: np.ndarray
    uniforms_B3: np.ndarray
    shares_B: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Mixed:
    """A mixed cut: samples, and where what part of the partner (row) lies in it.

    Args:
        wave: (num_samples,) float32.
        kind: one of `KINDS`.
        partner: row of the partner; -1 for noise.
        offset_samples: where the partner starts in the cut.
        partner_start_samples, partner_num_samples: the part of the partner that is used.
        replacement: probability that a code of the partner replaces one of the cut where both speak.
        share: the cut's part of the sum, in mixup.
    """

    wave: np.ndarray
    kind: str = "none"
    partner: int = -1
    offset_samples: int = 0
    partner_start_samples: int = 0
    partner_num_samples: int = 0
    replacement: float = 0.0
    share: float = 1.0


def decide(config: MixingConfig, is_speech_B: np.ndarray, num_noises: int, rng: np.random.Generator) -> Decisions:
    """Draws all decisions of a batch; no noise without noise recordings, no speech without a second speech cut."""
    batch = len(is_speech_B)
    mixed, noise, partner, snr = rng.random((4, batch))
    uniforms_B3 = rng.random((batch, 3))
    noises_BK = rng.integers(0, max(num_noises, 1), (batch, NOISE_PIECES))
    is_mixed = mixed < np.where(is_speech_B, config.probability, config.audio_noise_probability)
    is_noise = (noise < config.noise_probability) | ~is_speech_B
    speech_rows = np.flatnonzero(is_speech_B)
    kinds_B = np.where(is_mixed, np.where(is_noise, 1, 2), 0)
    kinds_B[(kinds_B == 1) & (num_noises == 0)] = 0
    partners_B = np.full(batch, -1)
    if len(speech_rows) > 1:
        # A uniform choice among the others: skip over one's own place.
        own = np.cumsum(is_speech_B) - 1
        choice = (partner * (len(speech_rows) - 1)).astype(np.int64)
        choice += choice >= own
        rows = np.flatnonzero(kinds_B == 2)
        partners_B[rows] = speech_rows[choice[rows]]
    kinds_B[(kinds_B == 2) & (partners_B < 0)] = 0
    low_B = np.where(kinds_B == 1, config.noise_snr_db[0], config.speech_snr_db[0])
    high_B = np.where(kinds_B == 1, config.noise_snr_db[1], config.speech_snr_db[1])
    return Decisions(kinds_B, partners_B, noises_BK, low_B + snr * (high_B - low_B), uniforms_B3)


def with_mixup(config: MixingConfig, decisions: Decisions, rng: np.random.Generator) -> Decisions:
    """The decisions for a batch, some of them replaced by mixup; the same without any, or for a single cut."""
    batch = len(decisions.kinds_B)
    if not config.mixup_probability or batch < 2:
        return decisions
    chosen_B, choice_B = rng.random((2, batch))
    shares_B = rng.beta(config.mixup_alpha, config.mixup_alpha, batch)
    chosen_B = chosen_B < config.mixup_probability
    others_B = (choice_B * (batch - 1)).astype(np.int64)
    others_B += others_B >= np.arange(batch)
    return replace(
        decisions,
        kinds_B=np.where(chosen_B, KINDS.index("mixup"), decisions.kinds_B),
        partners_B=np.where(chosen_B, others_B, decisions.partners_B),
        shares_B=shares_B,
    )


def mix_up(wave: np.ndarray, other: np.ndarray, partner: int, share: float, uniform: float) -> Mixed:
    """The weighted sum of a cut and another one, as long as the cut.

    Args:
        wave: (num_samples,) the cut.
        other: the partner; a longer one gives a piece from a random place, a shorter one ends earlier.
        partner: its row.
        share: of the cut.
        uniform: the place of the piece, as a share of what is possible.
    """
    start = int(uniform * max(0, len(other) - len(wave)))
    mixed = (share * wave).astype(np.float32)
    piece = other[start : start + len(wave)]
    mixed[: len(piece)] += ((1 - share) * piece).astype(np.float32)
    return Mixed(mixed, "mixup", partner, partner_start_samples=start, partner_num_samples=len(piece), share=share)


def mix_labels(own_1C: np.ndarray, other_1C: np.ndarray | None, share: float) -> np.ndarray:
    """float32 (1, C) labels of the sum of two cuts (`other_1C` None: of one); `IGNORE` where one of them has none."""
    if other_1C is None:
        return own_1C.astype(np.float32)
    mixed_1C = share * own_1C + (1 - share) * other_1C
    return np.where((own_1C == IGNORE) | (other_1C == IGNORE), IGNORE, mixed_1C).astype(np.float32)


def mix_noise(wave: np.ndarray, noises: list[np.ndarray], snr_db: float) -> Mixed:
    """Mixes noise into a whole cut; pieces are strung together, and repeated if that is not enough.

    Args:
        wave: (num_samples,) the cut.
        noises: recordings, each (samples,) and not empty.
        snr_db: level of the cut over the noise.
    """
    mixed, _ = mix(wave, np.concatenate(noises), snr_db, 0, "inside")
    return Mixed(mixed, "noise")


def mix_speech(
    config: MixingConfig, wave: np.ndarray, other: np.ndarray, partner: int, snr_db: float, uniforms_3
) -> Mixed:
    """Mixes another speaker into a cut, see `MixingConfig.mode`; `uniforms_3` as in `Decisions`."""
    start, length = 0, len(other)
    if config.speech_mode == "max":
        latest = min(int(config.max_offset_seconds * SAMPLE_RATE_HZ), len(wave))
        offset = int(uniforms_3[0] * latest)
    else:
        low, high = config.overlap
        length = min(max(int((low + uniforms_3[1] * (high - low)) * len(wave)), 1), len(other))
        start = int(uniforms_3[2] * (len(other) - length))
        offset = int(uniforms_3[0] * (len(wave) - length))
    piece = other[start : start + length]
    # Also "inside" the piece is added once and not repeated to the cut's end; it fits by its choice.
    mixed, gain = mix(wave, piece, snr_db, offset, "max")
    replacement = replacement_probability(mean_power(wave), mean_power(piece), gain)
    return Mixed(mixed, "speech", partner, offset, start, length, float(replacement))


def mix_targets(
    stream: TargetStream, own_TN: np.ndarray, other_TN: np.ndarray, mixed: Mixed, rng: np.random.Generator
) -> np.ndarray:
    """Targets of a cut with a speech partner.

    Where both have targets each entry is, independently, the partner's with probability `mixed.replacement`; after the
    cut's end it is the partner's; before the partner and in a gap nothing changes or there is no target.

    Args:
        stream: gives the frame rate.
        own_TN, other_TN: targets of the cut and of the whole partner, (rows, num_codebooks), `IGNORE` where none.
        mixed: where the partner lies.
        rng: draws the replacements.

    Returns:
        (stream.num_rows(samples of the mixture), num_codebooks) int64.
    """
    rows = stream.num_rows(len(mixed.wave))
    out_TN = np.full((rows, own_TN.shape[1]), IGNORE, dtype=np.int64)
    own = min(len(own_TN), rows)
    out_TN[:own] = own_TN[:own]
    first = stream.num_rows(mixed.offset_samples)
    skip = stream.num_rows(mixed.partner_start_samples)
    other_TN = other_TN[skip : skip + stream.num_rows(mixed.partner_num_samples)][: max(rows - first, 0)]
    both = min(max(own - first, 0), len(other_TN))
    replace_TN = (rng.random((both, out_TN.shape[1])) < mixed.replacement) & (other_TN[:both] != IGNORE)
    out_TN[first : first + both][replace_TN] = other_TN[:both][replace_TN]
    out_TN[first + both : first + len(other_TN)] = other_TN[both:]
    return out_TN
