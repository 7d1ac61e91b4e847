"""Several layers of a teacher from one pass over the audio."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from spear.teachers.base import Teacher, TeacherSpec
from spear.teachers.registry import load_teacher


@dataclass(frozen=True)
class TeacherLayers:
    """A teacher whose frames are one or several layers side by side.

    Attributes:
        teacher: loaded once.
        places: where each layer stands among the specs that were asked for.
        widths: channels of each layer.
        prints: fingerprint of each layer, as that of a teacher of this layer alone.
    """

    teacher: Teacher
    places: list[int]
    widths: list[int]
    prints: list[dict]


def load_layers(specs: Sequence[str], device: str | torch.device = "cpu") -> list[TeacherLayers]:
    """Loads teachers; specs that differ in their @LAYER alone share one, and each pass of it gives all these layers.

    Args:
        specs: see `TeacherSpec`.
        device: where they compute.

    Raises:
        SpearError: see `load_teacher`.
    """
    groups: dict[str, list[int]] = {}
    parsed = [TeacherSpec.parse(spec) for spec in specs]
    for place, spec in enumerate(parsed):
        # Without a number the adapter decides which layer it is: such a spec has a pass of its own.
        rest = replace(spec, layer=None, options=dict(sorted(spec.options.items())))
        groups.setdefault(str(place) if spec.layer is None else str(rest), []).append(place)
    loaded = []
    for places in groups.values():
        layers = [parsed[place].layer for place in places]
        highest = -1 if -1 in layers else max(layers)
        first = replace(parsed[places[0]], layer=highest)
        teacher = load_teacher(first.name, first.path, first.layer, device, **first.options)
        if len(places) == 1:
            loaded.append(TeacherLayers(teacher, places, [teacher.dim], [teacher.fingerprint()]))
        elif hasattr(teacher, "watch_layers"):
            widths = teacher.watch_layers(layers)
            own = teacher.fingerprint()
            prints = [{**own, "layer": layer, "dim": width} for layer, width in zip(layers, widths)]
            loaded.append(TeacherLayers(teacher, places, widths, prints))
        else:
            for place in places:
                [alone] = load_layers([specs[place]], device)
                loaded.append(replace(alone, places=[place]))
    return loaded
