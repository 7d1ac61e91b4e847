"""The decode command: features once, heads side by side, one file with the whole truth for each task and upstream.

`exp_dir/decode/<task>/<upstream>.json` holds the grid with every score, the selection, seeds, item counts, skipped
items, hashes, layer weights, curves, command, commit and hardware; `<upstream>.predictions.jsonl` holds the predictions
from which the score can be computed again (`rescore`). A file whose inputs have not changed is reused.
"""

import dataclasses
import functools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from spear import env, fs, ranges, records
from spear.errors import ConfigError, DataError, SpearError
from spear.evaluate import metrics
from spear.evaluate.cache import CacheConfig, FeatureCache, FeatureStore, item_key
from spear.evaluate.doubts import Judged, find_doubts
from spear.evaluate.heads import ProbeConfig
from spear.evaluate.isolation import Failure, ensure_by_task, isolated, note, settle
from spear.evaluate.probes import CtcProblem, ProbeResult, UtteranceProblem, fold_places, train_probes
from spear.evaluate.recipe_tasks import SPLITS, Example, Examples, Task, find_tasks, make_examples, read_all_items
from spear.evaluate.units import make_units
from spear.evaluate.upstream import load_upstream
from spear.executor import run_units
from spear.log import get_logger, human_seconds
from spear.manifest import Item

PROTOCOL = "mini-superb-3"
"""Changes when equal inputs would give other numbers; part of the inputs' hash."""

UTTERANCE_PROBES = ProbeConfig()
CTC_PROBES = ProbeConfig(learning_rates=(1e-2, 3e-2, 1e-1), seeds=(0,), max_steps=400, batch_size=8, eval_every=100)
logger = get_logger(__name__)


@dataclasses.dataclass(frozen=True)
class DecodeConfig:
    """Settings of a decode run; all upstreams of a comparison must have been scored with equal ones.

    Attributes:
        device: for the encoder; heads train on CPU.
        num_jobs: processes; 0 means one for each core.
        seed: of the random encoder and of the bootstrap.
        max_items: at most this many items of each split (None: all).
        text_units: for `text` targets, `sentencepiece:SIZE` or `characters`. With a head that is linear and sees one
            frame at a time, whole characters give word error rates close to 100 % for every encoder.
        learning_rates: replaces the declared grid of every head kind.
        max_steps: replaces the declared number of steps.
        cache_gigabytes: most hidden states on disk for one upstream.
        force: score again although nothing has changed.
    """

    device: str = "cpu"
    num_jobs: ranges.Jobs = 0
    seed: int = 0
    max_items: records.PositiveCount | None = None
    text_units: str = "sentencepiece:100"
    learning_rates: tuple[records.Positive, ...] | None = None
    max_steps: records.PositiveCount | None = None
    cache_gigabytes: records.Positive = 4.0
    force: bool = False

    def __post_init__(self):
        ranges.check(self)

    def probes(self, task: Task) -> ProbeConfig:
        """The grid for a task."""
        probes = CTC_PROBES if task.needs_frames else UTTERANCE_PROBES
        changes = {"learning_rates": self.learning_rates, "max_steps": self.max_steps}
        return dataclasses.replace(probes, **{key: value for key, value in changes.items() if value})

    def cache(self) -> CacheConfig:
        """How features are kept."""
        return CacheConfig(max_bytes=int(self.cache_gigabytes * 1e9), frame_dtype="float16")


