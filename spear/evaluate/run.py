"""`spear superb`: features once, heads side by side, one file with the whole truth for each task and upstream.

`EXP_DIR/superb/<task>/<upstream>.json` holds protocol, grid with every dev score and curve, selection, legacy number,
seeds, counts, skipped items, encoder hash, layer weights, command, commit and hardware; `<upstream>.predictions.jsonl`
the predictions from which the scores can be computed again (`rescore`). A file whose inputs have not changed is reused.
"""

import dataclasses
import functools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spear import env, fs, ranges, records
from spear.errors import ConfigError, DataError
from spear.evaluate import contents, engine
from spear.evaluate.cache import CacheConfig, FeatureCache, FeatureStore, LiveStore
from spear.evaluate.ctc import BEAM
from spear.evaluate.isolation import Failure, ensure_by_task, isolated, note, parts, settle
from spear.evaluate.metrics import interval_of_folds, score_folds
from spear.evaluate.protocol import Settings, settings_of
from spear.evaluate.table import Table, present_tasks, read_table
from spear.evaluate.task import Task
from spear.evaluate.tasks import TASKS
from spear.evaluate.upstream import load_upstream
from spear.executor import run_units
from spear.log import get_logger, human_seconds

VERSION = "superb-8"
"""Changes when equal inputs would give other numbers; part of the inputs' hash."""

logger = get_logger(__name__)
_FILES = contents.Contents()


@dataclasses.dataclass(frozen=True)
class SuperbConfig:
    """Settings of a run; all upstreams of a comparison must have been scored with equal ones.

    Attributes:
        protocol: `superb` or `mini`, see `protocol.py`.
        device: for the encoder; heads train on CPU.
        num_jobs: processes; 0 means one for each core.
        seed: of the random encoder and of the bootstrap.
        max_items: at most this many rows of each split (None: all).
        learning_rates: replaces the declared grid.
        max_steps: replaces the declared number of steps.
        cache_gigabytes: most hidden states on disk for one upstream.
        live: no cache: the encoder runs whenever its features are asked for.
        check_audio: reads every audio file again, whatever its size and times say (see `contents`).
        lexicon, language_model: ASR is decoded with them as well (`lexicon_beam`).
        force: score again although nothing has changed.
    """

    protocol: str = "superb"
    device: str = "cpu"
    num_jobs: ranges.Jobs = 0
    seed: int = 0
    max_items: records.PositiveCount | None = None
    learning_rates: tuple[records.Positive, ...] | None = None
    max_steps: records.PositiveCount | None = None
    cache_gigabytes: records.Positive = 20.0
    live: bool = False
    check_audio: bool = False
    lexicon: str = ""
    language_model: str = ""
    force: bool = False

    def __post_init__(self):
        ranges.check(self)

    def settings(self, task: str) -> Settings:
        """The grid of a task."""
        changes = {"learning_rates": self.learning_rates, "max_steps": self.max_steps}
        if task == "ASR":
            changes |= {"lexicon": self.lexicon, "language_model": self.language_model}
        return settings_of(self.protocol, task, changes)

    def cache(self) -> CacheConfig:
        """How features are kept."""
        return CacheConfig(max_bytes=int(self.cache_gigabytes * 1e9))


def find_tasks(data_dir: str | Path, names: Sequence[str]) -> list[Task]:
    """Tasks by name, whatever the case; `all` and `sg` stand for those of SUPERB and of SUPERB-SG that the folder has.

    Raises:
        ConfigError: no such task.
        DataError: `all` or `sg`, and the folder has none of them.
    """
    by_name = {name.lower(): task for name, task in TASKS.items()}
    chosen: dict[str, Task] = {}
    for name in names:
        if name in ("all", "sg"):
            present = present_tasks(data_dir, [task.name for task in TASKS.values() if task.board == name])
            if not present:
                raise DataError(f"no manifest in {Path(data_dir) / 'superb'}", "<TASK>.jsonl", "run prepare.sh")
            chosen |= {task: TASKS[task] for task in present}
        elif name.lower() in by_name:
            chosen[by_name[name.lower()].name] = by_name[name.lower()]
        else:
            raise ConfigError(f"task '{name}'", f"all, sg, or some of {', '.join(TASKS)}", "correct --tasks")
    return list(chosen.values())


