"""SUPERB evaluation cost: encoder once and all learning rates side by side, against the encoder at every step.

Both sides score KS, IC, ER and SID with one encoder at the published numbers of steps, batch sizes and evaluations
(benchmarks A.2), over the same grid of learning rates. Measured on this machine, in CPU seconds of one thread (which do
not depend on what else runs): the encoder per second of audio on batches of each task's length, and one training step
and one evaluation of the heads, on slices; everything else is multiplication, printed term by term. The step-wise side
is charged for the encoder alone: its heads, audio loading and featurizer are taken to cost nothing.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from spear import config, fs
from spear.bench._report import environment, markdown_table
from spear.evaluate.banks import LinearBank
from spear.evaluate.protocol import Settings, settings_of


@dataclass(frozen=True)
class Corpus:
    """Sizes of a task's data: utterances, mean seconds of audio at training and at evaluation, classes, folds.

    `crops` is how many training crops the cache holds of each utterance; `overlap` how often an utterance serves
    another fold, which the cache need not compute again.
    """

    train: int
    dev: int
    test: int
    train_seconds: float
    eval_seconds: float
    classes: int
    crops: int = 1
    folds: int = 1


# Speech Commands v0.01, Fluent Speech Commands, IEMOCAP (per fold), VoxCeleb1 (crops of at most 8 s).
CORPORA = {
    "KS": Corpus(51_094, 6_798, 3_081, 1.0, 1.0, 12),
    "IC": Corpus(23_132, 3_118, 3_793, 2.3, 2.3, 24),
    "ER": Corpus(3_540, 885, 1_106, 4.5, 4.5, 4, folds=5),
    "SID": Corpus(138_361, 6_904, 8_251, 6.8, 8.2, 1_251, crops=3),
}


@dataclass
class BenchConfig:
    """Settings.

    Attributes:
        size: of the encoder: base, or tiny to try the command out.
        learning_rates: in the grid, on both sides.
        encoder_seconds: of audio in a measured batch, about.
        repeats: measured batches and evaluations; the best counts.
        steps: measured training steps.
        output: a JSON file for the numbers.
    """

    size: str = "base"
    learning_rates: int = 5
    encoder_seconds: float = 16.0
    repeats: int = 2
    steps: int = 20
    output: str = ""


def _encoder(size: str):
    import spear
    from spear.evaluate.upstream import SpearUpstream
    from spear.seeds import seed_global

    settings = spear.SpearConfig.base()
    if size == "tiny":
        two = {"num_encoder_layers": "1,1", "downsampling_factor": "1,2", "cnn_module_kernel": "15,15"}
        two |= dict.fromkeys(("encoder_dim", "encoder_unmasked_dim", "feedforward_dim"), "64,64")
        settings = spear.SpearConfig(**two, num_heads="2,2")
    seed_global(0, "bench-superb")
    return SpearUpstream(spear.SpearModel(settings), size, "random")


def _best(function: Callable[[], object], repeats: int) -> float:
    """Least CPU seconds of a call."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


def encoder_cost(upstream, seconds: float, total_seconds: float, repeats: int) -> float:
    """CPU seconds for each second of audio, on a batch of utterances of this length."""
    count, samples = max(1, round(total_seconds / seconds)), round(seconds * upstream.sample_rate)
    waves_BS, lengths_B = 0.1 * torch.randn(count, samples), torch.full((count,), samples)
    return _best(lambda: upstream.extract(waves_BS, lengths_B), repeats) / (count * seconds)


def heads_cost(
    layers: int, dim: int, corpus: Corpus, settings: Settings, repeats: int, steps: int
) -> tuple[float, float]:
    """CPU seconds of an optimizer step of the whole grid, and of an evaluation of it for each utterance."""
    bank = LinearBank(layers, dim, corpus.classes, settings)
    batch_LBTD = torch.randn(layers, settings.batch_size, 1, dim)
    labels_B = torch.randint(corpus.classes, (settings.batch_size,))
    ones_B = torch.ones(settings.batch_size, dtype=torch.int64)

    def step() -> None:
        for _ in range(settings.accumulate):
            outputs = bank.outputs(batch_LBTD, ones_B)
            loss = sum(torch.nn.functional.cross_entropy(out_B1C[:, 0], labels_B) for out_B1C in outputs)
            (loss / settings.accumulate).backward()
        bank.step(1.0)

    step()
    training = _best(lambda: [step() for _ in range(steps)], repeats) / steps
    count = min(512, corpus.dev)
    means_LND = torch.randn(layers, count, 1, dim)
    with torch.no_grad():
        lens = torch.ones(count, dtype=torch.int64)
        evaluation = _best(lambda: [out.argmax(dim=-1) for out in bank.outputs(means_LND, lens)], repeats) / count
    return training, evaluation


