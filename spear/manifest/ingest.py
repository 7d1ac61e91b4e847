"""Stage 1: a folder of recordings -> validated lhotse cuts, quarantine, resolved tasks and a summary.

Leaves in the output folder: `cuts_speech_train.jsonl` and `cuts_audio_train.jsonl` (pre-training),
`cuts_heldout.jsonl` (dev and test of any task), `noise.jsonl` (training cuts that may be mixed in as noise, by their
labels), `tasks.yaml`, `quarantine.jsonl`, `recordings_sample.json` and `summary.json`. Recordings are named relative
to the folder above the output, when they lie below it (`data/raw` may be a link), else absolutely.

Several corpora share an output when each has a `name`: then these files are `cuts_NAME_train.jsonl`,
`cuts_NAME_heldout.jsonl`, `noise_NAME.jsonl`, `tasks_NAME.yaml`, `quarantine_NAME.jsonl` and `summary_NAME.json`.
"""

import re
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import spear
from spear import config, fs, log, ranges, records
from spear.audio.levels import CLIPPED
from spear.errors import ConfigError, DataError
from spear.executor import run_units
from spear.manifest.corpora import CORPORA, scan_corpus
from spear.manifest.examine import examine_unit
from spear.manifest.fingerprints import write_sample
from spear.manifest.item import DOMAIN_OF_KIND, original_id, read_items
from spear.manifest.labels import may_be_noise
from spear.manifest.scan import Entry, Scan, is_text
from spear.manifest.splits import ResolvedTask, foreign_splits, held_out, resolve_task
from spear.manifest.summary import summarise
from spear.manifest.tasks import read_task_specs

CUTS = ("cuts_speech_train", "cuts_audio_train", "cuts_heldout")
_FILES_PER_UNIT = 128
_MISSING = "missing file"
# Kinds of reasons in the summary, and words of each; quarantine.jsonl has all, and whole.
_KINDS, _KIND_WORDS = 20, 16
logger = log.get_logger("manifests")


@dataclass
class ManifestsConfig:
    """Settings of stage 1.

    Attributes:
        raw: the folder with the recordings; with manifest.tsv, or any folder of audio files.
        output: where the manifests go, such as data/manifests.
        tasks: a YAML file with tasks; empty: none, and everything is for pre-training.
        kind: speech, event or music, for recordings whose kind is not stated; empty: the corpus' own.
        corpus: its layout, one of `spear.manifest.corpora.CORPORA`; `folder` is any folder of audio files.
        name: of the corpus among others in the same output; empty for the only one.
        decode: decode every recording; false reads headers only (damaged audio then shows at extraction).
        full_scale: what becomes of recordings with samples beyond [-1, 1], such as integers stored as floating-point
            numbers: "rescale" (integers to their full scale, others to their peak), "clip" (those up to 8 times too
            loud are clipped, integers are rescaled) or "exclude". Lossy formats overshoot a little when they are
            decoded: up to 8 times they are only counted, unless they are to be clipped.
        max_seconds: longer recordings are cut into equal windows of at most this length.
        min_seconds: shorter recordings are put into quarantine.
        speed_perturb: speeds, such as [0.9, 1.1], at which pre-training hears every cut of speech once more, with its
            pitch; copies that would be longer than max_seconds are left out. Sounds are told apart by their pitch.
        max_bad_fraction: the stage stops when more of the present recordings than this are bad.
        min_coverage: a warning is given when less of the listed recordings than this is usable.
        executor: local, dask or slurm.
        num_jobs: processes or jobs; 0 means one per core.
    """

    raw: str
    output: str
    tasks: str = ""
    kind: str = ""
    corpus: str = "folder"
    name: str = ""
    decode: bool = True
    full_scale: Literal["rescale", "clip", "exclude"] = "rescale"
    max_seconds: records.Positive = 20.0
    min_seconds: records.NotNegative = 0.1
    speed_perturb: list[float] = field(default_factory=list)
    max_bad_fraction: ranges.Share = 0.5
    min_coverage: ranges.Share = 0.95
    executor: str = "local"
    num_jobs: ranges.Jobs = 0

    def file(self, stem: str, suffix: str = ".jsonl") -> Path:
        """An output file, which carries the corpus' name if it has one."""
        return Path(self.output) / f"{stem}{f'_{self.name}' if self.name else ''}{suffix}"

    @property
    def cuts(self) -> dict[str, Path]:
        """Files of cuts by what is in them: none for a corpus that is noise and nothing else."""
        if CORPORA[self.corpus].only_noise:
            return {}
        if not self.name:
            return {name: Path(self.output) / f"{name}.jsonl" for name in CUTS}
        return {part: Path(self.output) / f"cuts_{self.name}_{part}.jsonl" for part in ("train", "heldout")}

    def check(self) -> None:
        """Refuses settings that cannot work, before anything is written.

        Raises:
            ConfigError: says which.
        """
        ranges.check(self)
        if self.kind and self.kind not in DOMAIN_OF_KIND:
            raise ConfigError(f"kind '{self.kind}'", "one of " + ", ".join(DOMAIN_OF_KIND), "correct --kind")
        if self.name and not re.fullmatch(r"\w[\w.-]*", self.name):
            raise ConfigError(f"name '{self.name}'", "letters, digits, '.', '_' and '-'", "correct --name")
        for folder in (self.raw, self.output):
            if not is_text(folder) or re.search(r"[\x00-\x1f\x7f]", folder):
                raise ConfigError(
                    f"the folder {folder!a}",
                    "a name in UTF-8 without control characters, since manifests hold it",
                    "rename it, or give a link to it",
                )
        if not 0 < self.min_seconds < self.max_seconds:
            raise ConfigError(
                f"min_seconds {self.min_seconds} and max_seconds {self.max_seconds}",
                "0 < min_seconds < max_seconds",
                "correct --min-seconds or --max-seconds",
            )
        if any(not 0.5 <= speed <= 2.0 or speed == 1.0 for speed in self.speed_perturb):
            raise ConfigError(
                f"speed_perturb {self.speed_perturb}", "speeds from 0.5 to 2 other than 1", "correct --speed-perturb"
            )


