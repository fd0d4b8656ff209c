"""Audits as tables, figures and one page that needs nothing else."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vla_algos.rewards.audit import Audit, TaskFigures
from vla_algos.rewards.controls import CONTROL_NAMES, Inputs
from vla_algos.rewards.plots import MAX_TASKS, panels, plot_audit
from vla_gym.files import write_then_rename

SCHEMA_VERSION = 1
"""Of ``audit.json``."""
MAX_STRIP = 16
"""Most frames of a film that a page shows."""

_ROWS: dict[str, Callable[[Audit], str]] = {
    "films (successes)": lambda a: _count(a.n_films),
    "AUC, discounted return": lambda a: _number(a.auc_return, 3),
    "AUC, last frame": lambda a: _number(a.auc_last, 3),
    "AUC, mean over equal lengths": lambda a: _number(a.auc_mean, 3),
    "correlation with true progress": lambda a: _number(a.truth),
    "rewound films that fall": lambda a: _percent(a.rewound),
    "gain in films played from their end": lambda a: _number(a.rewound_gain),
    "Kendall's tau, failure < partial < success": lambda a: _number(a.ranking),
    "calibration error": lambda a: _number(a.calibration_error, 3),
    "successes taken for another task / pairs": lambda a: f"{_percent(a.confused)} / {_percent(_confused_pairs(a))}",
    "best-paid failure / worst-paid success": lambda a: f"{a.best_failure[0]:.2f} / {a.worst_success[0]:.2f}",
    "waiting / mean success, worst task": lambda a: _number(a.loitering),
    "does failing pay?": lambda a: "yes" if a.does_failing_pay else "no",
    "unusable scores": lambda a: _percent(a.invalid),
}
_TASK_ROWS: dict[str, Callable[[TaskFigures], str]] = {
    "films (successes)": lambda t: _count(t.n_films),
    "AUC, return": lambda t: _number(t.auc_return, 3),
    "AUC, last frame": lambda t: _number(t.auc_last, 3),
    "AUC, mean": lambda t: _number(t.auc_mean, 3),
    "correlation": lambda t: _number(t.truth),
    "best-paid failure": lambda t: _number(t.best_failure),
    "worst-paid success": lambda t: _number(t.worst_success),
    "waiting / success": lambda t: _number(t.loitering),
}


def table(name: str, found: Audit, controls: Mapping[Inputs, Audit] | None = None) -> str:
    """
    Write the figures as a Markdown table, controls beside the model.

    :param name: of the model
    :param found: its figures
    :param controls: figures of controls, by what they see
    :return: the table; "-" for what the films cannot tell
    """
    return _markdown(*_cells(name, found, controls or {}))


def task_table(found: Audit) -> str:
    """
    Write the figures of each task as a Markdown table.

    :param found: figures of a model or a control
    :return: the table; "-" for what the films of a task cannot tell
    """
    return _markdown(*_task_cells(found))


def failing_pays(found: Audit) -> str | None:
    """
    Say in which tasks failing pays.

    :param found: the audit
    :return: sentences; None if it pays in no task
    """
    sentences = []
    for task_id, task in found.of_task.items():
        if task.best_failure > task.worst_success:
            sentences.append(
                f"Task {task_id}: a failure earns {task.best_failure:.2f}, the worst-paid success "
                f"{task.worst_success:.2f}."
            )
        if task.loitering >= 1:
            sentences.append(
                f"Task {task_id}: waiting in a failure's best state earns {task.waiting:.2f}, the mean success "
                f"{task.mean_success:.2f}."
            )
    return " ".join(sentences) or None


def write_audit(
    folder: str | Path,
    name: str,
    found: Audit,
    controls: Mapping[Inputs, Audit] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Path]:
    """
    Write an audit: ``audit.md`` (tables), ``audit.png``, ``audit.html`` (all of it, and films) and ``audit.json``.

    ``audit.json`` has the entries ``schema_version``, ``model``, ``provenance``, ``shaping``, ``gamma``, ``films`` (how
    many of which source), ``figures`` and ``controls``.

    :param folder: where to; it is made
    :param name: of the model
    :param found: its figures
    :param controls: figures of controls on the same films, by what they see
    :param provenance: where model and films come from, as JSON
    :return: the files, by ending
    :raises ValueError: if controls were judged on other films, or paid otherwise
    """
    controls, provenance = controls or {}, provenance or {}
    for inputs, control in controls.items():
        _check_alike(inputs, control, found)
    paths = {kind: Path(folder) / f"audit.{kind}" for kind in ("md", "png", "html", "json")}
    plot_audit(paths["png"], found, f"{name}: {_paid_by(found)}")
    texts = {
        "md": _as_markdown(name, found, controls),
        "html": _as_html(name, found, controls, provenance),
        # last, so that it is there only if all of them are
        "json": json.dumps(_as_dict(name, found, controls, provenance), indent=2, allow_nan=False) + "\n",
    }
    for kind, text in texts.items():
        with write_then_rename(paths[kind]) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return paths


def _check_alike(inputs: Inputs, control: Audit, found: Audit) -> None:
    is_same = len(control.films) == len(found.films)
    if not is_same or any(a.film is not b.film for a, b in zip(control.films, found.films, strict=True)):
        raise ValueError(f"The control {inputs!r} was judged on other films; expected those of the model.")
    if (control.shaping, control.gamma) != (found.shaping, found.gamma):
        raise ValueError(f"The control {inputs!r} is paid by {_paid_by(control)}; expected {_paid_by(found)}.")


def _number(value: float, digits: int = 2) -> str:
    return "-" if np.isnan(value) else f"{value:.{digits}f}"


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.0f} %"


def _confused_pairs(found: Audit) -> float:
    return float("nan") if found.confusion is None else found.confusion.of_pair


def _count(n_films: tuple[int, int]) -> str:
    return f"{n_films[0]} ({n_films[1]})"


def _paid_by(found: Audit) -> str:
    cap = "" if found.shaping.episode_cap is None else f", at most {found.shaping.episode_cap:g} per episode"
    return f"{found.shaping.mode}, weight {found.shaping.weight:g}{cap}, gamma {found.gamma:g}"


def _sources(found: Audit) -> dict[str, int]:
    return dict(Counter(each.film.source for each in found.films))


def _cells(name: str, found: Audit, controls: Mapping[Inputs, Audit]) -> tuple[list[str], list[list[str]]]:
    columns = {name: found, **{CONTROL_NAMES[inputs]: control for inputs, control in controls.items()}}
    return ["", *columns], [[row, *(say(each) for each in columns.values())] for row, say in _ROWS.items()]


def _task_cells(found: Audit) -> tuple[list[str], list[list[str]]]:
    names = {each.film.task_id: each.film.instruction for each in found.films}
    rows = [
        [f"{task_id}: {names[task_id]}", *(say(task) for say in _TASK_ROWS.values())]
        for task_id, task in found.of_task.items()
    ]
    return ["task", *_TASK_ROWS], rows


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [
        "|" + "|".join(f" {cell.replace('|', '/')} " if cell else " " for cell in row) + "|" for row in [head, *rows]
    ]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def _as_markdown(name: str, found: Audit, controls: Mapping[Inputs, Audit]) -> str:
    parts = [f"# Audit of {name}", f"Paid by {_paid_by(found)}.", table(name, found, controls), _verdict(found)]
    parts += [f"## {name}, per task", task_table(found)]
    for inputs, control in controls.items():
        parts += [f"## {CONTROL_NAMES[inputs]}, per task", task_table(control)]
    return "\n\n".join(parts) + "\n"


def _verdict(found: Audit) -> str:
    pays = failing_pays(found)
    return "Failing does not pay." if pays is None else f"Failing pays. {pays}"


def _as_dict(
    name: str, found: Audit, controls: Mapping[Inputs, Audit], provenance: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "model": name,
        "provenance": dict(provenance),
        "shaping": dataclasses.asdict(found.shaping),
        "gamma": found.gamma,
        "films": _sources(found),
        "figures": found.to_dict(),
        "controls": {inputs: control.to_dict() for inputs, control in controls.items()},
    }


_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 0 auto; padding: 16px;
  max-width: 1168px; }
h1, h2 { line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin-top: 2em; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; }
th, td { padding: 4px 10px; border-bottom: 1px solid #ddd; text-align: right; }
td { white-space: nowrap; }
th:first-child { text-align: left; min-width: 130px; }
.verdict { padding: 8px 12px; border-left: 4px solid #2a7d4f; background: #eef7f1; }
.verdict.bad { border-color: #b3401f; background: #fbeee9; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 360px), 1fr)); gap: 16px; }
.panels img { width: 100%; height: auto; }
.strip { display: flex; flex-wrap: wrap; gap: 8px; }
.strip figure { margin: 0; width: 104px; font-size: 12px; }
.strip img { width: 104px; height: auto; display: block; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; font-size: 14px; }
dt { font-weight: 600; }
dd { margin: 0; overflow-wrap: anywhere; }
"""


