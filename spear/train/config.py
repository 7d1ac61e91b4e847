"""Everything a training run is told, in one typed tree (YAML and command line fill it, `spear.config` checks it)."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from spear import ranges, records
from spear.choices import Choice
from spear.config import from_dict
from spear.data.mixing import MixingConfig
from spear.data.plan import PlanLimits
from spear.data.sources import CutLimits, SourceConfig
from spear.errors import ConfigError
from spear.models import encoders
from spear.models.mask import MaskConfig
from spear.models.spec_augment import SpecAugmentConfig
from spear.train.objectives import registry
from spear.train.sampling import SamplingConfig

# Weight of each stream's loss on each domain. Streams are named after what their teacher knows;
# a run with other streams, or other weights, states `streams.<name>.domain_weights` itself.
STRATEGIES: dict[str, dict[str, dict[str, float]]] = {
    "asymmetric": {"speech": {"speech": 1.0, "audio": 1.0}, "audio": {"speech": 0.0, "audio": 0.1}},
    "disjoint": {"speech": {"speech": 1.0, "audio": 0.0}, "audio": {"speech": 0.0, "audio": 0.25}},
    "joint": {"speech": {"speech": 1.0, "audio": 1.0}, "audio": {"speech": 0.1, "audio": 0.1}},
}


@dataclass
class StreamConfig(Choice):
    """One stream of targets. The settings of its objective stand beside these, see `spear.train.objectives`.

    Attributes:
        objective: `tokens` (of a teacher, from the token store), `random_projection` (BEST-RQ: codes of the unmasked
            features; needs no teacher), `labels` (one class a frame: k-means clusters), `features` (a teacher's frames:
            USAD), for fine-tuning `ctc` and `transducer` (transcripts of the cuts), `tagging`, `classification` and
            `verification` (their labels and speakers), or one that an installed package brings.
        domain_weights: weight of this stream's loss per domain; None takes the strategy's.
        settings: of the objective's class; nested plain values are converted, None means its defaults.
    """

    choice: ClassVar[str] = "objective"
    objective: str = "tokens"
    domain_weights: dict[str, records.NotNegative] | None = None
    settings: Any = None

    @classmethod
    def options(cls) -> dict[str, type]:
        """The settings of every objective."""
        return registry.settings_classes()

    def __post_init__(self):
        option = self.option(self.objective)
        if not isinstance(self.settings, option):
            self.settings = from_dict(option, self.settings or {}, f"the settings of objective {self.objective}")


@dataclass
class ModelConfig(Choice):
    """The encoder. Its sizes stand beside its name, see `spear.models.encoders`.

    Attributes:
        encoder: `zipformer` (which a file that names none means), `transformer` (its control: plain, pre-norm), or one
            that an installed package brings.
        settings: the encoder's configuration; nested plain values are converted, None means its defaults.
    """

    choice: ClassVar[str] = encoders.KEY
    encoder: str = encoders.DEFAULT
    settings: Any = None

    @classmethod
    def options(cls) -> dict[str, type]:
        """The configuration class of every encoder."""
        return encoders.config_classes()

    def __post_init__(self):
        if not (isinstance(self.settings, encoders.EncoderConfig) and self.settings.encoder == self.encoder):
            option = self.option(self.encoder)
            self.settings = from_dict(option, self.settings or {}, f"the settings of encoder {self.encoder}")


LAST = "last"


@dataclass
class OptimizerConfig:
    """The optimizer, and Eden.

    Attributes:
        name: `scaled_adam`, or `adamw`, which needs a `base_lr` of its own, near 0.0005.
        base_lr: learning rate before Eden's factors.
        lr_batches: Eden's B0, in optimizer steps.
        lr_hours: Eden's H, in hours of padded audio over all ranks.
        warmup_batches: the factor rises from 0.5 to 1 over this many steps.
        clipping_scale: gradients above this multiple of the median norm are scaled down.
        clipping_start: no gradient is scaled down before this step; 100 in the SPEAR authors' optimiser, 0 (from the
            first median, at step 10) in icefall's later one.
        lr_scales: factors on the learning rate by prefix of parameter names, such as {encoder_embed: 0.1}.
        reference_seconds: schedules of dropout and the like count in batches of this many padded seconds.
        first_batch_count: from which those of the encoder count; 100000 gives them their last values, for fine-tuning.
        weight_decay: of AdamW, on all but biases, gains of norms and single numbers; ScaledAdam has none.
    """

    name: str = "scaled_adam"
    base_lr: records.Positive = 0.045
    lr_batches: records.Positive = 7500.0
    lr_hours: records.Positive = 25000.0
    warmup_batches: records.NotNegative = 500.0
    clipping_scale: records.Positive = 2.0
    clipping_start: records.Count = 0
    lr_scales: dict[str, records.NotNegative] = field(default_factory=dict)
    reference_seconds: records.Positive = 600.0
    first_batch_count: records.NotNegative = 0.0
    weight_decay: records.NotNegative = 0.01

    def __post_init__(self):
        _choice("optimizer.name", self.name, ("scaled_adam", "adamw"))
        if self.name == "adamw" and self.base_lr == OptimizerConfig.base_lr:
            found = f"optimizer.name: adamw with base_lr {self.base_lr:g}, the default for steps relative to parameters"
            raise ConfigError(found, "a learning rate for AdamW", "set optimizer.base_lr, such as 0.0005")


@dataclass
class TrainConfig:
    """A training run.

    Attributes:
        exp_dir: everything the run writes.
        data_dir: what prepare.sh made; paths of sources and tokens are relative to it.
        seed: names every random stream.
        num_steps: optimizer steps; training ends there.
        init_from: checkpoint of the same sizes whose encoder the run starts from; empty: from random weights.
        freeze_encoder_steps: for so many steps the heads alone are trained, on what the encoder gives in use.
        model: the encoder and its sizes; an encoder's own configuration (`SpearConfig`...) will do.
        strategy: `asymmetric`, `disjoint` or `joint`; weights a stream states itself come first.
        streams: targets by name; any number.
        sources: corpora with their domains and sampling weights.
        cut_limits: the shortest and longest cut that is trained on and scored.
        valid_fraction: share of the cuts (chosen by id) kept out of training and scored unmasked and masked.
        masked_weight, unmasked_weight: weights of frames by whether their input was masked.
        head_initial_scale: of the heads' first weights, relative to the paper's; see `spear.models.heads`.
        mask, mixing: of what is predicted from, and of what is heard.
        spec_augment: warps and masks features; off by default, since masks of pre-training are another thing.
        sampling: cuts with rare labels come more often.
        accumulation: batches per rank and optimizer step; `auto`: what comes closest to plan.global_seconds.
        parallel: what several ranks do with parameters, average and optimizer: `ddp` keeps all on each, `fsdp` shards
            the layers over ranks (less memory, more traffic). Checkpoints are the same.
        activation_checkpointing: layers keep only their input and compute the rest again; less memory, more time.
        precision: `auto` (bf16 where it is fast), `bf16` or `fp32`.
        device: `auto`, `cpu` or `cuda`.
        num_workers: loader processes per rank.
        log_every_steps, valid_every_steps, checkpoint_every_steps: periods in optimizer steps.
        keep_checkpoints: older ones are deleted.
        average_every_steps: the averaged model takes in the parameters this often.
        average_last_steps: the final model is the average over these last steps (0: no averaging).
        average_by: `last`, or a number of the validation (valid/map/tags): then the final model is the mean of the
            average_best checkpoints with its best values, which are kept; one is written at every validation.
        max_non_finite_steps: training stops after this many skipped steps.
        rehearsal_batches: so many of the costliest batches are run before a new run's first step (0: none).
        memory_limit_gb: memory that a rank may use, for the rehearsal and `plan.max_seconds: auto`; 0: what there is.
        timeout_minutes: a collective that waits longer ends the run; after half of it the stacks are written.
        tensorboard: write event files below exp_dir/tensorboard.
    """

    exp_dir: str = "exp"
    data_dir: str = "data"
    seed: int = 42
    num_steps: records.Count = 400_000
    init_from: str = ""
    freeze_encoder_steps: records.Count = 0
    model: ModelConfig = field(default_factory=ModelConfig)
    strategy: str = "asymmetric"
    streams: dict[str, StreamConfig] = field(default_factory=dict)
    sources: list[SourceConfig] = field(default_factory=list)
    cut_limits: CutLimits = field(default_factory=CutLimits)
    valid_fraction: ranges.Part = 0.02
    masked_weight: records.NotNegative = 1.0
    unmasked_weight: records.NotNegative = 1.0
    head_initial_scale: records.NotNegative = 1.0
    mask: MaskConfig = field(default_factory=MaskConfig)
    mixing: MixingConfig = field(default_factory=MixingConfig)
    spec_augment: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    plan: PlanLimits = field(default_factory=PlanLimits)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    accumulation: records.PositiveCount | str = 1
    parallel: str = "ddp"
    activation_checkpointing: bool = False
    precision: str = "auto"
    device: str = "auto"
    num_workers: ranges.Workers = 1
    log_every_steps: records.PositiveCount = 50
    valid_every_steps: records.PositiveCount = 1000
    checkpoint_every_steps: records.PositiveCount = 4000
    keep_checkpoints: records.Count = 3
    average_every_steps: records.PositiveCount = 200
    average_last_steps: records.Count = 16_000
    average_by: str = LAST
    average_best: records.PositiveCount = 10
    max_non_finite_steps: records.Count = 20
    rehearsal_batches: records.Count = 3
    memory_limit_gb: records.NotNegative = 0.0
    timeout_minutes: ranges.Minutes = 10.0
    tensorboard: bool = True

    def __post_init__(self):
        if isinstance(self.model, encoders.EncoderConfig):
            self.model = ModelConfig(self.model.encoder, self.model)
        ranges.check(self)
        if self.num_steps == 0 and not self.init_from:
            raise ConfigError("num_steps: 0", "a whole number from 1 on; 0 with init_from alone", "correct num_steps")
        _choice("strategy", self.strategy, tuple(STRATEGIES))
        _choice("parallel", self.parallel, ("ddp", "fsdp"))
        _choice("precision", self.precision, ("auto", "bf16", "fp32"))
        if isinstance(self.accumulation, str) and self.accumulation != "auto":
            raise ConfigError(f"accumulation = {self.accumulation}", "1, 2, ..., or auto", "correct accumulation")

    def stream_weight(self, stream: str, domain: str) -> float:
        """Weight of a stream's loss on utterances of a domain.

        Raises:
            ConfigError: neither the stream nor the strategy states one.
        """
        stated = self.streams[stream].domain_weights or STRATEGIES[self.strategy].get(stream, {})
        if domain not in stated:
            raise ConfigError(
                f"no weight for stream '{stream}' on domain '{domain}'",
                "one in streams.<name>.domain_weights, or a stream that the strategy knows "
                f"({', '.join(STRATEGIES[self.strategy])})",
                f"set streams.{stream}.domain_weights: {{{domain}: 1.0}}",
            )
        return stated[domain]


# icefall's flags, where it has the setting.
ALIASES = {
    "max-duration": "plan.max_seconds",
    "base-lr": "optimizer.base_lr",
    "lr-batches": "optimizer.lr_batches",
    "lr-hours": "optimizer.lr_hours",
}


def _choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name}: '{value}'", "one of " + ", ".join(allowed), f"correct {name}")
