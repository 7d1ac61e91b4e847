"""`spear evaluate`: features once, heads side by side, one file with the whole truth for each task and upstream.

The encoder runs once for each utterance, whatever the number of tasks and suites that use it; then the heads of each
task and upstream are a unit of work. What is up to date is kept (`runs`).
"""

import dataclasses
import functools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from spear import env, fs, ranges, records
from spear.errors import ConfigError
from spear.evaluate import contents
from spear.evaluate.cache import CacheConfig, FeatureCache, FeatureStore, LiveStore
from spear.evaluate.isolation import Failure, ensure_by_task, isolated, note, parts, settle
from spear.evaluate.protocol import Settings, settings_of
from spear.evaluate.runs import KnownScores, adopt, run_path
from spear.evaluate.scoring import score_task
from spear.evaluate.suites import Suite, open_suite
from spear.evaluate.table import Table
from spear.evaluate.task import Task
from spear.evaluate.units import check_text_units
from spear.evaluate.upstream import load_upstream
from spear.executor import run_units
from spear.log import get_logger, human_seconds

VERSION = "evaluate-2"
"""Changes when equal inputs would give other numbers; part of the inputs' hash."""

_SLOW = ("ASR", "SS", "SF", "SD", "PR", "sequence", "ASV", "QbE", "SID")
"""Recurrent heads and frames take longest: they are first, so that no worker is left with one at the end."""

