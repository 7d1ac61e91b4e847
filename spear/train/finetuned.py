"""A run of the trainer as a model that answers: encoder, heads, objectives and vocabularies, read and never executed.

Everything is checked: the digests of the files, the settings, that the vocabulary beside the run is the one that the
checkpoint was trained with, and that the tensors are those of its heads.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spear import config as configuration
from spear import weights
from spear.data.streams import StreamConfig as StoredStreamConfig
from spear.data.streams import TargetStream
from spear.errors import CardError, CheckpointError, ConfigError, DataError
from spear.manifest.vocabulary import Vocabulary
from spear.models.heads import Encoded
from spear.models.pretrain import SpearPretrainModel
from spear.train import checkpoint
from spear.train.config import TrainConfig
from spear.train.objectives import Context, Objective, load

_ENCODER = ("encoder_embed.", "encoder.", "mask_emb")
_FIX = "copy the run again with all its files, or train it again"


class KnownUnits(TargetStream):
    """Stands for the stream of a finished run: what its numbers mean, without the cuts that they came from.

    Args:
        config: of the stream.
        vocabulary: of the run.

    Attributes:
        vocabulary: what the numbers mean.
        counts: (vocabulary.size,) of training cuts; not known any more, 1 for each.
        refused: nothing.
    """

    what, nothing = "supervisions", -100

    def __init__(self, config: StoredStreamConfig, vocabulary: Vocabulary):
        self.config, self.name, self.vocabulary = config, config.name, vocabulary
        self.counts, self.refused = np.ones(vocabulary.size, dtype=np.int64), []


@dataclass
class FineTuned:
    """A fine-tuned model in use.

    Attributes:
        model: encoder and heads in evaluation mode; an utterance gives the same alone and in a padded batch.
        objectives: by stream, those that can be decoded.
        vocabularies: by stream, of those that have one.
        config: of the run.
        directory: of the checkpoint.
        step: of the checkpoint.
    """

    model: SpearPretrainModel
    objectives: dict[str, Objective]
    vocabularies: dict[str, Vocabulary]
    config: TrainConfig
    directory: Path
    step: int

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.model.device

    def stream(self, objective: str = "") -> str:
        """The name of the stream of an objective, or of the only one.

        Raises:
            ConfigError: there is none, or more than one.
        """
        streams = self.config.streams
        found = [name for name in self.objectives if objective in ("", name, streams[name].objective)]
        if len(found) == 1:
            return found[0]
        known = ", ".join(f"{name} ({streams[name].objective})" for name in self.objectives)
        raise ConfigError(
            f"{len(found)} streams of {objective or 'any objective'} in {self.directory}",
            f"one among {known}",
            "name a run that was fine-tuned for this, or its stream",
        )

    @torch.inference_mode()
    def encode(self, waves_BS: Tensor, lengths_B: Tensor) -> Encoded:
        """What the heads read of audio in [-1, 1] at 16 kHz; lengths in samples."""
        features_BTF, feature_lens_B = self.model.fbank(waves_BS.to(self.device), lengths_B)
        return self.model.encode_masked(features_BTF, feature_lens_B)

    @torch.inference_mode()
    def decode(self, stream: str, encoded: Encoded) -> list[Any]:
        """What a head says about each utterance; see `spear.train.objectives.Objective.decode`."""
        return self.objectives[stream].decode(self.model.heads[stream], encoded)


def load_finetuned(exp_dir: str | Path, device: str | torch.device = "cpu") -> FineTuned:
    """Loads a fine-tuned run.

    Args:
        exp_dir: of `spear finetune` or `spear train` (its `final/` is taken, else the newest whole checkpoint), or one
            of its checkpoint directories.
        device: where it computes.

    Raises:
        CheckpointError: no run there, a damaged or foreign file, no head that can be decoded, or tensors that are not
            those of the run's settings.
        CardError: the vocabulary beside the run is not the one that it was trained with.
    """
    directory, meta = _find(Path(exp_dir))
    config = _config(directory, meta)
    cards = meta.get("cards")
    cards = cards if isinstance(cards, dict) else {}
    objectives, vocabularies = {}, {}
    for name, stream in config.streams.items():
        try:
            objective_class = load(stream.objective)
        except ConfigError as error:
            raise CheckpointError(f"{directory}: {error.found}", error.expected, error.fix) from error
        if objective_class.decode is Objective.decode:
            continue
        vocabulary = _vocabulary(directory, name, cards.get(name))
        if vocabulary is not None:
            vocabularies[name] = vocabulary
        objectives[name] = objective_class(_context(config, name, vocabulary, torch.device(device)))
    if not objectives:
        raise CheckpointError(
            f"{directory} without a head that can be decoded (streams: {', '.join(config.streams) or 'none'})",
            "a run that was fine-tuned for transcripts, tags, classes or speakers",
            "fine-tune the encoder first: spear finetune --init-from " + str(exp_dir),
        )
    model = _model(config, objectives, directory)
    return FineTuned(model.to(device), objectives, vocabularies, config, directory, int(meta["step"]))


def _find(path: Path) -> tuple[Path, dict]:
    """The checkpoint that is meant, and its description; all its files are compared with their digests."""
    if not path.exists():
        raise CheckpointError(f"nothing at {path}", "the directory of a fine-tuned run", "correct the path")
    for place in (path, path / "final"):
        if (place / "checkpoint.json").is_file():
            return place, checkpoint.verify(place)
    if found := checkpoint.newest(path):
        return found
    raise CheckpointError(
        f"{path} without final/ and without checkpoints of spear train",
        "the directory of a fine-tuned run (encoders alone have no head that could answer)",
        "name the --exp-dir of spear finetune",
    )


def _config(directory: Path, meta: dict) -> TrainConfig:
    try:
        return configuration.from_dict(TrainConfig, meta.get("config"), f"checkpoint.json in {directory}")
    except (ConfigError, DataError) as error:
        raise CheckpointError(f"{directory}/checkpoint.json: {error.found}", error.expected, _FIX) from error


def _vocabulary(directory: Path, name: str, card: Any) -> Vocabulary | None:
    """The vocabulary of a stream, which lies beside the checkpoint or above it; None where its card names none."""
    card = card.get("vocabulary") if isinstance(card, dict) else None
    if not isinstance(card, dict):
        return None
    file = f"vocabulary.{name}.json"
    places = [directory, directory.parent, directory.parent.parent]
    path = next((place / file for place in places if (place / file).is_file()), None)
    if path is None:
        raise CheckpointError(f"no {file} beside {directory}", "the vocabulary of the run", _FIX)
    try:
        vocabulary = Vocabulary.load(path)
    except DataError as error:
        raise CheckpointError(error.found, error.expected, _FIX) from error
    try:
        vocabulary.check(card, str(directory))
    except CardError as error:
        raise CardError(f"{path}: {error.found}", error.expected, error.fix) from error
    return vocabulary


def _context(config: TrainConfig, name: str, vocabulary: Vocabulary | None, device: torch.device) -> Context:
    settings, encoder = config.streams[name].settings, config.model.settings
    stream = None
    if vocabulary is not None:
        stored = load(config.streams[name].objective).reads(settings, name, Path(config.data_dir), ("speech", "audio"))
        stream = KnownUnits(stored or StoredStreamConfig(name, ""), vocabulary)
    rate, bins = encoder.frame_rate_hz, encoder.num_mel_bins
    return Context(name, settings, rate, bins, seed=config.seed, device=device, stream=stream)


def _model(config: TrainConfig, objectives: dict[str, Objective], directory: Path) -> SpearPretrainModel:
    heads = {name: objective.head for name, objective in objectives.items()}
    model = SpearPretrainModel(config.model.settings, heads)
    path = directory / "model.safetensors"
    state = weights.read_tensors(weights.check_file(path))
    kept = (*_ENCODER, *(f"heads.{name}." for name in heads))
    others = tuple(f"heads.{name}." for name in config.streams if name not in heads)
    foreign = [name for name in state if not name.startswith((*kept, *others))]
    state = {name: tensor for name, tensor in state.items() if name.startswith(kept)}
    expected = model.state_dict()
    missing = sorted(expected.keys() - state.keys())
    foreign += sorted(state.keys() - expected.keys())
    shapes = [name for name in expected if name in state and state[name].shape != expected[name].shape]
    if missing or foreign or shapes:
        raise CheckpointError(
            f"{path} lacks {weights.some(missing)}; has in addition {weights.some(foreign)}; of other shapes: "
            f"{weights.some(shapes)}",
            "the tensors of the settings and vocabulary of its run",
            _FIX,
        )
    weights.check_finite(state, path)
    model.load_state_dict(state)
    for module in model.modules():
        if hasattr(module, "exact_padding"):
            module.exact_padding = True
    return model.eval().requires_grad_(False)
