"""From a configuration to the things a run needs: data, objectives, model."""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from spear import config as configuration
from spear.data import CutTable, PlanLimits, PretrainDataset, load_impulse_responses, load_noises, load_sources
from spear.data.cuts import NUM_DRAWS
from spear.data.sources import SourceConfig, read_source
from spear.data.streams import StreamConfig
from spear.errors import CardError, CheckpointError, ConfigError, DataError
from spear.log import get_logger
from spear.models import encoders
from spear.models.loading import ENCODER_PREFIXES, load_model
from spear.models.mask import MaskConfig
from spear.models.pretrain import SpearPretrainModel
from spear.nn import ScheduledFloat, scheduled_floats, set_activation_checkpointing
from spear.optim import AdamW, ScaledAdam, parameter_groups, without_decay
from spear.seeds import seed_global
from spear.train.config import ModelConfig, TrainConfig
from spear.train.config import StreamConfig as TrainStreamConfig
from spear.train.objectives import Context, Objective, load
from spear.train.sampling import weighted
from spear.train.sharding import load_whole

logger = get_logger(__name__)
_OUTPUT_DOWNSAMPLING = "encoder.downsample_output."


@dataclass
class RunData:
    """Training and validation cuts of a run.

    Attributes:
        train: batches to learn from.
        valid: held-out cuts, None when `valid_fraction` is 0 or leaves none.
        summary: counts for the log and the report.
    """

    train: PretrainDataset
    valid: PretrainDataset | None
    summary: dict


def load_data(config: TrainConfig, num_ranks: int = 1) -> RunData:
    """Reads manifests and the stores of targets and splits off the validation cuts.

    Args:
        config: of the run.
        num_ranks: processes that will share the validation batches.

    Raises:
        ConfigError: there are no sources.
        DataError, CardError: what `spear.data.load_sources` refuses.
    """
    if not config.sources:
        raise ConfigError("no sources", "at least one corpus to train on", "add sources: - {name, cuts} to the config")
    data_dir = Path(config.data_dir)
    sources = [dataclasses.replace(source, cuts=str(data_dir / source.cuts)) for source in config.sources]
    streams = _stored_streams(config, data_dir)
    items = {source.name: read_source(source) for source in sources}
    # A cut's part depends on its id alone.
    is_valid = {name: columns.draw < config.valid_fraction * NUM_DRAWS for name, columns in items.items()}
    is_valid |= {source.name: np.ones(len(items[source.name]), dtype=bool) for source in sources if source.held_out}
    features = data_dir / "fbank" if (data_dir / "fbank" / "card.json").exists() else None
    kept = {name: ~valid for name, valid in is_valid.items()}
    loaded = load_sources(sources, streams, config.cut_limits, items=items, chosen=kept)
    _check_mixup(config, loaded.streams)
    loaded = weighted(config.sampling, loaded)
    limits = config.plan
    if limits.max_seconds == "auto":  # the trainer replaces it when it has a model to measure
        limits = dataclasses.replace(limits, max_seconds=PlanLimits.max_seconds)
    train = PretrainDataset(
        loaded,
        seed=config.seed,
        limits=limits,
        mixing=config.mixing,
        noises=_noises(config, data_dir, loaded.cuts),
        impulse_responses=_impulse_responses(config, data_dir),
        features=features,
        plan_dir=Path(config.exp_dir) / "plan",
    )
    valid = None
    # Every rank scores at least one batch, so a handful of cuts from a small folder is no validation set.
    if sum(int(valid.sum()) for valid in is_valid.values()) >= max(num_ranks, 2):
        try:
            held = load_sources(
                sources, loaded.streams, config.cut_limits, items=items, chosen=is_valid, require_every_source=False
            )
            valid = PretrainDataset(held, seed=config.seed, limits=limits) if len(held.cuts) >= num_ranks else None
        except DataError as error:
            logger.warning("no validation: %s", error.found)
    return RunData(train, valid, loaded.summary)


