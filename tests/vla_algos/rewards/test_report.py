"""Audits as tables, a page and JSON."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from vla_algos.rewards import report
from vla_algos.rewards.audit import Audit, audit
from vla_algos.rewards.films import Film
from vla_algos.rewards.shaping import Shaping

VOID = {"meta", "img", "br"}


class Brightness:
    key = "agentview"

    def score(self, seen, instructions):
        return seen[:, 1, 0, 0, 0].astype(np.float32) / 100


def film(*progress: float, is_success: bool, task_id: int = 0, start: int = 0) -> Film:
    n = len(progress)
    frames = np.zeros((n, 6, 8, 3), np.uint8)
    frames[:] = np.round(100 * np.array(progress)).astype(np.uint8)[:, None, None, None]
    return Film(
        frames, np.arange(n) * 8, np.zeros((n, 8), np.float32), f"a < {task_id}", task_id, start, is_success, "<me>"
    )


FILMS = [
    film(0.0, 0.5, 1.0, is_success=True),
    film(*[0.0, 0.75, *[0.25] * 18], is_success=False),
    film(0.0, 0.0, is_success=False, task_id=5),
]


def found_by(shaping: Shaping | None = None) -> Audit:
    return audit(Brightness(), FILMS, shaping or Shaping(), gamma=1.0)


def test_the_table_has_a_column_for_each_control():
    found = found_by()
    lines = report.table("m|n", found, {"clock": replace(found, auc_last=0.25, truth=0.123)}).splitlines()
    assert lines[0] == "| | m/n | control: decisions so far, task |" and lines[1] == "|---|---|---|"
    assert all(line.count("|") == 4 for line in lines)
    assert "| AUC, last frame | 1.000 | 0.250 |" in lines
    # what cannot be told is no number
    assert "| correlation with true progress | - | 0.12 |" in lines
    assert "| successes taken for another task / pairs | - / - | - / - |" in lines
    asked = audit(Brightness(), FILMS, Shaping(), instructions={0: ["b"], 5: ["c"]})
    assert "| successes taken for another task / pairs | 100 % / 100 % |" in report.table("m", asked)
    assert "| best-paid failure / worst-paid success | 0.25 / 2.00 | 0.25 / 2.00 |" in lines


def test_figures_of_each_task_have_a_row():
    lines = report.task_table(found_by()).splitlines()
    assert lines[0].startswith("| task | films (successes) |") and len(lines) == 4
    assert lines[2] == "| 0: a < 0 | 2 (1) | 1.000 | 1.000 | 1.000 | - | 0.25 | 2.00 | 0.38 |"
    assert lines[3] == "| 5: a < 5 | 1 (0) | - | - | - | - | 0.00 | - | - |"


def test_it_is_said_where_failing_pays():
    assert report.failing_pays(found_by()) is None
    # 0.75 + 18 x 0.25 against 1.5 + 1; waiting is paid 19 x 0.75
    assert report.failing_pays(found_by(Shaping("sum"))) == (
        "Task 0: a failure earns 5.25, the worst-paid success 2.50. "
        "Task 0: waiting in a failure's best state earns 14.25, the mean success 2.50."
    )


class Page(HTMLParser):
    """Collects what a page shows, and whether its elements are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_an_audit_is_written_as_tables_figure_page_and_json(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "panels", lambda found: [('Returns of "a"', b"png")])
    found = found_by()
    paths = report.write_audit(
        tmp_path / "new", "<model>", found, {"length": found}, {"commit": "abc", "seeds": [1, 2]}
    )
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(path.name for path in paths.values())
    assert Image.open(paths["png"]).format == "PNG"

    text = paths["md"].read_text()
    assert report.table("<model>", found, {"length": found}) in text and "Failing does not pay." in text
    assert text.count(report.task_table(found)) == 2

    content = json.loads(paths["json"].read_text())
    assert (content["schema_version"], content["model"], content["gamma"]) == (1, "<model>", 1.0)
    assert content["provenance"] == {"commit": "abc", "seeds": [1, 2]} and content["films"] == {"<me>": 3}
    assert content["shaping"] == {"mode": "delta", "weight": 1.0, "gamma": None, "episode_cap": None}
    assert content["figures"]["auc_return"] == 1.0 and content["figures"]["failing_pays"] is False
    assert content["controls"]["length"]["of_task"]["5"]["auc_last"] is None

    page = Page()
    source = paths["html"].read_text()
    page.feed(source)
    assert page.open == [] and "Audit of <model>" in page.text and "0: a < 0" in page.text
    # nothing is loaded from elsewhere, and every picture says what it shows
    assert not re.search(r"https?:|<link|<script|@import|url\(", source)
    assert all(image["src"].startswith("data:image/") and image["alt"] for image in page.images)
    assert page.images[0] == {"src": "data:image/png;base64,cG5n", "alt": 'Returns of "a"'}
    assert 'content="width=device-width' in source


def test_the_page_shows_the_best_paid_failure_and_the_worst_paid_success(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "panels", lambda found: [])
    monkeypatch.setattr(report, "plot_audit", lambda path, found, title: None)
    page = Page()
    page.feed(report.write_audit(tmp_path, "m", found_by())["html"].read_text())
    frames = [image for image in page.images if image["src"].startswith("data:image/jpeg")]
    # 16 of the 20 frames of the failure, and three of the success
    assert len(frames) == 19 and (frames[0]["alt"], frames[15]["alt"]) == ("after 0 decisions", "after 19 decisions")
    success = [Image.open(io.BytesIO(base64.b64decode(each["src"].split(",")[1]))) for each in frames[16:]]
    assert success[0].size == (8, 6) and [picture.getpixel((0, 0))[0] for picture in success] == [0, 50, 100]
    assert "return 0.25 in 19 decisions" in page.text and "return 2.00 in 2 decisions" in page.text
    assert re.search(r"0: 0\.00\s*1: 0\.50\s*2: 1\.00", page.text)


def test_controls_on_other_terms_are_refused_before_anything_is_written(tmp_path):
    other_films = audit(Brightness(), FILMS[:2], Shaping(), gamma=1.0)
    with pytest.raises(ValueError, match="'clock' was judged on other films; expected those of the model"):
        report.write_audit(tmp_path, "m", found_by(), {"clock": other_films})
    capped = found_by(Shaping("sum", 0.5, episode_cap=2.0))
    expected = (
        r"'clock' is paid by sum, weight 0.5, at most 2 per episode, gamma 1; expected delta, weight 1, gamma 1\."
    )
    with pytest.raises(ValueError, match=expected):
        report.write_audit(tmp_path, "m", found_by(), {"clock": capped})
    assert not list(tmp_path.iterdir())
