"""One page about a trained quantizer: how its error fell, how evenly its codes are used, what codebooks share."""

import html
import io
from pathlib import Path
from typing import Any

from spear import fs

_STYLE = "body{font:14px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}"
_STYLE += "table{border-collapse:collapse}td{padding:.15em 1em .15em 0;vertical-align:top}svg{max-width:100%}"
_BLUE, _ORANGE = "#2563a8", "#d9822b"


def write_quantizer_report(directory: str | Path, card: dict[str, Any]) -> Path:
    """Writes `report.html` beside a quantizer: one file without external parts.

    Args:
        directory: of the quantizer.
        card: as `save_quantizer` returns it, with the metrics of `train_quantizer`.

    Returns:
        the path of the page.
    """
    metrics, teacher = card["metrics"], card.get("teacher") or {}
    errors = metrics["relative_error"]
    facts = {
        "format": f"{card['num_codebooks']} codebooks of {card['codebook_size']}, {card['dim']} channels, "
        + ("normalised per channel" if card["normalise"] else "not normalised"),
        "method": metrics.get("method", "joint"),
        "structure": _structure(card),
        "bit rate": f"{metrics['bits_per_frame']:g} bits per frame"
        + (f", {metrics['bits_per_second']:g} bits per second" if "bits_per_second" in metrics else ""),
        "relative error": ", ".join(f"{error:.4f} with {n} passes" for n, error in errors.items())
        + f"; {metrics['start_error']:.4f} at the start (held out)",
        "frames": f"{metrics['frames']} for training, {metrics['heldout_frames']} held out",
        "dead codes": f"{sum(metrics['dead_codes'])} of {card['num_codebooks'] * card['codebook_size']} (held out)",
        "largest index entropy loss": f"{max(metrics['index_entropy_loss']):.4f} (below 0.05 is even use)",
        "training time": f"{metrics['seconds']:.0f} s",
        "teacher": ", ".join(f"{key} {value}" for key, value in teacher.items()) or "not stated",
        "content": card["content_sha256"],
    }
    rows = "".join(f"<tr><td>{html.escape(k)}</td><td>{html.escape(str(v))}</td></tr>" for k, v in facts.items())
    page = f"<!doctype html><meta charset=utf-8><title>Quantizer {html.escape(card['id'])}</title>"
    page += (
        f"<style>{_STYLE}</style><h1>Quantizer {html.escape(card['id'])}</h1><table>{rows}</table>{_figure(metrics)}"
    )
    path = Path(directory) / "report.html"
    fs.write_text(path, page + "\n")
    return path


def _structure(card: dict[str, Any]) -> str:
    """Residual or even, and how the codebooks share energy and information; cards of before lack both."""
    text, metrics = card.get("structure") or "not stated", card["metrics"]
    if "energy_shares" in metrics:
        shares, nats = metrics["energy_shares"], metrics["entropy_nats"]
        text += f"; shares of energy {min(shares):.3f} to {max(shares):.3f} (1 / N is {1 / len(shares):.3f}), "
        text += f"entropies {min(nats):.2f} to {max(nats):.2f} nats"
    return text


def _figure(metrics: dict[str, Any]) -> str:
    """Four plots as one `<svg>` element."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "spear", "font.size": 9}):
        figure = Figure(figsize=(9, 6), layout="constrained")
        (rounds, passes), (use, shared) = figure.subplots(2, 2)
        history = metrics.get("rounds", [])
        numbers = [state["round"] for state in history]
        rounds.plot(numbers, [state["train_error"] for state in history], color=_BLUE, marker="o", label="training")
        rounds.plot(numbers, [state["heldout_error"] for state in history], color=_ORANGE, marker="o", label="held out")
        rounds.set(title="Error by round (search while training)", xlabel="round", ylabel="relative error")
        rounds.legend()
        errors = metrics["relative_error"]
        passes.bar(list(errors), list(errors.values()), color=_BLUE)
        passes.set(title="Held-out error by passes of the search", xlabel="passes", ylabel="relative error")
        codebooks = range(len(metrics["perplexity"]))
        use.bar(codebooks, metrics["perplexity"], color=_BLUE, label="perplexity")
        use.bar(codebooks, metrics["dead_codes"], color=_ORANGE, label="dead codes")
        use.set(title="Use of the codes (held out)", xlabel="codebook", ylabel="codes")
        use.legend()
        bits = metrics.get("mutual_information_bits", [])
        values = [[float("nan") if i == j else value for j, value in enumerate(row)] for i, row in enumerate(bits)]
        if len(values) > 1:
            figure.colorbar(shared.imshow(values, cmap="viridis", vmin=0), ax=shared, label="bits")
        shared.set(title="What codebooks tell of each other", xlabel="codebook", ylabel="codebook")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]
