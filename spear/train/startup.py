"""What ranks agree on before the first step: settings, batches, code, weights and position, compared by hash."""

import hashlib
from pathlib import Path

import torch

from spear import config as configuration
from spear import dist, env, fs
from spear.errors import ConfigError, DataError
from spear.log import get_logger
from spear.tokens.ready import check_ready
from spear.train.config import TrainConfig

# Settings that may differ between the ranks of one run: nodes may keep the data in different places.
logger = get_logger(__name__)
_LOCAL = ("data_dir", "num_workers", "device")


def code_hash() -> str:
    """Of all Python files of the package, so that a node with an old checkout is found."""
    digest = hashlib.sha256()
    for path in sorted(env.PACKAGE_DIR.rglob("*.py")):
        digest.update(path.relative_to(env.PACKAGE_DIR).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def weights_hash(model: torch.nn.Module) -> str:
    """Of all parameters and buffers with their names; of sharded ones the names alone: ranks hold different parts."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        if dist.is_sharded(tensor):
            continue
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def identity(config: TrainConfig, plan_hash: str, model: torch.nn.Module, position: str) -> dict[str, str]:
    """What a rank is about to do, as short strings."""
    settings = {k: v for k, v in configuration.to_dict(config).items() if k not in _LOCAL}
    settings["exp_dir"] = Path(config.exp_dir).name
    hashes = {
        "config": fs.sha256_json(settings),
        "plan": plan_hash,
        "code": code_hash(),
        "weights": weights_hash(model),
    }
    return {**{name: value[:12] for name, value in hashes.items()}, "position": position, "torch": torch.__version__}


def check_ranks(mine: dict[str, str]) -> None:
    """Compares `identity` over all ranks.

    Raises:
        ConfigError: ranks differ; the message has a table of what differs, on every rank alike.
    """
    ranks = dist.gather_objects(mine)
    differing = [name for name in mine if len({rank[name] for rank in ranks}) > 1]
    if not differing:
        return
    raise ConfigError(
        f"ranks that differ in {', '.join(differing)}:\n{table(differing, ranks)}",
        "the same configuration, batch plan, code, weights and position on all ranks",
        _remedy(differing),
    )


def check_data(config: TrainConfig, world: dist.World) -> None:
    """Compares the data with what stage 5 verified, on rank 0, and says what is not compared; see `check_ready`.

    Raises:
        DataError: something is not what it was, on every rank alike.
    """
    found = None
    if world.is_main:
        data_dir = Path(config.data_dir)
        streams = {}
        for name, stream in config.streams.items():
            stores = stream.settings.stores(name)
            streams |= {name if len(stores) == 1 else f"{name}: {store}": data_dir / store for store in stores}
        manifests = [*(source.cuts for source in config.sources), *config.mixing.noises]
        found = check_ready(data_dir, [data_dir / manifest for manifest in manifests], streams)
        logger.info("data: compared %s", ", ".join(found.compared) or "nothing")
        logger.info("data: not compared: %s", "; ".join(found.not_compared))
        if found.gone:
            logger.warning("data: %d recordings of the sample are gone: %s", len(found.gone), ", ".join(found.gone[:3]))
        if streams and not (data_dir / "READY").is_file():
            logger.warning("no READY in %s: nobody verified that targets and manifests fit", data_dir)
    problems = dist.gather_objects(found.problems if found else [])[0]
    if problems:
        raise DataError(
            "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else ""),
            f"the data that {Path(config.data_dir) / 'READY'} and the manifests were written for",
            "restore them, or run the stages after the change again (prepare.sh --stage 1, or spear verify-tokens)",
        )


def table(names: list[str], ranks: list[dict[str, str]], most: int = 16) -> str:
    """One line for each group of ranks that agree, the largest group first."""
    groups: dict[tuple, list[int]] = {}
    for number, rank in enumerate(ranks):
        groups.setdefault(tuple(rank[name] for name in names), []).append(number)
    rows = [("ranks", *names)]
    for values, members in sorted(groups.items(), key=lambda group: -len(group[1])):
        shown = ",".join(map(str, members[:most])) + (f",... ({len(members)})" if len(members) > most else "")
        rows.append((shown, *values))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("    " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def _remedy(differing: list[str]) -> str:
    remedies = {
        "config": "start all ranks with the same command and files",
        "plan": "give all nodes the same manifests and token stores",
        "code": "bring all nodes to the same commit",
        "torch": "install the same torch everywhere",
        "position": "let all nodes see the same exp_dir (its checkpoints)",
        "weights": "let all nodes load the same checkpoint with the same torch",
    }
    return "; ".join(remedies[name] for name in differing if name in remedies)