def _check_mixup(config: TrainConfig, streams: list) -> None:
    """Refuses to add up cuts whose targets cannot be added up."""
    others = [stream.name for stream in streams if not stream.mixes_labels]
    if config.mixing.mixup_probability and others:
        raise ConfigError(
            f"mixing.mixup_probability: {config.mixing.mixup_probability} with stream {', '.join(others)}",
            "streams of tags alone: other targets cannot be mixed in proportion",
            "set mixing.mixup_probability: 0, or remove the stream",
        )


def _impulse_responses(config: TrainConfig, data_dir: Path) -> CutTable:
    """Of the rooms in which cuts are heard, with a warning where rooms are asked for and there are none."""
    found = load_impulse_responses([data_dir / path for path in config.mixing.impulse_responses])
    if config.mixing.reverb_probability and not len(found):
        logger.warning(
            "mixing.reverb_probability is %g, but mixing.impulse_responses is empty: cuts stay as they are",
            config.mixing.reverb_probability,
        )
    return found


def _noises(config: TrainConfig, data_dir: Path, cuts: CutTable) -> CutTable | None:
    """What is mixed in as noise, with a warning where noise is asked for and there is none."""
    paths = [data_dir / path for path in config.mixing.noises]
    noises = load_noises(paths, trained_on=[data_dir / source.cuts for source in config.sources])
    present = {"speech": cuts.is_speech.any(), "audio": not cuts.is_speech.all()}
    wanted = [f"{config.mixing.noise_share(name):.0%} of {name}" for name in present if present[name]]
    wanted = [share for share in wanted if not share.startswith("0%")]
    if wanted and not len(noises):
        logger.warning(
            "mixing asks for noise in %s, but mixing.noises %s: these cuts stay as they are. State lists such as "
            "manifests/noise_musan.jsonl or manifests/noise_audioset.jsonl of stage 1, or set the probability to 0 "
            "(versions before took noise from all audio that was trained on)",
            " and ".join(wanted),
            f"({', '.join(config.mixing.noises)}) holds no cut" if paths else "is empty",
        )
    return noises


def _stored_streams(config: TrainConfig, data_dir: Path) -> list[StreamConfig]:
    """What the data layer must read for each stream."""
    streams = []
    for name, stream in config.streams.items():
        domains = sorted({source.domain for source in config.sources} - {""}) or ["speech", "audio"]
        used = tuple(domain for domain in domains if config.stream_weight(name, domain) > 0)
        stored = load(stream.objective).reads(stream.settings, name, data_dir, used)
        if stored is None:
            continue
        if not used:
            raise ConfigError(
                f"stream '{name}' has weight 0 on every domain ({', '.join(domains)})",
                "a positive weight on one of them",
                f"set streams.{name}.domain_weights, or remove the stream",
            )
        streams.append(stored.for_encoder(config.model.settings))
    return streams


def make_objectives(config: TrainConfig, data: RunData, device: torch.device) -> dict[str, Objective]:
    """One objective per stream.

    Raises:
        ConfigError: there are no streams.
    """
    if not config.streams:
        raise ConfigError("no streams", "at least one stream of targets", "add streams: {speech: {}} to the config")
    opened = {stream.name: stream for stream in data.train.streams}
    return {
        name: load(stream.objective)(
            Context(
                name,
                stream.settings,
                frame_rate_hz=config.model.settings.frame_rate_hz,
                num_mel_bins=config.model.settings.num_mel_bins,
                seed=config.seed,
                device=device,
                stream=opened.get(name),
            )
        )
        for name, stream in config.streams.items()
    }


def mask_of(config: TrainConfig, objectives: dict[str, Objective]) -> MaskConfig:
    """What is masked: nothing when no objective predicts from masked input."""
    wanting = {name for name, objective in objectives.items() if objective.masks_input}
    if not wanting:
        return dataclasses.replace(config.mask, time_probability=0.0, channel_probability=0.0, min_channel_spans=0)
    if wanting < objectives.keys():
        others = ", ".join(sorted(objectives.keys() - wanting))
        logger.info("streams %s predict from masked input too: one pass serves all streams", others)
    return config.mask


