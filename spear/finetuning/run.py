"""A fine-tuning from the table to the score; the same call again goes on where it stopped."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spear import config as configuration
from spear import dist, env, fs, locks, log
from spear.errors import CheckpointError, ConfigError
from spear.finetuning.score import Scored, read_trials, score
from spear.finetuning.settings import train_settings
from spear.finetuning.tables import SPLITS, TableSettings, prepare
from spear.finetuning.tasks import TASKS
from spear.recognise.errors import Utterance, write_report
from spear.train.finetuned import load_finetuned
from spear.train.main import main as train
from spear.train.signals import EXIT_CODE

logger = log.get_logger(__name__)


@dataclass
class FinetuneSettings:
    """A fine-tuning.

    Attributes:
        tables: what is read.
        exp_dir: everything that is written.
        init_from: what `spear.load_model` reads, or `random:` and that.
        num_steps: 0: by the amount of data.
        batch_seconds: audio of a batch.
        seed: of the run.
        device: auto, cpu or cuda.
        trials: of verification, see `spear.finetuning.score.score`.
        trainer: further words for the trainer: --config FILE, --some.key VALUE.
        num_processes: that train, each with batches of its own; one prepares and scores.
        only_data: read, divide and write the manifests, and no more.
    """

    tables: TableSettings
    exp_dir: Path
    init_from: str
    num_steps: int = 0
    batch_seconds: float = 80.0
    seed: int = 42
    device: str = "auto"
    trials: Path | None = None
    trainer: list[str] = field(default_factory=list)
    num_processes: int = 1
    only_data: bool = False


def finetune(settings: FinetuneSettings) -> int:
    """Prepares, trains, scores, and writes `exp_dir`/report.md, score.json and predictions.jsonl.

    Of transcripts also the files of `spear.recognise.errors`: every edit, speakers, the worst recordings.

    Returns:
        exit code: 0, or that of a training that a signal stopped.

    Raises:
        SpearError: what preparing, training and scoring refuse.
    """
    exp_dir, tables = settings.exp_dir.absolute(), settings.tables
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError(
            "spear finetune in one of several processes",
            "one, which prepares, starts those that train, and scores",
            "call it without torchrun, and with --nproc-per-node N",
        )
    if settings.trials:
        read_trials(settings.trials)  # refused before anything is trained
    with locks.hold(exp_dir / "data", "spear finetune"):
        counts = prepare(tables, exp_dir / "data")
    for split in SPLITS:
        logger.info("%s: %s", split, ", ".join(f"{value} {name}" for name, value in counts[split].items()))
    if counts["left_out"]:
        logger.warning("%d left out, see %s", counts["left_out"], exp_dir / "data/manifests/left_out.jsonl")
    if settings.only_data:
        print(f"manifests: {exp_dir / 'data/manifests'}")
        return 0
    values = train_settings(
        *(tables, counts, exp_dir, settings.init_from, settings.num_steps),
        *(settings.batch_seconds, settings.seed, settings.device, settings.num_processes),
    )
    file = exp_dir / "finetune.yaml"
    configuration.dump_yaml(values, file)
    code = _train(["--config", str(file), *settings.trainer], settings.num_processes)
    if code:
        return code
    model = load_finetuned(exp_dir, dist.choose_device(settings.device))
    found = score(
        *(model, TASKS[tables.task], exp_dir / "data/manifests/test.jsonl", tables.target, tables.separator),
        *(settings.trials, settings.batch_seconds),
    )
    _write(settings, counts, model.step, found)
    print(found.text())
    print(f"report: {exp_dir / 'report.md'}")
    return 0


def _train(argv: list[str], num_processes: int) -> int:
    """Trains in this process, or in several under torchrun, to which requests to stop are passed on."""
    if num_processes == 1:
        return train(argv)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes)]
    variables = {"OMP_NUM_THREADS": str(max(1, env.num_cores() // num_processes)), **os.environ}
    # Nothing is imported from the current directory; a Ctrl-C reaches them through this process alone, once.
    child = subprocess.Popen(
        [*command, "-m", "spear.bin.main", "train", *argv],
        env=variables | {"PYTHONSAFEPATH": "1"},
        start_new_session=True,
    )
    stopped = []

    def stop(number: int, _frame: Any) -> None:
        if not stopped:
            child.terminate()  # torchrun asks its processes, which save
        stopped.append(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return EXIT_CODE if code and stopped else code


def score_run(
    exp_dir: Path, cuts: Path, trials: Path | None = None, device: str = "auto", batch_seconds: float = 80.0
) -> Scored:
    """Scores any fine-tuned run, of `spear train` too, on held-out cuts.

    Args:
        exp_dir: of the run; receives score-NAME.json and predictions-NAME.jsonl, NAME being that of `cuts`, and of
            transcripts the files of `spear.recognise.errors`.
        cuts: manifest of cuts, such as `spear finetune --only-data` writes.
        trials, device, batch_seconds: see `FinetuneSettings`.

    Raises:
        SpearError: what `load_finetuned` and `score` refuse.
    """
    model = load_finetuned(exp_dir, dist.choose_device(device))
    streams = [model.config.streams[name] for name in model.objectives]
    stream = next((stream for stream in streams if stream.objective in TASKS), streams[0])
    if stream.objective not in TASKS:
        raise CheckpointError(f"{exp_dir} with {stream.objective}", "one of " + ", ".join(TASKS), "name another run")
    task, key = TASKS[stream.objective], getattr(stream.settings, "key", "")
    separator = getattr(stream.settings, "separator", ";")
    found = score(model, task, cuts, key, separator, trials, batch_seconds)
    fs.write_jsonl(exp_dir / f"predictions-{cuts.stem}.jsonl", found.predictions)
    if task.is_text:
        write_report(exp_dir, cuts.stem, [Utterance(**row) for row in found.predictions])
    values = found.summary() | {"step": model.step, "cuts": cuts.name}
    fs.write_json(exp_dir / f"score-{cuts.stem}.json", values)
    return found


def _write(settings: FinetuneSettings, counts: dict[str, Any], step: int, found: Scored) -> None:
    exp_dir, tables = settings.exp_dir, settings.tables
    fs.write_jsonl(exp_dir / "predictions.jsonl", found.predictions)
    if TASKS[tables.task].is_text:
        write_report(exp_dir, "test", [Utterance(**row) for row in found.predictions])
    run = {"task": tables.task, "target": tables.target, "init_from": settings.init_from, "seed": settings.seed}
    fs.write_json(exp_dir / "score.json", found.summary() | run | {"step": step, "counts": counts})
    rows = [f"| {split} | {' | '.join(str(value) for value in counts[split].values())} |" for split in SPLITS]
    lines = [
        f"# {tables.task} of {tables.target}",
        "",
        f"**{found.text()}**, after {step} steps from {settings.init_from}.",
        f"The interval holds 95 % of the scores of resampled {'trials' if found.metric == 'eer' else 'recordings'}.",
        "",
        "| split | recordings | hours | groups |",
        "| --- | --: | --: | --: |",
        *rows,
        "",
        f"Left out: {counts['left_out']} (data/manifests/left_out.jsonl), not scored: {len(found.refused)}. What the "
        "model said about each: predictions.jsonl. Settings: config.yaml. `spear.train.finetuned.load_finetuned` reads "
        "this directory.",
    ]
    fs.write_text(exp_dir / "report.md", "\n".join(lines) + "\n")


def score_of(exp_dir: Path) -> dict[str, Any]:
    """What a finished fine-tuning scored.

    Raises:
        CheckpointError: it has not been scored.
    """
    path = exp_dir / "score.json"
    if not path.exists():
        raise CheckpointError(f"no {path}", "a finished fine-tuning", "run spear finetune with this --exp-dir")
    return fs.read_json(path)
