"""`spear superb`: scores frozen encoders on the SUPERB tasks; `spear superb fetch|prepare CORPUS` make their data."""

import argparse
import shlex
import sys
from pathlib import Path

from spear.bin.decode import default_upstreams, told
from spear.bin.main import guard


def parser(here: Path | None = None, tasks: str = "all", protocol: str = "superb") -> argparse.ArgumentParser:
    """The arguments.

    Args:
        here: a recipe's directory, for the default folders.
        tasks, protocol: a recipe's defaults.
    """
    result = argparse.ArgumentParser(
        prog="spear superb" if here is None else "decode",
        description="Frozen encoders on the SUPERB tasks: features once, all learning rates side by side, selection on "
        "dev. `spear superb fetch CORPUS` downloads a corpus, `spear superb prepare CORPUS` writes the manifests, and "
        "`spear superb rescore RUN.json` computes scores again from predictions; each has --help.",
    )
    base = here or Path()
    result.add_argument(
        "--upstream",
        action="append",
        help="[NAME=]fbank, CHECKPOINT, random:CHECKPOINT, teacher:NAME:PATH or python:MODULE:FACTORY; repeatable",
    )
    result.add_argument("--tasks", default=tasks, help="all, sg, or names joined by commas: PR,ASR,KS,QbE,SID,...")
    result.add_argument("--data-dir", "--data_dir", type=Path, default=base / "data", help="holds superb/<TASK>.jsonl")
    result.add_argument("--exp-dir", "--exp_dir", type=Path, default=base / "exp", help="receives superb/ and cache/")
    result.add_argument("--student-dir", type=Path, help="without --upstream: EXP_DIR of a recipe that has a student")
    result.add_argument("--protocol", default=protocol, choices=("superb", "mini"))
    result.add_argument("--device", default="cpu", help="of the encoder; heads train on CPU")
    result.add_argument("--num-jobs", type=int, default=0, help="processes; 0: one for each core")
    result.add_argument("--seed", type=int, default=0, help="of the untrained encoder and of the bootstrap")
    result.add_argument("--max-items", type=int, help="at most this many rows of each split")
    result.add_argument("--learning-rates", type=_numbers, help="replaces the declared grid, for example 1e-4,1e-3")
    result.add_argument("--max-steps", type=int, help="replaces the declared number of head training steps")
    result.add_argument("--cache-gigabytes", type=float, default=20.0, help="most hidden states for one upstream")
    result.add_argument("--live", action="store_true", help="no cache: run the encoder whenever features are needed")
    result.add_argument("--lexicon", default="", help="ASR: a word list; decodes test with it as well")
    result.add_argument("--language-model", default="", help="ASR: a KenLM file for that")
    result.add_argument("--force", action="store_true", help="score again although nothing has changed")
    result.add_argument("--page", type=Path, help="the page of plots; default: EXP_DIR/superb.html")
    result.add_argument("--results", type=Path, help="a RESULTS.md to put the table into")
    result.add_argument("--section", default="superb", help="name of the section of RESULTS.md that is replaced")
    result.add_argument("--title", default="SUPERB", help="heading of that section")
    result.add_argument("--notes", default="", help="a sentence below that heading")
    return result


def _numbers(text: str) -> tuple[float, ...]:
    values = tuple(float(part) for part in text.split(","))
    if min(values) <= 0:
        raise ValueError("learning rates are positive")
    return values


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    argv = sys.argv[1:] if argv is None else argv
    other = {"prepare": _prepare, "fetch": _fetch, "rescore": _rescore}
    if argv and argv[0] in other:
        return other[argv[0]](argv[1:])
    return _run(parser().parse_args(argv), shlex.join(["spear", "superb", *argv]))


def recipe(tasks: str, script: str, protocol: str = "superb", argv: list[str] | None = None) -> int:
    """The whole of a recipe's decode_<task>.py: the same command with the recipe's folders and tasks as defaults.

    Args:
        script: the script's `__file__`.
    """
    path = Path(script).resolve()

    def run(arguments: list[str] | None) -> int:
        arguments = sys.argv[1:] if arguments is None else arguments
        settings = parser(path.parent, tasks, protocol).parse_args(arguments)
        return _run(settings, shlex.join([path.name, *arguments]))

    return guard(run, argv)


def _run(arguments: argparse.Namespace, command: str) -> int:
    from spear import locks, log
    from spear.evaluate.page import terminal_text, write_section, write_superb_page
    from spear.evaluate.run import SuperbConfig, superb

    log.setup()
    config = SuperbConfig(
        protocol=arguments.protocol,
        device=arguments.device,
        num_jobs=arguments.num_jobs,
        seed=arguments.seed,
        max_items=arguments.max_items,
        learning_rates=arguments.learning_rates,
        max_steps=arguments.max_steps,
        cache_gigabytes=arguments.cache_gigabytes,
        live=arguments.live,
        lexicon=arguments.lexicon,
        language_model=arguments.language_model,
        force=arguments.force,
    )
    upstreams = arguments.upstream or default_upstreams(arguments.student_dir or arguments.exp_dir)
    names, failures = arguments.tasks.split(","), []
    with locks.hold(arguments.exp_dir / "superb", "spear superb"):
        runs = superb(names, upstreams, arguments.data_dir, arguments.exp_dir, config, command, failures)
    print(terminal_text(runs))
    page = write_superb_page(runs, arguments.page or arguments.exp_dir / "superb.html")
    print(f"page: {page}")
    if arguments.results:
        write_section(arguments.results, runs, arguments.section, arguments.title, arguments.notes)
        print(f"results: {arguments.results}")
    return told(failures)


def _prepare(argv: list[str]) -> int:
    from spear import log
    from spear.evaluate.corpora import CORPORA, prepare_corpus

    reader = argparse.ArgumentParser(prog="spear superb prepare", description="Writes the manifests of SUPERB tasks.")
    reader.add_argument("corpus", choices=CORPORA)
    reader.add_argument("--raw", type=Path, required=True, help="the corpus as it is distributed")
    reader.add_argument(
        "--data-dir", "--data_dir", type=Path, default=Path("data"), help="receives superb/<TASK>.jsonl"
    )
    reader.add_argument("--seed", type=int, help="of what is drawn at random")
    reader.add_argument("--num-jobs", type=int, help="processes, where recordings are made")
    reader.add_argument("--lexicon", type=Path, action="append", help="librispeech: words to phones; repeatable")
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

    reader = argparse.ArgumentParser(prog="spear superb fetch", description="Downloads, checks and unpacks a corpus.")
    reader.add_argument("corpus", choices=sorted(ARCHIVES))
    reader.add_argument("--raw", type=Path, required=True, help="the folder that receives it")
    arguments = reader.parse_args(argv)
    log.setup()
    made = fetch(arguments.corpus, arguments.raw.absolute())
    print(f"{arguments.raw}: " + (f"downloaded {', '.join(made)}" if made else "nothing had to be downloaded"))
    return 0


def _rescore(argv: list[str]) -> int:
    from spear.evaluate.metrics import shown, unit
    from spear.evaluate.run import rescore

    reader = argparse.ArgumentParser(prog="spear superb rescore", description="Scores from predictions alone.")
    reader.add_argument("runs", type=Path, nargs="+", help="run files, EXP_DIR/superb/<TASK>/<UPSTREAM>.json")
    for path in reader.parse_args(argv).runs:
        found = rescore(path).items()
        print(path, ", ".join(f"{name} {shown(name, value):.4f} {unit(name)}" for name, value in found))
    return 0