def make_manifests(settings: ManifestsConfig) -> dict:
    """Runs stage 1 and returns what `summary.json` holds.

    Raises:
        ConfigError: a setting or the task file is wrong.
        DataError: nothing to work on, nothing usable, or too many bad recordings (after writing quarantine.jsonl).
    """
    settings.check()
    output = Path(settings.output)
    specs = read_task_specs(settings.tasks) if settings.tasks else []
    found = scan_corpus(settings.corpus, settings.raw, settings.kind, settings.name)
    logger.info("%d recordings in %s; each is decoded once", len(found.entries), settings.raw)
    present, quarantine = _present(found, Path(settings.raw))
    missing = sum(item["reason"] == _MISSING for item in quarantine)
    results = _examine(settings, present, output)
    foreign = foreign_splits(specs, present)
    usable = []
    for entry, result in zip(present, results):
        if reason := result.get("reason") or foreign.get(entry.id):
            quarantine.append({"id": entry.id, "path": entry.path, "reason": reason})
        else:
            usable.append((entry, result))
    fs.write_jsonl(settings.file("quarantine"), sorted(quarantine, key=lambda item: (item["id"], item["path"])))
    bad = len(quarantine) - missing
    _refuse_bad(settings, bad, len(found.entries) + len(found.refused) - missing, usable, quarantine)
    originals = [entry for entry, _ in usable if entry.speed == 1]  # copies at other speeds are for pre-training
    tasks = [resolve_task(spec, originals) for spec in specs]
    with fs.together() as place:
        summary_place = place(settings.file("summary", ".json"))
        cuts = {name: place(path) for name, path in settings.cuts.items()}
        cuts["noise"] = place(settings.file("noise"))
        _write_cuts(settings, usable, tasks, cuts, set(foreign))
        sources = (_source(settings, entry) for entry, _ in usable)
        write_sample(place(settings.file("recordings_sample", ".json")), output.absolute().parent, sources)
        notes = _write_tasks(place(settings.file("tasks", ".yaml")), tasks)
        summary = _summary(found, quarantine, missing, bad, usable, cuts)
        summary["full_scale"] = _full_scale(settings.full_scale, results)
        notes += _notes_on_training(summary)
        summary |= {"notes": notes, "raw": str(settings.raw), "corpus": settings.corpus}
        fs.write_json(summary_place, summary | {"spear_version": spear.__version__})
    fraction = summary["coverage"]["usable_fraction"]
    if fraction < settings.min_coverage:
        logger.warning("only %.1f %% of the listed recordings are usable; results are of this part", 100 * fraction)
    return summary


