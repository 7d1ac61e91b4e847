"""The page: confusions of classes, and a structure that fits a phone without the network."""

import re
from html.parser import HTMLParser

import pytest

from spear import fs
from spear.evaluate.confusions import confusions, confusions_part, most_confused
from spear.evaluate.report import write_report

VOID = {"meta", "br", "path", "use", "rect", "hr"}


def answers(*pairs):
    """Prediction rows of single labels, with an answer of each head seed."""
    return [
        {"id": str(n), "reference": [label], "hypotheses": [[a] for a in said]}
        for n, (label, *said) in enumerate(pairs)
    ]


def scored(exp_dir, task, upstream, kind, rows, metric="accuracy"):
    """Writes a run file with its predictions."""
    folder = exp_dir / "evaluate" / "mini" / task
    fs.write_jsonl(folder / f"{upstream}.predictions.jsonl", rows)
    run = {
        "suite": "mini",
        "task": task,
        "metric": metric,
        "score": 0.5,
        "interval": [0.4, 0.6],
        "scores": {metric: 0.5},
    }
    run |= {"upstream": {"name": upstream, "kind": kind, "hash": "a" * 64}, "skipped": [], "learning_rate": 0.01}
    run |= {"num_items": {"train": 9, "dev": 3, "test": len(rows)}, "seeds": [0], "command": "spear evaluate"}
    run |= {"commit": "c" * 12, "hardware": "a machine", "inputs_sha256": "b" * 64, "protocol": "mini", "steps": 10}
    run |= {"layer_weights": [0.25, 0.75], "seconds": {"heads": 1.0}, "predictions": f"{upstream}.predictions.jsonl"}
    run |= {"grid": [{"learning_rate": rate, "dev_score": rate * 9} for rate in (0.01, 0.1)]}
    fs.write_json(folder / f"{upstream}.json", run)
    return run


def test_confusions_are_means_over_seeds_of_single_labels():
    counts = confusions(answers(("cat", "cat", "dog"), ("cat", "cat", "cat"), ("dog", "cow", "cow")))
    assert counts == {("cat", "cat"): 1.5, ("cat", "dog"): 0.5, ("dog", "cow"): 1.0}
    several = [{"id": "x", "reference": ["on", "lamp"], "hypotheses": [["on", "heat"]]}]
    assert confusions(several) == confusions([{"id": "x", "reference": "a b", "hypotheses": ["a"]}]) == {}


def test_the_most_confused_classes_are_those_of_the_most_wrong_answers():
    counts = {("a", "a"): 99.0, ("b", "c"): 3.0, ("d", "b"): 1.0, ("e", "e"): 5.0}
    assert most_confused(counts, 3) == ["b", "c", "d"]
    assert most_confused(counts) == ["a", "b", "c", "d", "e"]


def test_the_matrix_counts_what_is_outside_of_it(tmp_path):
    names = [f"class{number:02d}" for number in range(12)]
    rows = answers(*[(name, name) for name in names], *[("class00", name) for name in names[1:]])
    part = confusions_part([scored(tmp_path, "words", "ours", "checkpoint", rows)], tmp_path)
    header, first = re.findall(r"<tr>(.*?)</tr>", part)[:2]
    assert header.count("<th>") == 12 and header.endswith("<th>others</th>")
    cells = re.findall(r"<td[^>]*>(.*?)</td>", first)
    assert cells == ["1"] * 10 + ["2"]  # class00 was right once, and taken for eleven others, two of them elsewhere


class Structure(HTMLParser):
    """What lies in what, and every address of the page."""

    def __init__(self):
        super().__init__()
        self.open, self.scrolling, self.addresses, self.metas, self.tags = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        self.addresses += [value for key, value in attrs if key in ("src", "href", "xlink:href", "srcset", "action")]
        if tag == "meta":
            self.metas.append(values)
        if tag in ("table", "svg") and "svg" not in [name for name, _ in self.open]:
            self.scrolling.append(any("wide" in (kind or "").split() for _, kind in self.open))
        if tag not in VOID:
            self.open.append((tag, values.get("class")))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop()[0] == tag


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page of two tasks and two upstreams with names that are no HTML."""
    folder = tmp_path_factory.mktemp("page")
    rows = answers(("<b>", "<b>"), ("<b>", "c&d"), ("c&d", "c&d"))
    numbers = [{"id": "1", "reference": 1.0, "hypotheses": [1.0]}]
    for upstream, kind in (("ours", "checkpoint"), ("fbank", "fbank")):
        scored(folder / "exp", "words", upstream, kind, rows)
        scored(folder / "exp", "numbers", upstream, kind, numbers, "pearson")
    return write_report(folder / "data", folder / "exp").read_text()


def test_the_page_fits_a_phone_and_needs_no_network(page):
    structure = Structure()
    structure.feed(page)
    assert not structure.open and "script" not in structure.tags and "link" not in structure.tags
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in structure.metas
    assert len(structure.scrolling) >= 6 and all(structure.scrolling)  # wide things scroll in their own box
    assert ".wide { overflow-x: auto" in page and "@media (max-width: 700px)" in page
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in structure.addresses)
    assert not re.search(r"@import|url\((?!#)|@font-face", page)


def test_the_page_has_the_confusions_of_tasks_of_one_label(page):
    part = page[page.index("<h2>Confusions</h2>") :]
    assert part.count('<table class="matrix">') == 2 and part.count("<details open>") == 1
    assert "&lt;b&gt;" in part and "c&amp;d" in part and "<b>" not in page
    assert "This part could not be made" not in page