def decode(
    task: str | Sequence[str],
    upstreams: Sequence[str],
    data_dir: str | Path,
    exp_dir: str | Path,
    config: DecodeConfig | None = None,
    command: str = "",
    failures: list[Failure] | None = None,
) -> list[dict]:
    """Scores frozen encoders on tasks.

    What cannot be scored, a task or an upstream, never takes the others with it.

    Args:
        task: a name, several, or `all`.
        upstreams: specifications, see `spear.evaluate.upstream`.
        data_dir: prepared data (stage 1 is enough).
        exp_dir: receives `decode/` and `cache/`.
        command: written into the run files.
        failures: receives what could not be scored, as long as there is some score.

    Returns:
        The content of the run files, task by task in the order of the corpus, upstream by upstream.

    Raises:
        ConfigError: unknown task, or two upstreams of the same name.
        SpearError: the first failure, after all others have been scored, when nobody asked for `failures`.
    """
    config = config or DecodeConfig()
    data_dir, exp_dir = Path(data_dir).absolute(), Path(exp_dir).absolute()
    failed: list[Failure] = []
    tasks = find_tasks(
        data_dir, [task] if isinstance(task, str) else task, lambda *bad: note(failed, bad[0], "", bad[1])
    )
    examples = _examples(tasks, _items(str(data_dir)), config, failed)
    tasks = [current for current in tasks if current.name in examples]
    places = _prepare(upstreams, tasks, data_dir, exp_dir, config, failed) if tasks else []
    doubts = {t.name: find_doubts(_judged(t, examples[t.name]), t.metric) for t in tasks}
    units, runs = [], {}
    for current in tasks:
        keys = [item_key(example.item) for example in examples[current.name].all()]
        for place in places:
            if current.name in place["failed"]:
                note(failed, current.name, place["name"], place["failed"][current.name])
                continue
            inputs = _inputs_hash(current, place, examples[current.name], keys, config)
            path = exp_dir / "decode" / current.name / f"{place['name']}.json"
            kept = None if config.force else _reusable(path, inputs, doubts[current.name])
            if kept is not None:
                runs[current.name, place["name"]] = kept
                continue
            units.append(
                {
                    "name": f"{current.name}.{place['name']}",
                    "task": current.name,
                    "upstream": {key: value for key, value in place.items() if key != "failed"},
                    "doubts": doubts[current.name],
                    "inputs_sha256": inputs,
                    "data_dir": str(data_dir),
                    "path": str(path),
                    "config": dataclasses.asdict(config),
                    "command": command,
                }
            )
    if runs:
        logger.info("%d scores are up to date and kept", len(runs))
    # Frame tasks take longest: first, so that no worker is left with one at the end.
    units.sort(key=lambda unit: not next(t for t in tasks if t.name == unit["task"]).needs_frames)
    for unit, result in zip(units, _run(score_unit, units, config.num_jobs, "heads")):
        if "failed" in result:
            note(failed, unit["task"], unit["upstream"]["name"], result["failed"])
        else:
            runs[unit["task"], unit["upstream"]["name"]] = fs.read_json(unit["path"])
    settle(failed, failures, len(runs))
    keys = [(t.name, place["name"]) for t in tasks for place in places]
    return [runs[key] for key in keys if key in runs]


def _examples(
    tasks: Sequence[Task], items: Sequence[Item], config: DecodeConfig, failed: list[Failure]
) -> dict[str, Examples]:
    """The examples of the tasks that have some in every split."""
    found = {}
    for task in tasks:
        try:
            found[task.name] = make_examples(task, items, config.max_items)
        except SpearError as error:
            note(failed, task.name, "", error)
    return found


def _judged(task: Task, examples: Examples) -> dict[str, list[Judged]]:
    def judged(example: Example) -> Judged:
        if task.target == "text":
            return Judged(example.item, tuple(example.target.replace(" ", "")), example.target)
        labels = (example.target,) if isinstance(example.target, str) else tuple(example.target)
        return Judged(example.item, labels)

    return {name: [judged(example) for example in examples.splits[name]] for name in SPLITS}


