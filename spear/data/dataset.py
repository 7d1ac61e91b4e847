"""From a batch of the plan to arrays: read, mix, compute features, collate.

A batch is a function of (seed, epoch, step, rank) and of nothing else: not of the number of workers, not of batches
before it, not of the time of day.
"""

import dataclasses
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from spear.audio.augment import reverberate
from spear.audio.fbank import Fbank
from spear.audio.load import load_audio
from spear.data import collate, mixing
from spear.data.collate import Batch
from spear.data.cuts import SAMPLE_RATE_HZ, Cut, CutTable
from spear.data.mixing import Mixed, MixingConfig
from spear.data.plan import Plan, PlanLimits, build_plan, plan_inputs_hash
from spear.data.sources import Sources
from spear.errors import CardError, DataError, SpearError
from spear.log import get_logger
from spear.seeds import numpy_rng
from spear.shards import ShardStore

logger = get_logger(__name__)
MIN_FEATURE_FRAMES = 9  # the encoder's subsampling needs so many


class PretrainDataset:
    """Batches for pre-training.

    Args:
        sources: cuts, weights and token streams, see `load_sources`.
        seed: of all random decisions.
        limits: of a batch; headroom for mixing is added to it.
        mixing: None for none.
        noises: cuts that are mixed in as noise, see `load_noises`; None for no noise.
        impulse_responses: of the rooms in which cuts are heard, see `load_impulse_responses`; None for none.
        features: directory of stored features (row shards, one row per frame), used for cuts that are not mixed.
            Audio is read where there is none.
        plan_dir: where plans are kept (one directory for each epoch), memory-mapped; None to keep them in memory.

    Raises:
        CardError: the stored features have another definition.
    """

    def __init__(
        self,
        sources: Sources,
        *,
        seed: int,
        limits: PlanLimits | None = None,
        mixing: MixingConfig | None = None,
        noises: CutTable | None = None,
        impulse_responses: CutTable | None = None,
        features: str | Path | None = None,
        plan_dir: str | Path | None = None,
    ):
        self.cuts, self.streams, self.weights = sources.cuts, sources.streams, sources.weights
        self.seed, self.plan_dir = seed, Path(plan_dir) if plan_dir else None
        self.mixing = mixing or MixingConfig(probability=0.0, audio_noise_probability=0.0)
        limits = limits or PlanLimits()
        headroom = max(limits.headroom_seconds, mixing.headroom_seconds if mixing else 0.0)
        self.limits = dataclasses.replace(limits, headroom_seconds=headroom)
        self.noises, self.impulse_responses = noises, impulse_responses
        self.fbank = Fbank()
        self._features = _open_features(features, self.fbank) if features else None

    @property
    def num_noises(self) -> int:
        """Recordings that noise is drawn from."""
        return 0 if self.noises is None else len(self.noises)

    def plan(self, epoch: int, world_size: int = 1, accumulation: int = 1) -> Plan:
        """The plan of an epoch; stored and reused where `plan_dir` is given.

        Raises:
            DataError: there are fewer cuts than ranks x accumulation.
        """
        durations = self.cuts.durations_seconds
        wanted = plan_inputs_hash(durations, self.seed, epoch, world_size * accumulation, self.limits, self.weights)
        directory = self.plan_dir / f"epoch-{epoch:04d}" if self.plan_dir else None
        if directory and (directory / "plan.json").exists():
            try:
                plan = Plan.load(directory)
                if plan.inputs_hash == wanted:
                    return dataclasses.replace(plan, world_size=world_size)
                logger.info("plan of epoch %d: data, limits or ranks changed; it is built again", epoch)
            except DataError as error:
                logger.warning("%s", error)
        plan = build_plan(
            durations,
            seed=self.seed,
            epoch=epoch,
            world_size=world_size,
            limits=self.limits,
            weights=self.weights,
            accumulation=accumulation,
        )
        if plan.summary["num_too_long"]:
            headroom = self.limits.headroom_seconds
            logger.warning(
                "epoch %d: %d cuts, %.2f h, are longer than a batch may be (plan.max_seconds = %g%s) and left out",
                epoch,
                plan.summary["num_too_long"],
                plan.summary["seconds_too_long"] / 3600,
                self.limits.max_seconds,
                f", of which {headroom:g} are kept free for mixing" if headroom else "",
            )
        if directory:
            plan.save(directory)
        return plan

    def batch(self, plan: Plan, epoch: int, step: int, rank: int) -> Batch:
        """Makes one batch. Cuts that cannot be read are left out and listed in `Batch.skipped`."""
        cuts = [self.cuts[index] for index in plan.batch(step, rank)]
        work = _Work(epoch, plan.global_batch(step, rank), cuts)
        self._read(work)
        with work.timed("mix"):
            mixed = [self._mix(work, row) for row in work.rows]
            targets = {stream.name: self._targets(stream, work, mixed) for stream in self.streams}
        with work.timed("features"):
            features_BTF, feature_lens_B = self._compute_features(work, mixed)
        with work.timed("collate"):
            tensors = {s.name: collate.pad_targets(targets[s.name], s.nothing) for s in self.streams}
        lengths = [len(m.wave) if m else work.cuts[row].num_samples for row, m in zip(work.rows, mixed)]
        return Batch(
            ids=[work.cuts[row].id for row in work.rows],
            features_BTF=features_BTF,
            feature_lens_B=feature_lens_B,
            domains=[work.cuts[row].domain for row in work.rows],
            targets=tensors,
            mix_kinds=[m.kind if m else "none" for m in mixed],
            padded_seconds=max(lengths) * len(lengths) / SAMPLE_RATE_HZ,
            audio_seconds=sum(lengths) / SAMPLE_RATE_HZ,
            epoch=epoch,
            step=step,
            rank=rank,
            seconds=work.seconds,
            skipped=work.skipped,
        )

    def _read(self, work: "_Work") -> None:
        """Decides the mixing, then reads what it needs: tokens, stored features or samples, and noise."""
        count = len(work.cuts)
        is_speech_B = np.asarray([cut.domain == "speech" for cut in work.cuts])
        rng = numpy_rng(self.seed, "mixing", work.epoch, work.number)
        decisions = mixing.decide(self.mixing, is_speech_B, self.num_noises, rng)
        rng = numpy_rng(self.seed, "mixup", work.epoch, work.number)
        work.decisions = mixing.with_mixup(self.mixing, decisions, rng)
        kinds, partners = work.decisions.kinds_B, work.decisions.partners_B
        rooms = self._rooms(work)
        needs_wave = set(rooms) | set(np.flatnonzero(kinds > 0)) | set(partners[partners >= 0].tolist())
        with work.timed("read"):
            for row in range(count):
                cut = work.cuts[row]
                try:
                    tokens = {stream.name: stream.read(cut) for stream in self.streams}
                    if self._features is not None and row not in rooms and cut.id in self._features:
                        work.features[row] = self._features.read(cut.id)
                    if row in needs_wave or row not in work.features:
                        work.waves[row] = self._load(cut)
                    if row in rooms:
                        work.waves[row] = self._in_room(work, row, rooms[row])
                    work.tokens[row] = tokens
                except (SpearError, OSError) as error:
                    work.skip(cut.id, error)
            work.rows = sorted(work.tokens)
            for row in work.rows:
                if kinds[row] == 1:
                    work.noises[row] = self._load_noises(work, row)
        if not work.rows:
            self._substitute_silence(work)

    def _rooms(self, work: "_Work") -> dict[int, int]:
        """The index of an impulse response by row, for cuts that are heard in a room."""
        count = 0 if self.impulse_responses is None else len(self.impulse_responses)
        if not count or not self.mixing.reverb_probability:
            return {}
        rng = numpy_rng(self.seed, "reverb", work.epoch, work.number)
        chosen_B = rng.random(len(work.cuts)) < self.mixing.reverb_probability
        rooms_B = rng.integers(0, count, len(work.cuts))
        return {int(row): int(rooms_B[row]) for row in np.flatnonzero(chosen_B)}

    def _in_room(self, work: "_Work", row: int, room: int) -> np.ndarray:
        """The samples of a row in a room, or as they are when its impulse response cannot be read."""
        found = self.impulse_responses[room]
        segment = found.start_seconds, found.duration_seconds, found.speed, found.channel, found.gain
        try:
            return reverberate(work.waves[row], load_audio(found.path, SAMPLE_RATE_HZ, *segment))
        except (SpearError, OSError) as error:
            work.skip(found.id, error)
            return work.waves[row]

    def _load(self, cut: Cut) -> np.ndarray:
        """Samples of a cut, never more than the plan counted, and enough for the encoder."""
        segment = cut.start_seconds, cut.duration_seconds
        wave = load_audio(cut.path, SAMPLE_RATE_HZ, *segment, cut.speed, cut.channel, cut.gain)
        wave = wave[: cut.num_samples]
        if self.fbank.num_frames(len(wave)) < MIN_FEATURE_FRAMES:
            raise DataError(
                f"{len(wave)} samples in {cut.path}", f"at least {MIN_FEATURE_FRAMES} frames of 10 ms", "leave it out"
            )
        return wave

    def _load_noises(self, work: "_Work", row: int) -> list[np.ndarray]:
        """Pieces of noise, each from a random place, until they are as long as the cut; fewer when reading fails."""
        pieces, missing = [], len(work.waves[row])
        for index in work.decisions.noises_BK[row]:
            noise = self.noises[index]
            if missing <= 0 or noise.id == work.cuts[row].id:
                continue
            seconds = min(noise.duration_seconds, missing / SAMPLE_RATE_HZ)
            start = noise.start_seconds + work.decisions.uniforms_B3[row, 0] * (noise.duration_seconds - seconds)
            try:
                changes = noise.speed, noise.channel, noise.gain
                piece = load_audio(noise.path, SAMPLE_RATE_HZ, start, seconds, *changes)
            except (SpearError, OSError) as error:
                work.skip(noise.id, error)
                continue
            pieces.append(piece)
            missing -= len(piece)
        return pieces

    def _substitute_silence(self, work: "_Work") -> None:
        """One silent second without targets, so that a rank with nothing readable still takes part in the step."""
        work.cuts = [Cut("", Path(), 0.0, 1.0, work.cuts[0].domain, 0)]
        work.rows = [0]
        work.waves = {0: np.zeros(SAMPLE_RATE_HZ, dtype=np.float32)}
        work.features = {}
        work.decisions = dataclasses.replace(work.decisions, kinds_B=np.zeros(1, dtype=np.int64))
        work.tokens = {0: {stream.name: stream.empty(SAMPLE_RATE_HZ) for stream in self.streams}}

    def _mix(self, work: "_Work", row: int) -> Mixed | None:
        """The mixture for a cut; None when its stored features are to be used."""
        decisions = work.decisions
        kind, partner = mixing.KINDS[decisions.kinds_B[row]], int(decisions.partners_B[row])
        snr_db, uniforms = float(decisions.snrs_db_B[row]), decisions.uniforms_B3[row]
        if kind == "noise" and work.noises[row]:
            return mixing.mix_noise(work.waves[row], work.noises[row], snr_db)
        if kind == "speech" and partner in work.tokens:
            return mixing.mix_speech(self.mixing, work.waves[row], work.waves[partner], partner, snr_db, uniforms)
        if kind == "mixup" and partner in work.tokens:
            share = float(decisions.shares_B[row])
            return mixing.mix_up(work.waves[row], work.waves[partner], partner, share, uniforms[0])
        return None if row in work.features else Mixed(work.waves[row])

    def _targets(self, stream, work: "_Work", mixed: list[Mixed | None]) -> list[np.ndarray]:
        """Targets of every cut of a stream."""
        rows = []
        for row, mixture in zip(work.rows, mixed):
            own_TN = work.tokens[row][stream.name]
            if mixture and mixture.kind == "speech":
                if self.mixing.token_mixing and stream.mix_tokens:
                    rng = numpy_rng(self.seed, "token_mixing", work.epoch, work.number, row, stream.name)
                    other_TN = work.tokens[mixture.partner][stream.name]
                    own_TN = mixing.mix_targets(stream, own_TN, other_TN, mixture, rng)
                else:
                    missing = stream.num_rows(len(mixture.wave)) - len(own_TN)
                    own_TN = np.pad(own_TN, ((0, max(missing, 0)), (0, 0)), constant_values=stream.nothing)
            if stream.mixes_labels and self.mixing.mixup_probability:
                is_sum = bool(mixture) and mixture.kind == "mixup"
                other_TN = work.tokens[mixture.partner][stream.name] if is_sum else None
                own_TN = mixing.mix_labels(own_TN, other_TN, mixture.share if is_sum else 1.0)
            rows.append(own_TN)
        return rows

    def _compute_features(self, work: "_Work", mixed: list[Mixed | None]) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of all rows in one call; stored ones are put in their places."""
        computed = [place for place, mixture in enumerate(mixed) if mixture]
        if computed:
            waves_BS, lens_B = collate.pad_waves([mixed[place].wave for place in computed])
            features_BTF, feature_lens_B = self.fbank(waves_BS, lens_B)
            if len(computed) == len(mixed):
                return features_BTF, feature_lens_B
        rows: list = [work.features.get(row) for row in work.rows]
        for number, place in enumerate(computed):
            rows[place] = features_BTF[number, : feature_lens_B[number]]
        return collate.pad_features(rows, self.fbank.config.num_mel_bins)


@dataclass(eq=False)
class _Work:
    """A batch in the making; dictionaries are by row of the plan's batch."""

    epoch: int
    number: int
    cuts: list[Cut]

    def __post_init__(self):
        self.rows: list[int] = []
        self.decisions: mixing.Decisions | None = None
        self.waves: dict[int, np.ndarray] = {}
        self.features: dict[int, np.ndarray] = {}
        self.noises: dict[int, list[np.ndarray]] = {}
        self.tokens: dict[int, dict[str, np.ndarray]] = {}
        self.skipped: list[tuple[str, str]] = []
        self.seconds = dict.fromkeys(collate.PARTS, 0.0)

    @contextmanager
    def timed(self, part: str):
        """Adds the time of the block to a part."""
        start = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - start

    def skip(self, item_id: str, error: Exception) -> None:
        """Notes what could not be read."""
        self.skipped.append((item_id, error.found if isinstance(error, SpearError) else str(error)))


def _open_features(directory: str | Path, fbank: Fbank) -> ShardStore:
    store = ShardStore(directory)
    found, expected = store.meta.get("fbank_sha256"), fbank.config.definition_hash()
    if store.width != fbank.config.num_mel_bins or found not in (None, expected):
        raise CardError(
            f"stored features in {directory} of width {store.width}, definition {found}",
            f"width {fbank.config.num_mel_bins}, definition {expected}",
            "run the fbank stage again (prepare.sh --stage 2 --stop-stage 2), or do without stored features",
        )
    return store
