"""Tables of a report: for people at the terminal, and the section of docs/results.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.gpu_parts.run import Row


Column = tuple[str, Callable[[Row], str]]
_TITLES = {
    "numeric": "Verdicts against a CPU in float32, on random tiny models",
    "language": "Models of 7B and 8B with random weights",
    "scorers": "Published scorers of real size with random weights",
    "alignment": "A step of training a FLUX-sized transformer",
}


def _number(key: str, digits: int = 3) -> Callable[[Row], str]:
    def text(row: Row) -> str:
        value = row.get(key)
        return "" if value is None else f"{value:.{digits}g}"

    return text


def _rate(row: Row) -> str:
    rates = ("tokens", "images", "answers")
    return next((f"{row[f'{x}_per_s']:,.0f} {x}" for x in rates if f"{x}_per_s" in row), "")


def _gain(row: Row) -> str:
    """Time of a competent batch, or of a layer as it is, for that of the row."""
    return f"{row['plain_seconds'] / row['seconds']:.2f}" if "plain_seconds" in row else ""


def _peaks(report: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Measured and published peaks by unit: TFLOP/s by dtype, TB/s as ``copy``."""
    rows = {row["name"]: row for row in report["parts"].get("card", {}).get("rows", ())}
    measured = {
        dtype: rows[f"product, {dtype}"]["tflops"]
        for dtype in ("bfloat16", "float32")
        if "tflops" in rows.get(f"product, {dtype}", {})
    }
    if "tb_per_s" in rows.get("copy", {}):
        measured["copy"] = rows["copy"]["tb_per_s"]
    published = dict(rows.get("machine", {}).get("published") or {})
    if "bandwidth" in published:
        published["copy"] = published.pop("bandwidth")
    return {"measured": measured, "published": published}


def _share(peaks: Mapping[str, float]) -> Callable[[Row], str]:
    """Share of a peak: of memory for decoding, of products else."""

    def text(row: Row) -> str:
        unit, value = ("copy", row["tb_per_s"]) if "tb_per_s" in row else ("", row.get("tflops"))
        peak = peaks.get(unit or row.get("dtype", ""))
        return f"{100 * value / peak:.0f} %" if value and peak else ""

    return text


def _work(row: Row) -> str:
    if "tb_per_s" in row:
        return f"{row['tb_per_s']:.2f} TB/s"
    return f"{row['tflops']:.3g} TFLOP/s" if "tflops" in row else ""


def _columns(part: str, peaks: Mapping[str, Mapping[str, float]]) -> list[Column]:
    shares: list[Column] = [
        ("work", _work),
        ("of the measured peak", _share(peaks["measured"])),
        ("of the published", _share(peaks["published"])),
        ("peak GiB", _number("peak_gib")),
    ]
    if part == "numeric":
        apart = ("device float32", "device bfloat16", "cpu bfloat16")
        return [
            ("model", lambda row: row["name"]),
            ("within bounds", lambda row: "yes" if row["ok"] else "**no**"),
            *((key, lambda row, k=key: f"{row['apart'][k]:.1e}") for key in apart),
            ("ways in bfloat16", lambda row: ", ".join(row.get("ways", {}).values())),
        ]
    if part == "language":
        return [
            ("model and task", lambda row: row["name"]),
            ("seconds", _number("seconds")),
            ("a second", _rate),
            ("plain way : this", _gain),
            *shares,
            ("attention", lambda row: row.get("attention", "").replace("_scaled_dot_product_", "")),
        ]
    if part == "scorers":
        return [
            ("scorer", lambda row: row["name"]),
            ("images a second, model alone", _number("alone_per_s")),
            ("with files", _number("with_files_per_s")),
            ("files alone", _number("files_alone_per_s")),
            ("bound by", lambda row: row.get("bound_by", "")),
            *shares,
        ]
    return [("step", lambda row: row["name"]), ("figures", _figures)]


def _figures(row: Row) -> str:
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in row.items()
        if key != "name" and value is not None
    )


def table(columns: Sequence[Column], rows: Sequence[Row]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [[title for title, _ in columns], ["---"] * len(columns)]
    lines += [[cell(row) for _, cell in columns] for row in rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def page(report: Mapping[str, Any]) -> str:
    """Section ``## On one GPU`` of docs/results.md."""
    peaks = _peaks(report)
    parts = report["parts"]
    machine = next(iter(parts.get("card", {}).get("rows", ())), {})
    measured = peaks["measured"]
    lines = [
        "## On one GPU",
        "",
        f"`benchmarks/gpu.py` on {machine.get('card', 'an unknown card')}, torch "
        f"{machine.get('torch')}, transformers {machine.get('transformers')}, "
        f"{report['seconds']:.0f} s ([report](results/gpu.json)). All weights are random, so that "
        "times and memory mean something and verdicts nothing. Measured peaks: "
        + ", ".join(
            f"{value:.3g} TB/s (copy)" if name == "copy" else f"{value:.3g} TFLOP/s ({name})"
            for name, value in measured.items()
        )
        + ". FLOPs are those of torch's counter, attention in full also where half is masked.",
    ]
    for part, title in _TITLES.items():
        if part not in parts:
            continue
        rows = [row for row in parts[part]["rows"] if "error" not in row]
        failed = [row for row in parts[part]["rows"] if "error" in row]
        if "error" in parts[part]:
            failed.append({"name": "the rest", "error": parts[part]["error"]})
        lines += ["", f"**{title}**", ""]
        lines += table(_columns(part, peaks), rows) if rows else ["Nothing was measured."]
        if failed:
            lines += ["", *(f"- {row['name']}: {row['error']}" for row in failed)]
    return "\n".join(lines) + "\n"