def _present(found: Scan, raw: Path) -> tuple[list[Entry], list[dict]]:
    """Entries whose file exists, and the quarantine so far."""
    quarantine = list(found.refused)
    present = []
    for entry in found.entries:
        try:
            reason = "" if stat.S_ISREG((raw / entry.path).stat().st_mode) else "not a file"
        except (FileNotFoundError, NotADirectoryError):
            reason = _MISSING
        except (OSError, ValueError) as error:  # no right to look there, a name that is too long, a NUL in it
            reason = f"cannot be looked at: {getattr(error, 'strerror', None) or error}"
        if reason:
            quarantine.append({"id": entry.id, "path": entry.path, "reason": reason})
        else:
            present.append(entry)
    return present, quarantine


def _examine(settings: ManifestsConfig, entries: list[Entry], output: Path) -> list[dict]:
    """Decodes all files in units of work; a changed file (size, time) makes its unit run again."""
    root = Path(settings.raw).absolute()
    files = []
    for entry in entries:
        state = (root / entry.path).stat()
        files.append({"id": entry.id, "path": entry.path, "declared": entry.duration_seconds})
        files[-1] |= {"size": state.st_size, "changed": state.st_mtime_ns}
        files[-1] |= {} if entry.start_seconds is None else {"start": entry.start_seconds}
        files[-1] |= {} if entry.channel is None else {"channel": entry.channel}
        files[-1] |= {} if entry.speed == 1 else {"speed": entry.speed}
    pieces = [files[start : start + _FILES_PER_UNIT] for start in range(0, len(files), _FILES_PER_UNIT)]
    limits = {"min_seconds": settings.min_seconds, "max_seconds": settings.max_seconds, "root": str(root)}
    limits |= {"full_scale": settings.full_scale} if settings.decode else {"decode": False}
    units = [{"name": f"examine-{number:05d}", "files": piece, **limits} for number, piece in enumerate(pieces)]
    done = run_units(
        examine_unit,
        units,
        output / ".done" / settings.name,
        executor=settings.executor,
        num_jobs=settings.num_jobs,
        label="decoding",
    )
    return [result for unit in done for result in unit["results"]]


def _refuse_bad(settings: ManifestsConfig, bad: int, of: int, usable: list, quarantine: list[dict]) -> None:
    counts = ", ".join(f"{count} x {reason}" for reason, count in _reasons(quarantine).items())
    listing = settings.file("quarantine")
    if not usable:
        raise DataError(f"no usable recording in {settings.raw}: {counts}", "at least one", f"see {listing}")
    if bad > settings.max_bad_fraction * of:
        raise DataError(
            f"{bad} of {of} recordings in {settings.raw} are bad ({counts})",
            f"at most {100 * settings.max_bad_fraction:g} %",
            f"repair or remove what {listing} lists, or raise --max-bad-fraction",
        )


def _reasons(quarantine: list[dict]) -> dict[str, int]:
    """Counts of the most frequent kinds of reasons: what stands before details, without numbers and values."""
    kinds: Counter = Counter()
    for item in quarantine:
        reason = re.sub(r"^line \d+: | '.*'(?= )| \([^()]*\)", "", item["reason"])
        words = re.sub(r"(?<!\S)\d[\d.]*(?![^\s,])", "N", re.split(r"[:;] ", reason)[0]).split()
        kinds[" ".join(words[:_KIND_WORDS]) + (" ..." if len(words) > _KIND_WORDS else "")] += 1
    kept = dict(kinds.most_common(_KINDS))
    if rest := kinds.total() - sum(kept.values()):
        kept["other reasons"] = rest
    return kept


# Cuts --------------------------------------------------------------------------------------------------------------