def superb(
    tasks: Sequence[str],
    upstreams: Sequence[str],
    data_dir: str | Path,
    exp_dir: str | Path,
    config: SuperbConfig | None = None,
    command: str = "",
    failures: list[Failure] | None = None,
) -> list[dict]:
    """Scores frozen encoders on SUPERB tasks.

    What cannot be scored, a task or an upstream, never takes the others with it.

    Args:
        tasks: names, or `all`.
        upstreams: specifications, see `spear.evaluate.upstream`.
        data_dir: holds `superb/<TASK>.jsonl`.
        exp_dir: receives `superb/` and `cache/`.
        command: written into the run files.
        failures: receives what could not be scored, as long as there is some score.

    Returns:
        The content of the run files, task by task, upstream by upstream.

    Raises:
        ConfigError: unknown task, or two upstreams of the same name.
        SpearError: the first failure, after all others have been scored, when nobody asked for `failures`.
    """
    config = config or SuperbConfig()
    data_dir, exp_dir = Path(data_dir).absolute(), Path(exp_dir).absolute()
    chosen = find_tasks(data_dir, tasks)
    for task in chosen:
        config.settings(task.name)  # an unknown protocol is refused before anything is computed
    failed: list[Failure] = []
    if config.check_audio:
        contents.forget(data_dir / "superb")
    doubts = _examined(chosen, str(data_dir), config, failed)
    chosen = [task for task in chosen if task.name in doubts]
    common = {"data_dir": str(data_dir), "exp_dir": str(exp_dir), "config": dataclasses.asdict(config)}
    places = _prepare(upstreams if chosen else (), chosen, common, config, failed)
    units, runs = [], {}
    for task in chosen:
        table = _table(str(data_dir), task.name, config)
        for place in places:
            if task.name in place["failed"]:
                note(failed, task.name, place["name"], place["failed"][task.name])
                continue
            inputs = _inputs_hash(task, place, table, config)
            path = exp_dir / "superb" / task.name / f"{place['name']}.json"
            kept = None if config.force else _reusable(path, inputs, doubts[task.name])
            if kept is not None:
                runs[task.name, place["name"]] = kept
                continue
            known = {key: value for key, value in place.items() if key != "failed"}
            unit = {"name": f"{task.name}.{place['name']}", "task": task.name, "upstream": known, "path": str(path)}
            unit |= {"doubts": doubts[task.name], "inputs_sha256": inputs, "command": command}
            units.append({**unit, **common})
    if runs:
        logger.info("%d scores are up to date and kept", len(runs))
    # Recurrent heads take longest: first, so that no worker is left with one at the end.
    order = ("ASR", "SS", "SF", "SD", "PR", "ASV", "QbE", "SID")
    units.sort(key=lambda unit: order.index(unit["task"]) if unit["task"] in order else len(order))
    for unit, result in zip(units, _run(score_unit, units, config.num_jobs, "heads")):
        if "failed" in result:
            note(failed, unit["task"], unit["upstream"]["name"], result["failed"])
        else:
            runs[unit["task"], unit["upstream"]["name"]] = fs.read_json(unit["path"])
    settle(failed, failures, len(runs))
    keys = [(task.name, place["name"]) for task in chosen for place in places]
    return [runs[key] for key in keys if key in runs]


def _prepare(
    upstreams: Sequence[str], tasks: Sequence[Task], common: dict, config: SuperbConfig, failed: list[Failure]
) -> list[dict]:
    """Fills the cache of every upstream; returns where each is."""
    units = [
        {"name": f"features-{number}", "spec": spec, "tasks": [task.name for task in tasks], **common}
        for number, spec in enumerate(upstreams)
    ]
    # On a GPU the encoders run one after the other; on CPU each has its own core.
    places = _run(prepare_upstream, units, config.num_jobs if config.device == "cpu" else 1, "features")
    for unit, place in zip(units, places):
        if "name" not in place:
            note(failed, "", unit["spec"], place["failed"])
    places = [place for place in places if "name" in place]
    names = [place["name"] for place in places]
    if len(set(names)) != len(names):
        raise ConfigError(
            f"upstreams named {', '.join(names)}", "different names", "write --upstream NAME=SPECIFICATION"
        )
    return places


