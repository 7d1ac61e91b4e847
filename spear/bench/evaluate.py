"""Evaluation cost: hours of heads for each SUPERB task on this machine, and the encoder run once against at every step.

First the hours that the heads of each task take at their published size: published steps x measured seconds of a step
of all learning rates side by side, and the evaluations. Features are random numbers; utterances of tasks on frames are
cut (`item_seconds`), and the time of a batch is scaled by length. On a CPU the hours are CPU hours divided by threads.

Then what a cache of features saves: both sides score KS, IC, ER and SID with one encoder at the published numbers of
steps, batch sizes and evaluations, over the same grid of learning rates. Measured in CPU seconds of one thread (which
do not depend on what else runs): the encoder per second of audio on batches of each task's length, and one training
step and one evaluation of the heads, on slices; everything else is multiplication, printed term by term. The step-wise
side is charged for the encoder alone: its heads, audio loading and featurizer are taken to cost nothing.

Last, where `grid` asks for it, what it saves to train the points of HEAR's grid side by side.
"""

import dataclasses
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from spear import config, fs, records
from spear.bench import _grid
from spear.bench._published import FRAME_CORPORA, frame_problem
from spear.bench._report import environment, markdown_table
from spear.errors import ConfigError
from spear.evaluate.banks import LinearBank, arithmetic
from spear.evaluate.estimate import Cost, measure
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
        tasks: of which the hours are measured, joined by commas; `all`; or `none`.
        device: of the heads whose hours are measured.
        precision: of these heads: float32, tf32 or bfloat16.
        threads: of the CPU, for the hours.
        item_seconds: longest utterance in a measured batch of a task on frames.
        batches: measured batches of such a task, after a first one that does not count.
        saving: whether to measure what the cache saves as well.
        grid: tasks on which HEAR's points are trained side by side and one after another: small, of recordings and
            size of the published Gunshot or ESC-50, joined by commas; `all`; or `none`.
        learning_rates: in the grid, on both sides of that comparison.
        encoder_seconds: of audio in a measured batch of the encoder, about.
        repeats: measured batches and evaluations; the best counts.
        steps: measured training steps of a task on time means.
        output: a JSON file for the numbers.
    """

    size: str = "base"
    tasks: str = "all"
    device: str = "cpu"
    precision: str = "float32"
    threads: records.PositiveCount = 1
    item_seconds: records.Positive = 2.0
    batches: records.PositiveCount = 1
    saving: bool = True
    grid: str = "none"
    learning_rates: records.PositiveCount = 5
    encoder_seconds: records.Positive = 16.0
    repeats: records.PositiveCount = 2
    steps: records.PositiveCount = 20
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


def _best(function: Callable[[], object], repeats: int, device: str = "cpu") -> float:
    """Least seconds of a call: of the CPU, or on a GPU of the clock."""
    clock = time.process_time if device == "cpu" else time.monotonic
    times = []
    for _ in range(repeats):
        start = clock()
        function()
        if device != "cpu":
            torch.cuda.synchronize(device)
        times.append(clock() - start)
    return min(times)


def encoder_cost(upstream, seconds: float, total_seconds: float, repeats: int) -> float:
    """CPU seconds for each second of audio, on a batch of utterances of this length."""
    count, samples = max(1, round(total_seconds / seconds)), round(seconds * upstream.sample_rate)
    waves_BS, lengths_B = 0.1 * torch.randn(count, samples), torch.full((count,), samples)
    return _best(lambda: upstream.extract(waves_BS, lengths_B), repeats) / (count * seconds)


def heads_cost(
    layers: int, dim: int, corpus: Corpus, settings: Settings, repeats: int, steps: int
) -> tuple[float, float]:
    """Seconds of an optimizer step of the whole grid, and of an evaluation of it for each utterance."""
    bank = LinearBank(layers, dim, corpus.classes, settings)
    device = settings.device
    batch_LBTD = torch.randn(layers, settings.batch_size, 1, dim)
    labels_B = torch.randint(corpus.classes, (settings.batch_size,)).to(device)
    ones_B = torch.ones(settings.batch_size, dtype=torch.int64)

    def step() -> None:
        for _ in range(settings.accumulate):
            outputs = bank.outputs(batch_LBTD, ones_B)
            losses = [torch.nn.functional.cross_entropy(out_B1C[:, 0], labels_B) for out_B1C in outputs]
            bank.backward(losses, 1 / settings.accumulate)
        bank.step(1.0)

    step()
    training = _best(lambda: [step() for _ in range(steps)], repeats, device) / steps
    count = min(512, corpus.dev)
    means_LND = torch.randn(layers, count, 1, dim)
    bank.train(False)
    with torch.no_grad():
        lens = torch.ones(count, dtype=torch.int64)
        evaluation = (
            _best(lambda: [out.argmax(dim=-1) for out in bank.outputs(means_LND, lens)], repeats, device) / count
        )
    return training, evaluation


def frame_cost(task: str, settings: Settings, layers: int, dim: int, chosen: BenchConfig) -> Cost:
    """What a task on frames costs at its published lengths, by batches of shorter utterances at 50 frames a second."""
    corpus = FRAME_CORPORA[task]
    # The context of the x-vector is a good part of a short utterance.
    most = corpus.train_seconds if task == "ASV" else min(chosen.item_seconds, corpus.train_seconds)
    clock = time.process_time if chosen.device == "cpu" else time.monotonic
    with tempfile.TemporaryDirectory(prefix="spear-bench-") as directory:
        problem = frame_problem(task, settings, layers, dim, 50.0, most, Path(directory))
        cost = measure(problem, settings, float("inf"), chosen.batches, clock)
    threads = chosen.threads if chosen.device == "cpu" else 1
    return Cost(
        cost.batch_seconds * corpus.train_seconds / most / threads,
        cost.update_seconds / threads,
        cost.item_seconds * corpus.eval_seconds / most / threads,
    )


def hours(task: str, layers: int, dim: int, chosen: BenchConfig) -> dict:
    """Hours of the heads of a task at published size, and what they are made of."""
    changes = {"device": chosen.device, "precision": chosen.precision}
    settings = settings_of("superb", task, changes)
    if task in CORPORA:
        corpus, folds = CORPORA[task], CORPORA[task].folds
        threads = chosen.threads if chosen.device == "cpu" else 1
        with arithmetic(settings):
            step, item = (s / threads for s in heads_cost(layers, dim, corpus, settings, chosen.repeats, chosen.steps))
        cost = Cost(0.0, step, item)
    else:
        corpus, folds = FRAME_CORPORA[task], 1
        cost = frame_cost(task, settings, layers, dim, chosen)
    total = folds * cost.hours(settings, corpus.dev, corpus.test, each_on_test=task == "ASV")
    return {
        "task": task,
        "learning_rates": len(settings.learning_rates),
        "steps": settings.max_steps * folds,
        "step_seconds": cost.step_seconds(settings),
        "evaluation_seconds_per_item": cost.item_seconds,
        "hours": total,
    }


def _known(words: str, known: list[str], option: str) -> list[str]:
    names = {"all": known, "none": []}.get(words, words.split(","))
    for name in names:
        if name not in known:
            raise ConfigError(f"the task '{name}'", f"all, none, or some of {','.join(known)}", f"correct {option}")
    return names


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
    """Measures, extrapolates, prints.

    Raises:
        ConfigError: a task that is not known.
    """
    settings = config.parse(BenchConfig, argv, description=__doc__)
    names = _known(settings.tasks, [*CORPORA, *FRAME_CORPORA], "--tasks")
    grids = _known(settings.grid, [*_grid.TASKS], "--grid")
    upstream = _encoder(settings.size)
    states, _ = upstream.extract(torch.zeros(1, 16000), torch.tensor([16000]))
    layers, dim = len(states), max(state.shape[2] for state in states)
    print(f"{settings.size}: {layers} layers of up to {dim} channels\n")
    found: dict = {"hours": [], "environment": environment()}
    torch.set_num_threads(settings.threads)
    for name in names:
        row = hours(name, layers, dim, settings)
        found["hours"].append(row)
    if names:
        print(_hours_table(found["hours"], settings), "\n", flush=True)
    if settings.saving:
        torch.set_num_threads(1)
        found |= _saving(upstream, layers, dim, settings)
    if grids:
        torch.set_num_threads(settings.threads)
        found["grid"] = [_grid.compare(name, settings.device) for name in grids]
        print(markdown_table([*found["grid"][0]], [[*row.values()] for row in found["grid"]]), "\n")
    print(json.dumps(found["environment"]))
    if settings.output:
        fs.write_json(settings.output, found)
    return 0


def _hours_table(rows: list[dict], settings: BenchConfig) -> str:
    """Hours of every task, and their sum."""
    header = ["task", "learning rates", "steps", "step s", "steps/s", "heads h", "days"]
    table = [
        [row["task"], row["learning_rates"], row["steps"], row["step_seconds"], 1 / row["step_seconds"], row["hours"]]
        for row in rows
    ]
    table = [[*row, row[-1] / 24] for row in table]
    total = sum(row["hours"] for row in rows)
    place = f"{settings.threads} threads" if settings.device == "cpu" else settings.device
    tail = f"all learning rates of a task side by side, {place}, {settings.precision}; in all {total:,.1f} h"
    return f"{markdown_table(header, table)}\n\n{tail}"


def _saving(upstream, layers: int, dim: int, settings: BenchConfig) -> dict:
    """Prints and returns the comparison with an encoder that runs at every step."""
    rows = [costs(task, upstream, layers, dim, settings) for task in CORPORA]
    for row in rows:
        row["ours_cpu_seconds"] = row["features_cpu_seconds"] + row["heads_cpu_seconds"]
        row["ratio"] = row["stepwise_cpu_seconds"] / row["ours_cpu_seconds"]
    total = {side: sum(row[f"{side}_cpu_seconds"] for row in rows) for side in ("stepwise", "ours")}
    print(f"grid of {settings.learning_rates} learning rates\n")
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
    return {"rows": rows, "total": total, "ratio": ratio}