def _write_cuts(
    settings: ManifestsConfig,
    usable: list[tuple[Entry, dict]],
    tasks: list[ResolvedTask],
    places: dict[str, Path],
    refused: set[str],
) -> None:
    """Writes the cuts to `places`; what was made of `refused` recordings is held out with them."""
    # lhotse takes seconds to import; the workers that decode and the readers of cuts import this module too.
    from spear.manifest.cuts import make_cuts

    away = held_out(tasks, [entry for entry, _ in usable], refused) | {e.id for e, _ in usable if e.heldout}
    away |= {entry.id for entry, _ in usable if entry.speed != 1 and original_id(entry.id) in away}
    known = {entry.id for entry, _ in usable}
    splits: dict[str, dict[str, str]] = {}
    for task in tasks:
        for item, split in task.splits.items() if not task.skipped else ():
            splits.setdefault(item, {})[task.spec.name] = split
    files: dict[str, list[dict]] = {name: [] for name in places}
    only_noise = CORPORA[settings.corpus].only_noise
    for entry, result in usable:
        source = _source(settings, entry)
        split = "heldout" if entry.id in away else "train"
        name = split if settings.name else f"cuts_{DOMAIN_OF_KIND[entry.kind]}_train"
        name = "cuts_heldout" if split == "heldout" and not settings.name else name
        speeds = settings.speed_perturb if split == "train" and entry.kind == "speech" and entry.speed == 1 else []
        speeds = [speed for speed in speeds if f"{entry.id}_sp{speed}" not in known]  # the corpus has copies of its own
        cuts = make_cuts(entry, result, source, split, splits.get(entry.id, {}), speeds)
        if only_noise or (split == "train" and not entry.text and may_be_noise(entry.kind, entry.labels)):
            files["noise"] += cuts
        if only_noise:
            continue
        files[name] += [
            cut for cut in cuts if not cut["recording"].get("transforms") or cut["duration"] <= settings.max_seconds
        ]
    for name, cuts in files.items():
        fs.write_jsonl(places[name], cuts)


def _source(settings: ManifestsConfig, entry: Entry) -> str:
    """A recording's name in the manifests: below the folder above them where it lies there, else absolute."""
    base, path = Path(settings.output).absolute().parent, Path(settings.raw).absolute() / entry.path
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else str(path)


# Tasks and summary -------------------------------------------------------------------------------------------------


def _write_tasks(path: Path, tasks: list[ResolvedTask]) -> list[str]:
    """Writes the tasks that can be done, and those that cannot with the reason; returns remarks to print."""
    resolved, skipped, notes = [], [], []
    for task in tasks:
        notes += task.notes
        if task.skipped:
            skipped.append({"name": task.spec.name, "reason": task.skipped})
            notes.append(f"task {task.spec.name} is skipped: {task.skipped}")
            continue
        entry = config.to_dict(task.spec)
        entry |= {"counts": task.counts(), "classes": task.classes()}
        resolved.append(entry)
    config.dump_yaml({"tasks": resolved, "skipped": skipped}, path)
    for note in notes:
        logger.info("%s", note)
    return notes


def _notes_on_training(summary: dict) -> list[str]:
    """A warning when everything is held out; given as a note, too, which the summary keeps."""
    if any(name.startswith("train ") for name in summary["groups"]):
        return []
    note = (
        f"nothing is left to train on: all {summary['coverage']['usable']} recordings are held out, by the corpus' own "
        "parts (a name with the word dev, valid or test) or as dev and test of tasks"
    )
    logger.warning("%s", note)
    return [note]


def _full_scale(choice: str, results: list[dict]) -> dict[str, Any]:
    """How many recordings have samples beyond full scale, and what became of them."""
    excluded = sum(result.get("reason", "").startswith("beyond full scale") for result in results)
    loud = [result.get("gain", 1.0) for result in results if "peak" in result]
    kept = {"clipped": loud.count(CLIPPED), "as_they_are": loud.count(1.0)}
    kept["rescaled"] = len(loud) - sum(kept.values())
    one_channel = sum("channel" in result for result in results)
    return {"choice": choice, "beyond": excluded + len(loud), "excluded": excluded, **kept, "cancelling": one_channel}


def _summary(found: Scan, quarantine: list, missing: int, bad: int, usable: list, cuts: dict[str, Path]) -> dict:
    items = [item for name, path in cuts.items() if name != "noise" or len(cuts) == 1 for item in read_items(path)]
    listed = len(found.entries) + len(found.refused)
    coverage = {"listed": listed, "usable": len(usable), "usable_fraction": round(len(usable) / listed, 4)}
    windowed = sum(len(result["windows"]) > 1 for _, result in usable)
    return summarise(items) | {
        "has_manifest": found.has_manifest,
        "coverage": coverage | {"missing": missing, "bad": bad},
        "quarantine": _reasons(quarantine),
        "windowed_recordings": windowed,
        "silent_windows": sum(result["silent_windows"] for _, result in usable),
        "ignored_files": found.ignored_files,
        "noise_cuts": sum(1 for _ in fs.iter_lines(cuts["noise"])),
    }