def _examined(
    tasks: Sequence[Task], data_dir: str, config: SuperbConfig, failed: list[Failure]
) -> dict[str, list[str]]:
    """The tasks whose manifest can be read, with what makes their scores mean little (`find_doubts`)."""
    found = {}
    for task in tasks:
        try:
            found[task.name] = task.doubts(_table(data_dir, task.name, config))
        except Exception as error:
            note(failed, task.name, "", parts(error))
    return found


def _run(function, units: list[dict], num_jobs: int, label: str) -> list[dict]:
    # Done-files of the executor are not kept: run files and cache know by themselves whether they are up to date.
    with tempfile.TemporaryDirectory(prefix="spear-superb-") as done_dir:
        return run_units(function, units, done_dir, num_jobs=num_jobs, label=label, watch_seconds=3600)


@functools.lru_cache(maxsize=16)
def _read(data_dir: str, task: str, max_items: int | None, gain_db: float) -> Table:
    return read_table(data_dir, task, TASKS[task].refuse, max_items, gain_db)


def _table(data_dir: str, task: str, config: SuperbConfig) -> Table:
    """The table of a task, of which the caller may change the lists."""
    table = _read(data_dir, task, config.max_items, config.settings(task).gain_db)
    return Table(list(table.rows), list(table.skipped), list(table.trials))


def _config(unit: dict) -> SuperbConfig:
    values = dict(unit["config"])
    values["learning_rates"] = tuple(values["learning_rates"]) if values["learning_rates"] else None
    return SuperbConfig(**values)


@isolated
def prepare_upstream(unit: dict) -> dict:
    """Unit of work: computes the features of one upstream for all rows of some tasks."""
    start, cpu_start = time.monotonic(), time.process_time()
    config = _config(unit)
    upstream = load_upstream(unit["spec"], config.device, config.seed)
    items = {name: {r.key: r.item for r in _table(unit["data_dir"], name, config).rows} for name in unit["tasks"]}
    cache = FeatureCache(Path(unit["exp_dir"]) / "cache", upstream, config.cache())
    of_frames = {name for name in items if TASKS[name].needs_frames}
    failed = {} if config.live else ensure_by_task(cache, items, of_frames)
    for key, reason in cache.skipped.items():
        logger.warning("%s: skipped %s: %s", upstream.name, key, reason)
    return {
        "failed": failed,
        "name": upstream.name,
        "kind": upstream.kind,
        "spec": unit["spec"],
        "num_layers": upstream.num_layers,
        "stride_samples": upstream.stride_samples,
        "sample_rate": upstream.sample_rate,
        "hash": cache.hash,
        "fingerprint": upstream.fingerprint(),
        "cache_dir": str(cache.directory),
        "skipped": cache.skipped,
        "seconds": round(time.monotonic() - start, 2),
        "cpu_seconds": round(time.process_time() - cpu_start, 2),
    }


def _inputs_hash(task: Task, place: dict, table: Table, config: SuperbConfig) -> str:
    settings = config.settings(task.name)
    return fs.sha256_json(
        {
            "version": VERSION,
            "protocol": config.protocol,
            "task": task.name,
            "upstream": place["hash"],
            "cache": "live" if config.live else Path(place["cache_dir"]).name,
            "table": table.content_hash(),
            "settings": dataclasses.asdict(settings),
            "files": [_FILES.digest(Path(path)) for path in (settings.lexicon, settings.language_model)],
            "seed": config.seed,
        }
    )


def _reusable(path: Path, inputs_sha256: str, doubts: list[str]) -> dict | None:
    """The run file when it stems from the same inputs and its predictions still give its scores."""
    if not path.exists():
        return None
    try:
        run = fs.read_json(path)
        same = run.get("inputs_sha256") == inputs_sha256 and _equal(rescore(path), run["scores"])
    except (DataError, KeyError, TypeError, AttributeError):
        return None
    if same and run.get("doubts") != doubts:  # they are not part of the inputs
        run["doubts"] = doubts
        fs.write_json(path, run)
    return run if same else None