def _as_html(name: str, found: Audit, controls: Mapping[Inputs, Audit], provenance: Mapping[str, Any]) -> str:
    title = html.escape(f"Audit of {name}")
    images = "".join(
        f'<img src="data:image/png;base64,{_base64(png)}" alt="{html.escape(text)}">' for text, png in panels(found)
    )
    left_out = len(found.of_task) - MAX_TASKS
    note = f"<p>Tasks that are not drawn: {left_out}.</p>" if left_out > 0 else ""
    details = "".join(
        f"<details><summary>{html.escape(CONTROL_NAMES[inputs])}</summary>{_table(*_task_cells(control))}</details>"
        for inputs, control in controls.items()
    )
    facts = {
        "process reward": _paid_by(found),
        "films": ", ".join(f"{n} of {source}" for source, n in _sources(found).items()),
        **{key: value if isinstance(value, str) else json.dumps(value) for key, value in provenance.items()},
    }
    listed = "".join(f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>" for key, value in facts.items())
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{title}</h1>
<dl>{listed}</dl>
<p class="verdict{" bad" * found.does_failing_pay}">{html.escape(_verdict(found))}</p>
{_table(*_cells(name, found, controls))}
<h2>Figures</h2>
<div class="panels">{images}</div>
{note}
<h2>Per task</h2>
{_table(*_task_cells(found))}
{details}
<h2>Best-paid failure</h2>
{_strip(found, found.best_failure[1])}
<h2>Worst-paid success</h2>
{_strip(found, found.worst_success[1])}
</body>
</html>
"""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
    lines = [
        f'<tr><th scope="row">{html.escape(row[0])}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    ]
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _strip(found: Audit, index: int) -> str:
    """Frames of a film, with the progress under each."""
    each = found.films[index]
    film = each.film
    frames = []
    for row in np.unique(np.linspace(0, len(film) - 1, MAX_STRIP).round().astype(int)):
        truth = "" if each.truth is None else f"<br>true {each.truth[row]:.2f}"
        frames.append(
            f'<figure><img src="data:image/jpeg;base64,{_base64(_jpeg(film.frames[row]))}" alt="after {row} decisions">'
            f"<figcaption>{row}: <b>{each.progress[row]:.2f}</b>{truth}</figcaption></figure>"
        )
    about = (
        f"Task {film.task_id}, {film.instruction}, initial state {film.init_state_id}, {film.source}: return "
        f"{each.pay:.2f} in {len(film) - 1} decisions. Under each frame: decisions so far, and progress."
    )
    return f'<p>{html.escape(about)}</p><div class="strip">{"".join(frames)}</div>'


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _jpeg(frame: Any) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(frame).save(stream, format="JPEG", quality=88)
    return stream.getvalue()