def make_model(config: TrainConfig, objectives: dict[str, Objective], device: torch.device) -> SpearPretrainModel:
    """The model with freshly initialised weights, equal for equal seeds."""
    seed_global(config.seed, "model")
    heads = {name: objective.head for name, objective in objectives.items()}
    model = SpearPretrainModel(
        config.model.settings, heads, config.masked_weight, config.unmasked_weight, config.head_initial_scale
    )
    set_activation_checkpointing(model, config.activation_checkpointing)
    return model.to(device)


def schedules(model: SpearPretrainModel, first_batch_count: float) -> list[tuple[ScheduledFloat, float]]:
    """Every scheduled value of a model with the count from which it counts: of heads, which are new, always 0."""
    of_heads = set(scheduled_floats(model.heads))
    return [(value, 0.0 if value in of_heads else first_batch_count) for value in scheduled_floats(model)]


def lr_scales(config: TrainConfig) -> dict[str, float]:
    """Factors by prefix of parameter names. An encoder that is frozen first gets groups, so clipping, of its own."""
    own = dict.fromkeys(("encoder_embed", "encoder", "mask_emb"), 1.0) if config.freeze_encoder_steps else {}
    return {**own, **config.optimizer.lr_scales}


def make_optimizer(config: TrainConfig, model: SpearPretrainModel) -> ScaledAdam | AdamW:
    """The optimizer of a model that is on its device, sharded or not."""
    settings = config.optimizer
    groups = parameter_groups(model, settings.base_lr, lr_scales(config))
    clipping = {"clipping_scale": settings.clipping_scale, "clipping_start": settings.clipping_start}
    if settings.name == "adamw":
        return AdamW(without_decay(groups), settings.base_lr, settings.weight_decay, **clipping)
    return ScaledAdam(groups, lr=settings.base_lr, **clipping)


def start_from(model: SpearPretrainModel, path: str) -> None:
    """Gives the encoder the weights of another one of its sizes; heads and mask embedding stay as they are.

    Args:
        model: sharded or not.
        path: what `spear.load_model` reads. Whether its output is downsampled does not matter.

    Raises:
        CheckpointError: nothing to read there, or an encoder of other sizes.
    """
    source = load_model(path).state_dict()
    state = model.state_dict()
    own = {name: value for name, value in state.items() if name.startswith(ENCODER_PREFIXES)}
    for name in sorted({*source, *own}):
        shapes = [tuple(tensors[name].shape) if name in tensors else None for tensors in (source, own)]
        if shapes[0] != shapes[1] and not name.startswith(_OUTPUT_DOWNSAMPLING):
            found, expected = ("no such tensor" if shape is None else f"shape {shape}" for shape in shapes)
            raise CheckpointError(
                f"the encoder of {path} with {name}: {found}",
                f"{expected}, as this run's model has",
                "give init_from an encoder of the same sizes, or leave it empty to start from random weights",
            )
    load_whole(model, {**state, **{name: source[name] for name in own if name in source}})
    logger.info("the encoder starts from %s", path)


def cards(objectives: dict[str, Objective]) -> dict[str, dict]:
    """Where the targets of each stream come from, for the checkpoint."""
    return {name: card for name, objective in objectives.items() if (card := objective.card())}