def _equal(first: dict[str, float], second: dict[str, float]) -> bool:
    return first.keys() == second.keys() and all(
        np.isclose(first[name], second[name] if second[name] is not None else np.nan, atol=1e-9, equal_nan=True)
        for name in first
    )


def rescore(run_path: str | Path) -> dict[str, float]:
    """The test scores of a run file, recomputed from its prediction file alone.

    Raises:
        DataError: a file is missing or damaged, or the prediction file does not hold the items that the run counted.
    """
    run_path = Path(run_path)
    run = fs.read_json(run_path)
    try:
        rows = fs.read_jsonl(run_path.parent / run["predictions"])
        if len(rows) != run["num_predictions"]:
            raise DataError(
                f"{len(rows)} predictions beside {run_path}",
                f"{run['num_predictions']} of them",
                "run the command again",
            )
        return {metric: score_folds(metric, rows) for metric in TASKS[run["task"]].metrics}
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise DataError(
            f"{run_path} and its predictions cannot be scored ({type(error).__name__}: {error})",
            "both as the command leaves them",
            "run the command again",
        ) from error


@isolated
def score_unit(unit: dict) -> dict:
    """Unit of work: trains the heads of one task on the features of one upstream and writes the run file."""
    start, cpu_start = time.monotonic(), time.process_time()
    config, task, place = _config(unit), TASKS[unit["task"]], unit["upstream"]
    settings = config.settings(task.name)
    table = _table(unit["data_dir"], task.name, config)
    if config.live:
        upstream = load_upstream(place["spec"], config.device, config.seed)
        store = LiveStore(upstream, {row.key: row.item for row in table.rows}, config.cache())
    else:
        store = FeatureStore(place["cache_dir"])
    _keep_readable(table, task, store, place["skipped"])
    found = score_task(task, table, store, settings, config.seed, f"{task.name}, {place['name']}")
    path = Path(unit["path"])
    predictions = f"{path.stem}.predictions.jsonl"
    rows = found.pop("rows")
    fs.write_jsonl(path.parent / predictions, rows)
    run = {
        "version": VERSION,
        "protocol": config.protocol,
        "task": task.name,
        "title": task.title,
        "metric": task.metrics[0],
        "is_ablation": False,
        "upstream": place,
        **found,
        "doubts": unit["doubts"],
        "settings": dataclasses.asdict(settings),
        "seeds": list(settings.seeds),
        "upstream_seed": config.seed,
        "max_items": config.max_items,
        "live": config.live,
        "skipped": table.skipped,
        "predictions": predictions,
        "num_predictions": len(rows),
        "inputs_sha256": unit["inputs_sha256"],
        "command": unit["command"],
        "commit": env.git_commit(),
        "hardware": env.describe_hardware(),
        "seconds": {
            "features": place["seconds"],
            "features_cpu": place["cpu_seconds"],
            "heads": round(time.monotonic() - start, 2),
            "heads_cpu": round(time.process_time() - cpu_start, 2),
        },
    }
    fs.write_json(path, run)
    took = human_seconds(run["seconds"]["heads"])
    logger.info("%s, %s: %s %.4f in %s", task.name, path.stem, run["metric"], run["score"], took)
    return {"score": run["score"]}


def _keep_readable(table: Table, task: Task, store: FeatureStore, skipped: dict[str, str]) -> None:
    """Moves rows without features from `rows` to `skipped`, with the reason, and drops their trials."""
    kind = "frames" if task.needs_frames else "means"
    absent = [row for row in table.rows if not store.has(kind, row.key)]
    table.leave_out({row.id: skipped.get(row.key, "no features") for row in absent})


