"""Trains variants of one configuration with several seeds, decodes them all, and prints scores and what they cost.

    spear ablate --base conf/student.yaml --variants conf/ablation/joint.yaml,conf/ablation/disjoint.yaml \\
        --data-dir data --exp-dir exp/ablation --seeds 1,2,3

A variant is a YAML file that states only its difference; the base itself is the first variant. Finished trainings and
scores are kept, so an interrupted run goes on where it stopped. Where OMP_NUM_THREADS is set, each training has so many
threads; else they share the cores.
"""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from spear import config, env, fs, locks, log, ranges, records
from spear.errors import ConfigError, SpearError
from spear.executor import run_units


@dataclass
class AblateConfig:
    """Settings of `spear ablate`.

    Attributes:
        base: configuration that all variants share.
        variants: configurations of differences; each names its column.
        seeds: training seeds.
        data_dir: what prepare.sh made.
        exp_dir: trainings, scores and `ablation.md` go here.
        tasks: tasks to decode; none means all, those made for ablations included.
        options: further arguments of every training; write it with an equals sign: --options="--num-steps 200".
        num_jobs: trainings and decodings side by side.
        learning_rates: of the heads, instead of the protocol's grid.
        max_items: at most this many recordings of each split of each task; 0: all.
    """

    base: str
    exp_dir: str
    variants: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])
    data_dir: str = "data"
    tasks: list[str] = field(default_factory=list)
    options: str = ""
    num_jobs: ranges.Jobs = 1
    learning_rates: list[records.Positive] = field(default_factory=list)
    max_items: records.Count = 0


def train(unit: dict) -> dict:
    """Trains one variant with one seed in a process of its own; returns its directory.

    Raises:
        SpearError: the training failed; its last lines are in the message.
    """
    command = [sys.executable, "-m", "spear.bin.main", "train", *unit["arguments"]]
    threads = {"OMP_NUM_THREADS": str(max(1, env.num_cores() // unit["num_jobs"]))}
    done = subprocess.run(command, capture_output=True, text=True, env={**threads, **os.environ})
    if done.returncode:
        raise SpearError(
            f"the training {unit['name']} ended with status {done.returncode}: {done.stderr[-1500:]}",
            "status 0",
            "correct the cause and run the same command; finished trainings are kept",
        )
    return {"exp_dir": unit["exp_dir"]}


def plan(settings: AblateConfig) -> list[dict]:
    """One unit of work for each variant and seed.

    Raises:
        ConfigError: two variants have one name.
    """
    files = [settings.base, *settings.variants]
    names = [Path(file).stem for file in files]
    if len(set(names)) < len(names):
        raise ConfigError(f"variants {', '.join(names)}", "file names that differ", "rename one of the files")
    units = []
    for seed in settings.seeds:
        for name, file in zip(names, files):
            exp_dir = str(Path(settings.exp_dir) / f"{name}-seed{seed}")
            arguments = ["--config", settings.base] + (["--config", file] if file != settings.base else [])
            arguments += ["--data-dir", settings.data_dir, "--exp-dir", exp_dir, "--seed", str(seed)]
            arguments += settings.options.split()
            content = [Path(path).read_text(encoding="utf-8") for path in {settings.base, file}]
            units.append(
                {
                    "name": f"{name}-seed{seed}",
                    "variant": name,
                    "seed": seed,
                    "exp_dir": exp_dir,
                    "arguments": arguments,
                    "settings_sha256": fs.sha256_json(sorted(content)),
                    "num_jobs": settings.num_jobs,
                }
            )
    return units


def main(argv: list[str] | None = None) -> int:
    """Parses the arguments, trains, decodes, and writes the table."""
    from spear.evaluate.ablation import ablation_table, evaluate_checkpoints, training_costs
    from spear.evaluate.run import EvaluateConfig

    settings = config.parse(AblateConfig, argv, description=__doc__)
    log.setup()
    units = plan(settings)
    with locks.hold(settings.exp_dir, "spear ablate"):
        done_dir = Path(settings.exp_dir) / "done"
        run_units(train, units, done_dir, num_jobs=settings.num_jobs, label="trainings")
        groups: dict[str, dict[int, str]] = {}
        for unit in units:
            groups.setdefault(unit["variant"], {})[unit["seed"]] = unit["exp_dir"]
        words = " ".join(sys.argv[1:] if argv is None else argv)
        runs = evaluate_checkpoints(
            groups,
            settings.data_dir,
            settings.exp_dir,
            settings.tasks or None,
            EvaluateConfig(
                num_jobs=settings.num_jobs,
                learning_rates=tuple(settings.learning_rates) or None,
                max_items=settings.max_items or None,
            ),
            f"spear ablate {words}".replace("ablate ablate", "ablate"),
        )
    table = ablation_table(runs, training_costs(groups))
    fs.write_text(Path(settings.exp_dir) / "ablation.md", table + "\n")
    print(table)
    return 0