logger = get_logger(__name__)
_FILES = contents.Contents()


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Settings of a run; all upstreams of a comparison must have been scored with equal ones.

    Attributes:
        device: for the encoder and the heads.
        num_jobs: processes; 0 means one for each core.
        seed: of the random encoder and of the bootstrap.
        max_items: at most this many rows of each split (None: all).
        learning_rates: replaces the declared grid.
        max_steps: replaces the declared number of steps.
        text_units: replaces those of linear CTC heads on texts.
        cache_gigabytes: most hidden states on disk for one upstream.
        live: no cache: the encoder runs whenever its features are asked for.
        check_audio: reads every audio file again, whatever its size and times say (see `contents`).
        lexicon, language_model: ASR is decoded with them as well (`lexicon_beam`).
        force: score again although nothing has changed.
    """

    device: str = "cpu"
    num_jobs: ranges.Jobs = 0
    seed: int = 0
    max_items: records.PositiveCount | None = None
    learning_rates: tuple[records.Positive, ...] | None = None
    max_steps: records.PositiveCount | None = None
    text_units: str | None = None
    cache_gigabytes: records.Positive = 20.0
    live: bool = False
    check_audio: bool = False
    lexicon: str = ""
    language_model: str = ""
    force: bool = False

    def __post_init__(self):
        ranges.check(self)
        if self.text_units is not None:
            check_text_units(self.text_units)

    def settings(self, suite: Suite, task: Task) -> Settings:
        """How the heads of a task are trained."""
        key = task.settings_key or task.name
        changes = {"learning_rates": self.learning_rates, "max_steps": self.max_steps, "device": self.device}
        changes |= {"text_units": self.text_units} if key == "sequence" else {}
        changes |= {"lexicon": self.lexicon, "language_model": self.language_model} if key == "ASR" else {}
        return settings_of(suite.protocol, key, changes | dict(suite.changes))

    def cache(self) -> CacheConfig:
        """How features are kept."""
        return CacheConfig(max_bytes=int(self.cache_gigabytes * 1e9))


@dataclasses.dataclass(frozen=True)
class _Job:
    """A task of a suite, with its settings and its rows, which are read once."""

    suite: Suite
    task: Task
    config: EvaluateConfig

    @functools.cached_property
    def settings(self) -> Settings:
        return self.config.settings(self.suite, self.task)

    @functools.cached_property
    def table(self) -> Table:
        return self.suite.table(self.task, self.config.max_items, self.settings.gain_db)

    @property
    def label(self) -> str:
        return f"{self.suite.folder}/{self.task.name}"


def evaluate(
    suites: Suite | Sequence[Suite],
    tasks: Sequence[str],
    upstreams: Sequence[str],
    exp_dir: str | Path,
    config: EvaluateConfig | None = None,
    command: str = "",
    failures: list[Failure] | None = None,
) -> list[dict]:
    """Scores frozen encoders.

    What cannot be scored, a task or an upstream, never takes the others with it.

    Args:
        suites: where the tasks are; each must know all names.
        tasks: names, or `all`.
        upstreams: specifications, see `spear.evaluate.upstream`.
        exp_dir: receives `evaluate/` and `cache/`.
        command: written into the run files.
        failures: receives what could not be scored, as long as there is some score.

    Returns:
        The content of the run files, suite by suite, task by task, upstream by upstream.

    Raises:
        ConfigError: unknown task, or two upstreams of the same name.
        SpearError: the first failure, after all others have been scored, when nobody asked for `failures`.
    """
    config, exp_dir = config or EvaluateConfig(), Path(exp_dir).absolute()
    suites = [suites] if isinstance(suites, Suite) else list(suites)
    failed: list[Failure] = []
    jobs = [
        _Job(suite, task, config)
        for suite in suites
        for task in suite.find(tasks, lambda name, error: note(failed, name, "", error))
    ]
    for job in jobs:
        _ = job.settings  # what a protocol does not know is refused before anything is computed
    for suite in suites if config.check_audio else ():
        suite.forget_audio()
    doubts = _examined(jobs, failed)
    jobs = [job for job in jobs if job.label in doubts]
    places = _prepare(upstreams if jobs else (), jobs, str(exp_dir), config, failed)
    runs, units = _kept(jobs, places, exp_dir, config, {"doubts": doubts, "command": command}, failed)
    if runs:
        logger.info("%d scores are up to date and kept", len(runs))
    first = {unit["inputs_sha256"]: unit for unit in reversed(units)}  # an equal question takes the score of the first
    trained = sorted(first.values(), key=lambda unit: unit["slowness"])
    results = dict(zip((unit["path"] for unit in trained), _run(score_unit, trained, config.num_jobs, "heads")))
    for unit in units:
        source, name = first[unit["inputs_sha256"]]["path"], unit["upstream"]["name"]
        if "failed" in results[source]:
            note(failed, unit["job"]["task"], name, results[source]["failed"])
        else:
            runs[unit["label"], name] = adopt(Path(source), Path(unit["path"]), unit["names"], unit["upstream"])
    settle(failed, failures, len(runs))
    keys = [(job.label, place["name"]) for job in jobs for place in places]
    return [runs[key] for key in keys if key in runs]


def _kept(
    jobs: Sequence[_Job], places: Sequence[dict], exp_dir: Path, config: EvaluateConfig, common: dict, failed: list
) -> tuple[dict, list[dict]]:
    """The run files that are up to date, by label and upstream, and a unit of work for each of the others."""
    known, runs, units = KnownScores(exp_dir), {}, []
    for job in jobs:
        for place in places:
            if job.label in place["failed"]:
                note(failed, job.task.name, place["name"], place["failed"][job.label])
                continue
            inputs = _inputs_hash(job, place)
            path = run_path(exp_dir, job.suite.folder, job.task.name, place["name"])
            names = _names(job) | {"doubts": common["doubts"][job.label]}
            upstream = {key: value for key, value in place.items() if key != "failed"}
            kept = None if config.force else known.take(path, inputs, names, upstream)
            if kept is not None:
                runs[job.label, place["name"]] = kept
                continue
            unit = {"name": f"{job.label}.{place['name']}".replace("/", "."), "job": _unit(job), "path": str(path)}
            unit |= {"upstream": upstream, "names": names}
            unit |= {"label": job.label, "slowness": _slowness(job.task), "command": common["command"]}
            units.append(unit | {"inputs_sha256": inputs})
    return runs, units


def _slowness(task: Task) -> int:
    key = task.settings_key or task.name
    return _SLOW.index(key) if key in _SLOW else len(_SLOW)


def _names(job: _Job) -> dict:
    """What a question is called: no part of what decides its score."""
    task, suite = job.task, job.suite
    return {"suite": suite.folder, "task": task.name, "title": task.title, "is_ablation": task.is_ablation}


def _unit(job: _Job) -> dict:
    """A job as JSON."""
    return {"place": job.suite.place, "task": job.task.name, "config": dataclasses.asdict(job.config)}


def _job(unit: dict) -> _Job:
    suite, values = open_suite(unit["place"]), dict(unit["config"])
    values["learning_rates"] = tuple(values["learning_rates"]) if values["learning_rates"] else None
    (task,) = suite.find([unit["task"]], lambda *_: None)
    return _Job(suite, task, EvaluateConfig(**values))


def _prepare(
    upstreams: Sequence[str], jobs: Sequence[_Job], exp_dir: str, config: EvaluateConfig, failed: list[Failure]
) -> list[dict]:
    """Fills the cache of every upstream; returns where each is."""
    units = [
        {"name": f"features-{number}", "spec": spec, "exp_dir": exp_dir, "jobs": [_unit(job) for job in jobs]}
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


def _examined(jobs: Sequence[_Job], failed: list[Failure]) -> dict[str, list[str]]:
    """The jobs whose rows can be read, with what makes their scores mean little (`find_doubts`)."""
    found = {}
    for job in jobs:
        try:
            found[job.label] = job.task.doubts(job.table)
        except Exception as error:
            note(failed, job.task.name, "", parts(error))
    return found


def _run(function, units: list[dict], num_jobs: int, label: str) -> list[dict]:
    # Done-files of the executor are not kept: run files and cache know by themselves whether they are up to date.
    with tempfile.TemporaryDirectory(prefix="spear-evaluate-") as done_dir:
        return run_units(function, units, done_dir, num_jobs=num_jobs, label=label, watch_seconds=3600)


@isolated
def prepare_upstream(unit: dict) -> dict:
    """Unit of work: computes the features of one upstream for all rows of some jobs."""
    start, cpu_start = time.monotonic(), time.process_time()
    jobs = [_job(one) for one in unit["jobs"]]
    config = jobs[0].config
    upstream = load_upstream(unit["spec"], config.device, config.seed)
    items = {job.label: {row.key: row.item for row in job.table.rows} for job in jobs}
    cache = FeatureCache(Path(unit["exp_dir"]) / "cache", upstream, config.cache())
    failed = {} if config.live else ensure_by_task(cache, items, {job.label for job in jobs if job.task.needs_frames})
    if not config.live and any(job.task.needs_centres for job in jobs):
        cache.measure_centres()
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


def _inputs_hash(job: _Job, place: dict) -> str:
    """Of everything that decides a score, and of nothing else: not what the task or the suite is called."""
    table = job.table
    settings, keys = job.settings, {row.key for row in table.rows}
    more = [path for row in table.rows for path in job.task.files(row)]
    return fs.sha256_json(
        {
            "version": VERSION,
            "protocol": job.suite.protocol,
            "task": job.task.identity,
            "upstream": place["hash"],
            "cache": "live" if job.config.live else Path(place["cache_dir"]).name,
            "skipped": {key: reason for key, reason in place["skipped"].items() if key in keys},
            "table": table.content_hash(),
            "settings": dataclasses.asdict(dataclasses.replace(settings, device="")),  # a score is kept on another one
            "files": [_FILES.digest(Path(path)) for path in (settings.lexicon, settings.language_model, *more)],
            "seed": job.config.seed,
        }
    )


@isolated
def score_unit(unit: dict) -> dict:
    """Unit of work: trains the heads of one task on the features of one upstream and writes the run file."""
    start, cpu_start = time.monotonic(), time.process_time()
    job, place = _job(unit["job"]), unit["upstream"]
    config, task, settings, table = job.config, job.task, job.settings, job.table
    if config.live:
        upstream = load_upstream(place["spec"], config.device, config.seed)
        store = LiveStore(upstream, {row.key: row.item for row in table.rows}, config.cache())
    else:
        store = FeatureStore(place["cache_dir"])
    _keep_readable(table, task, store, store.skipped if config.live else place["skipped"])
    found = score_task(task, table, store, settings, config.seed, f"{task.name}, {place['name']}")
    path = Path(unit["path"])
    predictions = f"{path.stem}.predictions.jsonl"
    rows = found.pop("rows")
    fs.write_jsonl(path.parent / predictions, rows)
    run = {
        "version": VERSION,
        "protocol": job.suite.protocol,
        **unit["names"],
        "metric": task.metrics[0],
        "upstream": place,
        **found,
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
