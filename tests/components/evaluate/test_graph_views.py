"""What the run graph shows of a run: metadata in the form of KFP's own class, and Markdown that shows text as text."""

from __future__ import annotations

import json

import numpy as np
from kfp import dsl

from components.evaluate.figures import roc_curve
from components.evaluate.graph_views import confusion_metadata, overview, roc_metadata

EVIL = "<img src=x onerror=alert(1)> [a](javascript:b) | `c` **d**"


def test_the_confusion_matrix_is_what_kfp_itself_would_record() -> None:
    matrix, names = np.array([[5, 1], [2, 7]]), ["cat", EVIL]
    theirs = dsl.ClassificationMetrics()
    theirs.log_confusion_matrix(names, matrix.tolist())
    assert json.loads(confusion_metadata(matrix, names)) == theirs.metadata


def test_the_roc_curve_is_what_kfp_itself_would_record() -> None:
    scores = np.array([0.9, 0.8, 0.3, 0.1], dtype=np.float32)
    curve = roc_curve(scores, np.array([True, False, True, False]))
    assert curve is not None
    theirs = dsl.ClassificationMetrics()
    fpr, tpr, cuts = (values.tolist() for values in curve)
    theirs.log_roc_curve(fpr, tpr, cuts)
    assert json.loads(roc_metadata(curve)) == theirs.metadata


def test_what_is_not_known_or_too_large_is_left_out() -> None:
    assert json.loads(roc_metadata(None)) == {}
    assert json.loads(confusion_metadata(np.eye(200, dtype=np.int64), ["a"] * 200)) == {}


def test_the_overview_shows_text_of_the_data_as_text() -> None:
    stages = {name: {"acc": 0.5, "asr": None} for name in ("warmup", "unlearn", "final", "undefended")}
    facts = {"sentence": f"{EVIL}\n# not a heading", "next_steps": [EVIL], "caveats": [EVIL]}
    page = overview({"verdict": EVIL, "stages": stages}, facts).decode()
    assert "<img" not in page
    assert "[a](" not in page
    assert "`c`" not in page
    assert "\n# not" not in page
    assert "| final | 50.00 % | not measured |" in page
