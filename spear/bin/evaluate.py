"""`spear evaluate`: scores frozen encoders on suites of tasks; `spear evaluate fetch|prepare|report|rescore`, too."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from spear.bin.main import guard
from spear.errors import CheckpointError

_TITLES = {
    "mini": "Frozen encoders",
    "superb": "SUPERB",
    "own": "Own labels",
    "hear": "HEAR 2021",
    "esc50": "ESC-50",
    "arch": "ARCH",
}
_TITLES |= {"arch_legacy": "ARCH as published", "tags": "Tags: AudioSet-20k and FSD50K"}


def parser(here: Path | None = None, tasks: str = "all", suite: str = "mini", protocol: str = ""):
    """The arguments.

    Args:
        here: a recipe's directory, for the default folders.
        tasks, suite, protocol: a recipe's defaults.
    """
    result = argparse.ArgumentParser(
        prog="spear evaluate" if here is None else "decode",
        description="Frozen encoders on tasks: features once, all learning rates side by side, selection on dev. "
        "`spear evaluate fetch CORPUS` downloads a corpus, `spear evaluate prepare CORPUS` writes the manifests of "
        "SUPERB, `spear evaluate report` writes the page, and `spear evaluate rescore RUN.json` computes scores again "
        "from predictions; each has --help.",
    )
    base = here or Path()
    result.add_argument(
        "--suite",
        default=suite,
        help="mini (the tasks that a recipe states), superb (DATA_DIR/superb/<TASK>.jsonl), hear (DATA_DIR/tasks/...), "
        "esc50, arch, arch_legacy, tags (DATA_DIR/corpora/...); several joined by commas",
    )
    result.add_argument(
        "--tasks", "--task", default=tasks, help="all, or names joined by commas (superb: PR,ASR,KS,..., or sg)"
    )
    result.add_argument(
        "--protocol",
        default=protocol,
        help="superb, hear, esc50, arch, arch_legacy, tags, mini (small heads); default: the suite's own",
    )
    result.add_argument("--states", default="last", help="hear: last, mean, weighted or concat: what an embedding is")
    result.add_argument("--hear-grid", default="published", help="hear: published (8 points of 16) or all")
    result.add_argument(
        "--manifest",
        type=Path,
        help="your own labels instead of a suite: a CSV, TSV or JSONL with paths, or a folder with one for each class",
    )
    result.add_argument("--target", default="class", help="with --manifest: the column of labels; several by commas")
    result.add_argument(
        "--kind", default="multiclass", help="with --manifest: multiclass, multilabel, regression, or text"
    )
    result.add_argument("--group", default="", help="with --manifest: a column (speaker, session) never divided")
    result.add_argument("--folds", type=int, default=5, help="with --manifest that has no column split")
    result.add_argument(
        "--upstream",
        action="append",
        help="[NAME=]fbank, CHECKPOINT, random:CHECKPOINT, teacher:NAME:PATH or python:MODULE:FACTORY; repeatable "
        "(default: EXP_DIR/student, its untrained twin, and fbank)",
    )
    result.add_argument("--data-dir", "--data_dir", type=Path, default=base / "data", help="what prepare.sh made")
    result.add_argument("--exp-dir", "--exp_dir", type=Path, default=base / "exp", help="receives evaluate/ and cache/")
    result.add_argument("--student-dir", type=Path, help="without --upstream: EXP_DIR of a recipe that has a student")
    result.add_argument("--device", default="cpu", help="of the encoder and the heads")
    result.add_argument("--num-jobs", type=int, default=0, help="processes; 0: one for each core")
    result.add_argument("--seed", type=int, default=0, help="of the untrained encoder and of the bootstrap")
    result.add_argument("--max-items", type=int, help="at most this many rows of each split")
    result.add_argument("--units", help="of texts under linear heads: sentencepiece:SIZE (100) or characters")
    result.add_argument("--learning-rates", type=_numbers, help="replaces the declared grid, for example 1e-4,1e-3")
    result.add_argument("--max-steps", type=int, help="replaces the declared number of head training steps")
    result.add_argument("--cache-gigabytes", type=float, default=20.0, help="most hidden states for one upstream")
    result.add_argument("--live", action="store_true", help="no cache: run the encoder whenever features are needed")
    result.add_argument("--check-audio", action="store_true", help="read every audio file again for changes")
    result.add_argument("--lexicon", default="", help="ASR: a word list; decodes test with it as well")
    result.add_argument("--language-model", default="", help="ASR: a KenLM file for that")
    result.add_argument("--force", action="store_true", help="score again although nothing has changed")
    result.add_argument("--page", type=Path, help="where the page goes; by default only `report` writes it")
    _add_results(result)
    return result


def _add_results(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, help="a RESULTS.md to put the tables into")
    parser.add_argument("--section", help="name of the section of RESULTS.md that is replaced; default: the suite")
    parser.add_argument("--title", help="heading of that section")
    parser.add_argument("--notes", default="", help="a sentence below that heading")


def _numbers(text: str) -> tuple[float, ...]:
    values = tuple(float(part) for part in text.split(","))
    if min(values) <= 0:
        raise ValueError("learning rates are positive")
    return values


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    argv = sys.argv[1:] if argv is None else argv
    other = {"prepare": _prepare, "fetch": _fetch, "report": _report, "rescore": _rescore}
    if argv and argv[0] in other:
        return other[argv[0]](argv[1:])
    return _run(parser().parse_args(argv), shlex.join(["spear", "evaluate", *argv]))


def recipe(tasks: str, script: str, suite: str = "mini", protocol: str = "", argv: list[str] | None = None) -> int:
    """The whole of a recipe's decode_<task>.py: the same command with the recipe's folders and tasks as defaults.

    Args:
        script: the script's `__file__`.
    """
    path = Path(script).resolve()

    def run(arguments: list[str] | None) -> int:
        arguments = sys.argv[1:] if arguments is None else arguments
        settings = parser(path.parent, tasks, suite, protocol).parse_args(arguments)
        return _run(settings, shlex.join([path.name, *arguments]))

    return guard(run, argv)


def _run(arguments: argparse.Namespace, command: str) -> int:
    from spear import locks, log
    from spear.evaluate.own import OwnLabels
    from spear.evaluate.report import write_report
    from spear.evaluate.results import terminal_text
    from spear.evaluate.run import EvaluateConfig, evaluate
    from spear.evaluate.suites import suites_of

    log.setup()
    config = EvaluateConfig(
        device=arguments.device,
        num_jobs=arguments.num_jobs,
        seed=arguments.seed,
        max_items=arguments.max_items,
        learning_rates=arguments.learning_rates,
        max_steps=arguments.max_steps,
        text_units=arguments.units,
        cache_gigabytes=arguments.cache_gigabytes,
        live=arguments.live,
        check_audio=arguments.check_audio,
        lexicon=arguments.lexicon,
        language_model=arguments.language_model,
        force=arguments.force,
    )
    if arguments.manifest:
        words = {"target": arguments.target, "kind": arguments.kind, "group": arguments.group, "folds": arguments.folds}
        suites = [OwnLabels(arguments.manifest, arguments.protocol, **words)]
    else:
        hear = {"states": arguments.states, "grid": arguments.hear_grid}
        suites = suites_of(arguments.suite, arguments.data_dir, arguments.protocol, hear=hear)
    upstreams = arguments.upstream or default_upstreams(arguments.student_dir or arguments.exp_dir)
    names, failures = arguments.tasks.split(","), []
    with locks.hold(arguments.exp_dir / "evaluate", "spear evaluate"):  # a training may go on beside it
        runs = evaluate(suites, names, upstreams, arguments.exp_dir, config, command, failures)
    # A folder of recordings without labels is pre-trained on like any other; there is just nothing to score.
    print(terminal_text(runs) if runs else f"{arguments.data_dir} has no task to score; see --tasks of prepare.sh")
    if arguments.page:
        print(f"page: {write_report(arguments.data_dir, arguments.exp_dir, arguments.page)}")
    _write_results(arguments, runs)
    sys.stdout.flush()
    for failure in failures:  # below the table: what could not be scored
        print(failure, file=sys.stderr)
    return 1 if failures else 0


def _write_results(arguments: argparse.Namespace, runs: Sequence[dict]) -> None:
    from spear.evaluate.results import by_suite, write_section

    for suite, of_suite in by_suite(runs).items() if arguments.results else ():
        section = arguments.section or suite
        title = arguments.title or _TITLES.get(suite.partition("-")[0], suite)
        write_section(arguments.results, of_suite, section, title, arguments.notes)
        print(f"results: {arguments.results}, section {section}")


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


def _prepare(argv: list[str]) -> int:
    from spear import log
    from spear.evaluate.corpora import CORPORA, prepare_corpus

    reader = argparse.ArgumentParser(prog="spear evaluate prepare", description="Writes the manifests of SUPERB tasks.")
    reader.add_argument("corpus", choices=CORPORA)
    reader.add_argument("--raw", type=Path, required=True, help="the corpus as it is distributed")
    reader.add_argument(
        "--data-dir", "--data_dir", type=Path, default=Path("data"), help="receives superb/<TASK>.jsonl"
    )
    reader.add_argument("--seed", type=int, help="of what is drawn at random")
    reader.add_argument("--num-jobs", type=int, help="processes, where recordings are made")
    reader.add_argument("--lexicon", type=Path, action="append", help="librispeech: words to phones; repeatable")
    reader.add_argument("--max-clips", type=int, help="hear_mini: of a task, about; 0: all")
    reader.add_argument("--more", help="hear_mini: a second folder of recordings")
    arguments = vars(reader.parse_args(argv))
    names = [arguments.pop(key) for key in ("corpus", "raw", "data_dir")]
    log.setup()
    counts = prepare_corpus(*names, **{key: value for key, value in arguments.items() if value is not None})
    for task, splits in counts.items():
        print(f"{task:4} " + ", ".join(f"{name} {count}" for name, count in splits.items()))
    return 0


def _fetch(argv: list[str]) -> int:
    from spear import log
    from spear.evaluate.corpora.fetch import ARCHIVES, fetch

    reader = argparse.ArgumentParser(prog="spear evaluate fetch", description="Downloads, checks, unpacks a corpus.")
    reader.add_argument("corpus", choices=sorted(ARCHIVES))
    reader.add_argument("--raw", type=Path, required=True, help="the folder that receives it")
    arguments = reader.parse_args(argv)
    log.setup()
    made = fetch(arguments.corpus, arguments.raw.absolute())
    print(f"{arguments.raw}: " + (f"downloaded {', '.join(made)}" if made else "nothing had to be downloaded"))
    return 0


def _report(argv: list[str]) -> int:
    from spear.evaluate.report import write_report
    from spear.evaluate.results import load_runs, terminal_text

    reader = argparse.ArgumentParser(
        prog="spear evaluate report", description="Prints the tables of all suites and writes the page."
    )
    reader.add_argument("--data-dir", "--data_dir", type=Path, default=Path("data"))
    reader.add_argument("--exp-dir", "--exp_dir", type=Path, default=Path("exp"))
    reader.add_argument("--output", type=Path, help="default: EXP_DIR/report.html")
    _add_results(reader)
    arguments = reader.parse_args(argv)
    runs = load_runs(arguments.exp_dir)
    if runs:
        print(terminal_text(runs))
    print(f"report: {write_report(arguments.data_dir, arguments.exp_dir, arguments.output)}")
    _write_results(arguments, runs)
    return 0


def _rescore(argv: list[str]) -> int:
    from spear.evaluate.metrics import shown, unit
    from spear.evaluate.runs import rescore

    reader = argparse.ArgumentParser(prog="spear evaluate rescore", description="Scores from predictions alone.")
    reader.add_argument("runs", type=Path, nargs="+", help="EXP_DIR/evaluate/<suite>/<TASK>/<UPSTREAM>.json")
    for path in reader.parse_args(argv).runs:
        found = rescore(path).items()
        print(path, ", ".join(f"{name} {shown(name, value):.4f} {unit(name)}" for name, value in found))
    return 0