def score_task(
    task: Task, table: Table, store: FeatureStore, settings: Settings, seed: int = 0, label: str = ""
) -> dict:
    """Trains, selects on dev and scores one task on one store.

    Returns:
        score, interval, scores, extra_scores, dev_score, learning_rate, variant, layer_weights, grid, counts, details,
        and `rows`, the predictions on test.
    """
    metric = task.metrics[0]
    problems = task.problems(table, store, settings)
    grids, _ = engine.run_grids(problems, metric, settings, label)
    choice = engine.select(grids, metric, settings.default_rate)
    rows = engine.gather(grids, "test", choice.learning_rate, choice.variant)
    scores = {name: score_folds(name, rows) for name in task.metrics}
    extra = {name: scores[name] for name in task.metrics[1:]}
    if BEAM in grids[0].hypotheses["test"][0]:
        decoded = engine.gather(grids, "test", choice.learning_rate, BEAM)
        extra |= {f"{name} with {BEAM}": score_folds(name, decoded) for name in task.metrics}
    legacy = _legacy(task, table, store, settings, grids, label)
    if legacy is not None:
        extra[f"legacy {metric}"] = legacy["score"]
    chosen = [head for grid in grids for head in grid.heads if head["learning_rate"] == choice.learning_rate]
    weights = [head["layer_weights"] for head in chosen if head["layer_weights"]]
    return {
        "score": scores[metric],
        "scores": scores,
        "interval": list(interval_of_folds(metric, rows, seed)),
        "dev_score": choice.score,
        "dev_standard_error": choice.standard_error,
        "extra_scores": extra,
        "legacy": legacy,
        "learning_rate": choice.learning_rate,
        "variant": choice.variant,
        "variants": _variant_scores(grids, metric, choice.learning_rate),
        "layer_weights": np.mean(weights, axis=0).round(5).tolist() if weights else [],
        "steps": grids[0].steps,
        "grid": _grid_rows(grids, metric),
        "num_items": {name: len(table.of(name)) for name in ("train", "dev", "test")},
        "folds": {fold: {n: len(rows) for n, rows in s.items()} for fold, s in task.folds(table).items()},
        "details": {fold: problem.details for fold, problem in problems.items()},
        "rows": rows,
    }


def _legacy(task: Task, table: Table, store, settings: Settings, grids: list, label: str) -> dict | None:
    """The number under the published protocol's own selection, where that differs."""
    if not task.legacy:
        return None
    metric, split, reread = task.metrics[0], "dev", None
    if task.legacy == "folds":
        grids, _ = engine.run_grids(
            task.problems(table, store, settings, legacy=True), metric, settings, f"{label}, legacy"
        )
    elif task.legacy == "dev":
        reread = task.legacy_dev
    else:
        split = "test"
    choice = engine.select(grids, metric, settings.default_rate, split, reread, rule="best")
    rows = engine.gather(grids, "test", choice.learning_rate, choice.variant)
    return {
        "rule": {"folds": "dev shares speakers with training", "dev": "dev drawn with replacement"}.get(
            task.legacy, "selected on test"
        ),
        "learning_rate": choice.learning_rate,
        "variant": choice.variant,
        "score": score_folds(metric, rows),
    }


def _variant_scores(grids: list, metric: str, rate: float) -> dict[str, dict[str, float]]:
    """Dev and test score of every variant at the chosen rate; nothing when there is but one."""
    names = grids[0].variants
    if len(names) < 2:
        return {}
    return {
        name: {split: score_folds(metric, engine.gather(grids, split, rate, name)) for split in ("dev", "test")}
        for name in names
    }


def _grid_rows(grids: list, metric: str) -> list[dict]:
    """Every head: its dev score is the best over variants, its test score that of the same variant."""
    rows = []
    for grid in grids:
        for number, head in enumerate(grid.heads):
            own = dataclasses.replace(
                grid,
                heads=[head],
                hypotheses={split: [values[number]] for split, values in grid.hypotheses.items()},
            )
            choice = engine.select([own], metric, head["learning_rate"], rule="best")
            test = own.predictions("test", head["learning_rate"], choice.variant)
            rows.append(
                {**head, "fold": grid.fold, "variant": choice.variant, "dev_score": choice.score}
                | {"test_score": score_folds(metric, test)}
            )
    return rows