def _prepare(
    upstreams: Sequence[str],
    tasks: Sequence[Task],
    data_dir: Path,
    exp_dir: Path,
    config: DecodeConfig,
    failed: list[Failure],
) -> list[dict]:
    """Fills the cache of every upstream; returns where each is."""
    units = [
        {
            "name": f"features-{index}",
            "spec": spec,
            "tasks": [task.name for task in tasks],
            "data_dir": str(data_dir),
            "cache_dir": str(exp_dir / "cache"),
            "config": dataclasses.asdict(config),
        }
        for index, spec in enumerate(upstreams)
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
    for place in places:
        for key, reason in place["skipped"].items():
            logger.warning("%s: skipped %s: %s", place["name"], key, reason)
    return places


def _run(function, units: list[dict], num_jobs: int, label: str) -> list[dict]:
    # Done-files of the executor are not kept: run files and cache know by themselves whether they are up to date.
    with tempfile.TemporaryDirectory(prefix="spear-decode-") as done_dir:
        return run_units(function, units, done_dir, num_jobs=num_jobs, label=label, watch_seconds=1800)


@functools.lru_cache(maxsize=1)
def _items(data_dir: str) -> tuple[Item, ...]:
    return tuple(read_all_items(data_dir))


def _config(unit: dict) -> DecodeConfig:
    values = dict(unit["config"])
    values["learning_rates"] = tuple(values["learning_rates"]) if values["learning_rates"] else None
    return DecodeConfig(**values)


@isolated
def prepare_upstream(unit: dict) -> dict:
    """Unit of work: computes the features of one upstream for all items of some tasks."""
    start, cpu_start = time.monotonic(), time.process_time()
    config = _config(unit)
    items = _items(unit["data_dir"])
    tasks = find_tasks(unit["data_dir"], unit["tasks"], lambda *_: None)
    examples = {task.name: make_examples(task, items, config.max_items).all() for task in tasks}
    wanted = {name: {item_key(e.item): e.item for e in chosen} for name, chosen in examples.items()}
    upstream = load_upstream(unit["spec"], config.device, config.seed)
    cache = FeatureCache(unit["cache_dir"], upstream, config.cache())
    failed = ensure_by_task(cache, wanted, {task.name for task in tasks if task.needs_frames})
    return {
        "failed": failed,
        "name": upstream.name,
        "kind": upstream.kind,
        "spec": unit["spec"],
        "num_layers": upstream.num_layers,
        "hash": cache.hash,
        "fingerprint": upstream.fingerprint(),
        "cache_dir": str(cache.directory),
        "skipped": cache.skipped,
        "seconds": round(time.monotonic() - start, 2),
        "cpu_seconds": round(time.process_time() - cpu_start, 2),
    }


def _inputs_hash(task: Task, place: dict, examples: Examples, keys: list[str], config: DecodeConfig) -> str:
    return fs.sha256_json(
        {
            "protocol": PROTOCOL,
            "task": dataclasses.asdict(task),
            "upstream": place["hash"],
            "cache": Path(place["cache_dir"]).name,
            "skipped": place["skipped"],
            "examples": examples.content_hash(),
            "keys": keys,
            "probes": dataclasses.asdict(config.probes(task)),
            "text_units": config.text_units if task.target == "text" else None,
            "seed": config.seed,
        }
    )


def _reusable(path: Path, inputs_sha256: str, doubts: list[str]) -> dict | None:
    """The run file when it stems from the same inputs and its predictions still give its score."""
    if not path.exists():
        return None
    try:
        run = fs.read_json(path)
        same = run.get("inputs_sha256") == inputs_sha256 and abs(rescore(path) - run["score"]) < 1e-9
    except (DataError, KeyError, TypeError, AttributeError):
        return None
    if same and run.get("doubts") != doubts:  # they are not part of the inputs
        run["doubts"] = doubts
        fs.write_json(path, run)
    return run if same else None


@isolated
def score_unit(unit: dict) -> dict:
    """Unit of work: trains the heads of one task on the cached features of one upstream and writes the run file."""
    start, cpu_start = time.monotonic(), time.process_time()
    config = _config(unit)
    (task,) = find_tasks(unit["data_dir"], [unit["task"]], lambda *_: None)
    store = FeatureStore(unit["upstream"]["cache_dir"])
    examples = make_examples(task, _items(unit["data_dir"]), config.max_items)
    keys, targets, ids = _readable(task, examples, store, unit["upstream"])
    result, details = _fit(task, store, keys, targets, config)
    rows = [
        {"id": item_id, "reference": target, "hypotheses": hypotheses}
        for item_id, target, hypotheses in zip(ids, targets["test"], result.hypotheses)
    ]
    path = Path(unit["path"])
    predictions = f"{path.stem}.predictions.jsonl"
    fs.write_jsonl(path.parent / predictions, rows)
    extra = {"cer": metrics.score(*metrics.prediction_counts("cer", rows))} if task.metric == "wer" else {}
    run = {
        "protocol": PROTOCOL,
        "task": task.name,
        "title": task.title,
        "head": task.head,
        "metric": task.metric,
        "is_ablation": task.is_ablation,
        "upstream": unit["upstream"],
        "score": result.score,
        "interval": list(result.interval),
        "doubts": unit["doubts"],
        "dev_score": result.dev_score,
        "dev_standard_error": result.dev_standard_error,
        "extra_scores": extra,
        "learning_rate": result.learning_rate,
        "seeds": list(config.probes(task).seeds),
        "upstream_seed": config.seed,
        "layer_weights": result.layer_weights,
        "steps": result.steps,
        "grid": result.heads,
        "probes": dataclasses.asdict(config.probes(task)),
        "num_items": {name: len(keys[name]) for name in SPLITS},
        "max_items": config.max_items,
        "skipped": examples.skipped,
        **details,
        "predictions": predictions,
        "inputs_sha256": unit["inputs_sha256"],
        "command": unit["command"],
        "commit": env.git_commit(),
        "hardware": env.describe_hardware(),
        "seconds": {
            "features": unit["upstream"]["seconds"],
            "features_cpu": unit["upstream"]["cpu_seconds"],
            "heads": round(time.monotonic() - start, 2),
            "heads_cpu": round(time.process_time() - cpu_start, 2),
        },
    }
    fs.write_json(path, run)
    skipped = f", {len(examples.skipped)} items skipped" if examples.skipped else ""
    logger.info(
        "%s, %s: %.4f in %s%s", task.name, path.stem, result.score, human_seconds(run["seconds"]["heads"]), skipped
    )
    return {"score": result.score}


def _readable(task: Task, examples: Examples, store: FeatureStore, upstream: dict):
    """Keys and targets by split and test ids, without the items whose audio could not be read (noted as skipped)."""
    keys = {name: [] for name in SPLITS}
    targets = {name: [] for name in SPLITS}
    ids = []
    for name in SPLITS:
        for example in examples.splits[name]:
            key = item_key(example.item)
            if not store.has("frames" if task.needs_frames else "means", key):
                reason = upstream["skipped"].get(key, "no features")
                examples.skipped.append({"id": example.item.id, "split": name, "reason": reason})
                continue
            keys[name].append(key)
            targets[name].append(example.target)
            if name == "test":
                ids.append(example.item.id)
        if not keys[name]:
            raise DataError(f"no readable {name} item in task {task.name}", "at least one", "see the quarantine list")
    return keys, targets, ids


def _fit(task: Task, store: FeatureStore, keys: dict, targets: dict, config: DecodeConfig) -> tuple[ProbeResult, dict]:
    probes = config.probes(task)
    if task.needs_frames:
        units = make_units(targets["train"], "phones" if task.target == "phones" else config.text_units)
        problem = CtcProblem(store.frames, store.num_frames, keys, targets, units, task.metric, probes.standardise)
        details = {"num_outputs": units.size, "infeasible_train_items": problem.infeasible, "selected_on": "dev"}
        return train_probes(problem, probes, config.seed), details
    features = {name: store.means(keys[name]) for name in SPLITS}
    problem = UtteranceProblem(features, targets, probes.standardise)
    unseen = [
        label
        for target in targets["test"]
        for slot, label in enumerate([target] if isinstance(target, str) else target)
        if label not in problem.classes[slot]
    ]
    details = {"num_outputs": problem.shape[2], "num_classes": [len(c) for c in problem.classes]}
    details["test_labels_unseen_in_training"] = sorted(set(unseen))
    folds = [] if len(keys["dev"]) >= probes.least_dev_items else _folds(features, targets, probes)
    details["selected_on"] = f"{len(folds)} folds of train and dev" if folds else "dev"
    return train_probes(problem, probes, config.seed, folds), details


def _folds(features: dict, targets: dict, probes: ProbeConfig) -> list[UtteranceProblem]:
    """Divisions of train and dev by label. Speakers may be on both sides: only a learning rate is selected by them."""
    pool_LMD = torch.cat([features["train"], features["dev"]], dim=1)
    labels = [*targets["train"], *targets["dev"]]
    problems = []
    for held in fold_places(labels, probes.num_folds):
        places = {"train": np.setdiff1d(np.arange(len(labels)), held), "dev": held}
        parts = {name: pool_LMD[:, torch.from_numpy(chosen)] for name, chosen in places.items()}
        named = {name: [labels[place] for place in chosen] for name, chosen in places.items()}
        problems.append(UtteranceProblem(parts, named, probes.standardise))
    return problems


def rescore(run_path: str | Path) -> float:
    """The test score of a run file, recomputed from its prediction file alone.

    Raises:
        DataError: a file is missing or damaged, or the prediction file does not hold the items that the run counted.
    """
    run_path = Path(run_path)
    run = fs.read_json(run_path)
    try:
        rows = fs.read_jsonl(run_path.parent / run["predictions"])
        if len(rows) != run["num_items"]["test"]:
            raise DataError(
                f"{len(rows)} predictions beside {run_path}",
                f"{run['num_items']['test']} of them, as the run file counts",
                "run the decode command again",
            )
        return metrics.score(*metrics.prediction_counts(run["metric"], rows))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise DataError(
            f"{run_path} and its predictions cannot be scored ({type(error).__name__}: {error})",
            "both as the command leaves them",
            "run the command again",
        ) from error
