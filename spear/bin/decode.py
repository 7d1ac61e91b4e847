"""`spear decode`: scores frozen encoders on the tasks of a prepared corpus and prints the table."""

import argparse
import shlex
import sys
from pathlib import Path

from spear.bin.main import guard
from spear.errors import CheckpointError, ConfigError


def parser(task: str | None = None, here: Path | None = None) -> argparse.ArgumentParser:
    """The arguments.

    Args:
        task: the task of a recipe's script, which then has no --task.
        here: the recipe's directory, for the default folders.
    """
    result = argparse.ArgumentParser(
        prog="spear decode" if task is None else f"decode_{task}.py",
        description="Frozen encoder, softmax-weighted sum over all layers, small head; learning rate selected on dev.",
    )
    base = here or Path()
    if task is None:
        result.add_argument("--task", action="append", help="a task of the corpus, or all; repeatable (default: all)")
    result.add_argument(
        "--upstream",
        action="append",
        help="[NAME=]fbank, random:CHECKPOINT or CHECKPOINT; repeatable "
        "(default: EXP_DIR/student, its untrained twin, and fbank)",
    )
    result.add_argument("--data-dir", "--data_dir", type=Path, default=base / "data")
    result.add_argument("--exp-dir", "--exp_dir", type=Path, default=base / "exp")
    result.add_argument("--device", default="cpu", help="of the encoder; heads train on CPU")
    result.add_argument("--num-jobs", type=int, default=0, help="processes; 0: one for each core")
    result.add_argument("--seed", type=int, default=0, help="of the untrained encoder and of the bootstrap")
    result.add_argument("--max-items", type=int, help="at most this many items of each split")
    result.add_argument("--units", default="sentencepiece:100", help="of texts: sentencepiece:SIZE or characters")
    result.add_argument("--learning-rates", help="replaces the declared grid, for example 1e-3,1e-2")
    result.add_argument("--max-steps", type=int, help="replaces the declared number of head training steps")
    result.add_argument("--cache-gigabytes", type=float, default=4.0, help="most hidden states for one upstream")
    result.add_argument("--force", action="store_true", help="score again although nothing has changed")
    return result


def main(argv: list[str] | None = None) -> int:
    """Runs the command; prints the table of the tasks asked for."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = parser().parse_args(argv)
    return _run(arguments, arguments.task or ["all"], shlex.join(["spear", "decode", *argv]))


def recipe(task: str, script: str, argv: list[str] | None = None) -> int:
    """The whole of a recipe's decode_<task>.py: the same command with the recipe's folders as defaults.

    Args:
        script: the script's `__file__`.
    """
    path = Path(script).resolve()

    def run(arguments: list[str] | None) -> int:
        arguments = sys.argv[1:] if arguments is None else arguments
        return _run(parser(task, path.parent).parse_args(arguments), [task], shlex.join([path.name, *arguments]))

    return guard(run, argv)


def _run(arguments: argparse.Namespace, tasks: list[str], command: str) -> int:
    from spear import locks, log
    from spear.evaluate.recipe_run import DecodeConfig, decode
    from spear.evaluate.results import terminal_table

    log.setup()
    config = DecodeConfig(
        device=arguments.device,
        num_jobs=arguments.num_jobs,
        seed=arguments.seed,
        max_items=arguments.max_items,
        text_units=arguments.units,
        learning_rates=_rates(arguments.learning_rates),
        max_steps=arguments.max_steps,
        cache_gigabytes=arguments.cache_gigabytes,
        force=arguments.force,
    )
    upstreams = arguments.upstream or default_upstreams(arguments.exp_dir)
    failures = []
    with locks.hold(arguments.exp_dir / "decode", "spear decode"):  # a training may go on beside it
        runs = decode(tasks, upstreams, arguments.data_dir, arguments.exp_dir, config, command, failures)
    # A folder of recordings without labels is pre-trained on like any other; there is just nothing to score.
    print(terminal_table(runs) if runs else f"{arguments.data_dir} has no task to score; see --tasks of prepare.sh")
    return told(failures)


def told(failures: list) -> int:
    """Says below the table what could not be scored; returns the exit code."""
    sys.stdout.flush()
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


def _rates(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        rates = tuple(float(part) for part in text.split(","))
    except ValueError:
        rates = ()
    if not rates or min(rates) <= 0:
        raise ConfigError(f"--learning-rates {text}", "positive numbers, joined by commas", "for example 1e-3,1e-2")
    return rates


def default_upstreams(exp_dir: Path) -> list[str]:
    """The recipe's student, its untrained twin, and the filterbank.

    Raises:
        CheckpointError: no student has been trained yet.
    """
    student = Path(exp_dir) / "student"
    if not student.exists():
        raise CheckpointError(
            f"no {student.absolute()}",
            "the checkpoint that train.py leaves there",
            "run train.py first, or name the encoder with --upstream CHECKPOINT",
        )
    return [f"spear={student}", f"random:{student}", "fbank"]