def costs(task: str, upstream, layers: int, dim: int, settings: BenchConfig) -> dict:
    """Both sides of a task in CPU seconds, with the terms they are made of."""
    corpus = CORPORA[task]
    grid = tuple(10.0 ** -(1 + n) for n in range(settings.learning_rates))
    protocol = dataclasses.replace(settings_of("superb", task), learning_rates=grid)
    per_second = encoder_cost(upstream, corpus.train_seconds, settings.encoder_seconds, settings.repeats)
    step, evaluation = heads_cost(layers, dim, corpus, protocol, settings.repeats, settings.steps)
    evaluations = protocol.max_steps // protocol.eval_every
    train_audio = protocol.max_steps * protocol.batch_size * protocol.accumulate * corpus.train_seconds
    eval_audio = (evaluations * corpus.dev + corpus.test) * corpus.eval_seconds
    # Folds share their utterances: together they hold each once.
    utterances = corpus.train * corpus.crops + corpus.dev + corpus.test
    cached_audio = corpus.train * corpus.crops * corpus.train_seconds + (corpus.dev + corpus.test) * corpus.eval_seconds
    return {
        "task": task,
        "encoder_cpu_seconds_per_audio_second": per_second,
        "grid_step_cpu_seconds": step,
        "grid_evaluation_cpu_seconds_per_utterance": evaluation,
        "steps": protocol.max_steps * corpus.folds,
        "stepwise_audio_seconds": len(grid) * corpus.folds * (train_audio + eval_audio),
        "stepwise_cpu_seconds": len(grid) * corpus.folds * (train_audio + eval_audio) * per_second,
        "cached_utterances": utterances,
        "cached_audio_seconds": cached_audio,
        "features_cpu_seconds": cached_audio * per_second,
        "heads_cpu_seconds": corpus.folds
        * (protocol.max_steps * step + (evaluations * corpus.dev + corpus.test) * evaluation),
    }


def main(argv: list[str] | None = None) -> int:
    """Measures, extrapolates, prints."""
    settings = config.parse(BenchConfig, argv, description=__doc__)
    torch.set_num_threads(1)
    upstream = _encoder(settings.size)
    states, _ = upstream.extract(torch.zeros(1, 16000), torch.tensor([16000]))
    layers, dim = len(states), max(state.shape[2] for state in states)
    rows = [costs(task, upstream, layers, dim, settings) for task in CORPORA]
    for row in rows:
        row["ours_cpu_seconds"] = row["features_cpu_seconds"] + row["heads_cpu_seconds"]
        row["ratio"] = row["stepwise_cpu_seconds"] / row["ours_cpu_seconds"]
    total = {side: sum(row[f"{side}_cpu_seconds"] for row in rows) for side in ("stepwise", "ours")}
    print(
        f"{settings.size}: {layers} layers of up to {dim} channels; grid of {settings.learning_rates} learning rates\n"
    )
    header = ["task", "encoder s/s", "stepwise audio h", "stepwise CPU h", "cached audio h", "features CPU h"]
    header += ["steps", "grid step ms", "heads CPU h", "ours CPU h", "ratio"]
    table = [
        [
            row["task"],
            row["encoder_cpu_seconds_per_audio_second"],
            row["stepwise_audio_seconds"] / 3600,
            row["stepwise_cpu_seconds"] / 3600,
            row["cached_audio_seconds"] / 3600,
            row["features_cpu_seconds"] / 3600,
            row["steps"],
            1000 * row["grid_step_cpu_seconds"],
            row["heads_cpu_seconds"] / 3600,
            row["ours_cpu_seconds"] / 3600,
            row["ratio"],
        ]
        for row in rows
    ]
    print(markdown_table(header, table))
    ratio = total["stepwise"] / total["ours"]
    print(
        f"\nstepwise = audio x encoder = {total['stepwise'] / 3600:,.0f} CPU h; ours = cached audio x encoder + "
        f"steps x grid step + evaluations = {total['ours'] / 3600:,.1f} CPU h; {ratio:.0f} times less"
    )
    found = {"rows": rows, "total": total, "ratio": ratio, "environment": environment()}
    print(json.dumps(found["environment"]))
    if settings.output:
        fs.write_json(settings.output, found)
    return 0