# Settings that may differ between a checkpoint and the run that resumes it without changing what is computed.
_FREE = ("exp_dir", "data_dir", "num_steps", "num_workers", "device", "tensorboard", "keep_checkpoints")
_FREE += (
    "parallel",
    "memory_limit_gb",
    "rehearsal_batches",
    "timeout_minutes",
    "max_non_finite_steps",
    "activation_checkpointing",
    "plan.global_seconds",
)
# Entries of a card that say what made the targets.
_ORIGINS = ("quantizer", "teacher", "teachers", "vocabulary")
_FREE_SUFFIX = "_every_steps"
_FORMER_SETTING = re.compile(
    r"streams\.[^.]+\."
    "(mix_tokens|tokens|num_codebooks|codebook_size|projection_dim|stacked_frames|smoothed_frames|normalise)"
)
# What checkpoints that are older than a setting were trained with, where its default is something else.
_ONCE = {"model.constant_attention": True}
_ENCODER = f"model.{encoders.KEY}"


def check_resumable(config: TrainConfig, meta: dict, world_size: int, present_cards: dict[str, dict]) -> None:
    """Compares a checkpoint with the run that wants to continue it.

    Raises:
        CheckpointError: settings that change the training differ; the first is named with both values.
        CardError: the targets are not those that the checkpoint was trained on.
    """
    saved, present = flatten(meta["config"]), flatten(configuration.to_dict(config))
    # A setting that is younger than the checkpoint had what is its default now.
    defaults = flatten(configuration.to_dict(type(config)()))
    for key in sorted({*_ONCE} & {*present} - {*saved}):
        if present[key] != _ONCE[key]:
            logger.warning(
                "%s was %r when this checkpoint was written and is %r now; --%s %s goes on as before",
                *(key, _ONCE[key], present[key], key, str(_ONCE[key]).lower()),
            )
        saved[key] = present[key]
    streams = {name: TrainStreamConfig(stream.objective) for name, stream in config.streams.items()}
    defaults |= flatten(configuration.to_dict(streams), "streams")
    sources = [SourceConfig(source.name, source.cuts) for source in config.sources]
    defaults |= flatten(configuration.to_dict(sources), "sources")
    defaults |= flatten(configuration.to_dict(ModelConfig(config.model.encoder)), "model")
    defaults[_ENCODER] = encoders.DEFAULT
    saved |= {key: defaults[key] for key in present if key not in saved and key in defaults}
    # Before objectives had settings of their own, streams had those of all objectives: the others decided nothing.
    saved = {key: value for key, value in saved.items() if key in present or not _FORMER_SETTING.fullmatch(key)}
    for key in sorted({*saved, *present}, key=lambda key: (key != _ENCODER, key)):  # the rest follows from it
        if _is_free(key) or saved.get(key) == present.get(key):
            continue
        raise CheckpointError(
            f"{key} = {present.get(key)!r}, but the checkpoint in {config.exp_dir} was trained with {saved.get(key)!r}",
            "the settings of the run that is resumed",
            f"correct {key}, or choose another exp_dir for a new run",
        )
    for name, card in present_cards.items():
        trained = meta["cards"].get(name, {})
        differing = [key for key in _ORIGINS if trained.get(key) != card.get(key)]
        if differing:
            found, expected = (" and ".join(f"{key} {of.get(key)}" for key in differing) for of in (card, trained))
            raise CardError(
                f"targets of stream '{name}' from {found}",
                f"{expected}, as the checkpoint had",
                "restore them, or choose another exp_dir for a new run",
            )
    if meta["world_size"] != world_size:
        logger.warning(
            "resuming with %d ranks a checkpoint of %d: the batches of a step are no longer the same",
            world_size,
            meta["world_size"],
        )


def deciding(config: TrainConfig) -> dict:
    """The settings by dotted name that decide what is trained."""
    return {key: value for key, value in flatten(configuration.to_dict(config)).items() if not _is_free(key)}


def _is_free(key: str) -> bool:
    return key in _FREE or key.endswith(_FREE_SUFFIX)


def flatten(values, prefix: str = "") -> dict:
    """Nested dictionaries and lists -> {dotted key: value}."""
    pairs = (
        values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list | tuple) else None
    )
    if pairs is None:
        return {prefix: values}
    flat = {}
    for key, value in pairs:
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat
