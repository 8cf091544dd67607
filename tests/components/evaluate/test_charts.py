"""Charts are small, repeat byte for byte, and take any class name; figures behind them match their definitions."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from components.evaluate import charts
from components.evaluate.algorithm import area_under_roc
from components.evaluate.figures import (
    confusion_matrix,
    dominating,
    least_suspect,
    most_suspect,
    roc_curve,
    thresholds,
)

NAMES = ["$x^2_", "<b>&", "猫", "a" * 300, "\x1b[31m", "", "{0}", "%s"]


def text_of(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter("text")]  # noqa: S314 - our own


def test_any_class_name_is_drawn_as_it_is() -> None:
    k = len(NAMES)
    for svg in (
        charts.class_chart(NAMES, [1] * k, [2] * k),
        charts.confusion_chart(np.eye(k, dtype=np.int64), NAMES),
    ):
        said = text_of(svg)
        for name in ("$x^2_", "<b>&", "猫", "{0}", "%s"):
            assert name in said
        assert not any("\x1b" in text for text in said)
        assert all(len(text) < 40 for text in said)


def test_a_chart_repeats_byte_for_byte() -> None:
    values = np.random.default_rng(0).random(500).astype(np.float32)
    groups = {"clean": values[:400], "poisoned": values[400:]}
    assert charts.suspicion_chart(groups, 0.4) == charts.suspicion_chart(groups, 0.4)


@pytest.mark.parametrize("k", [2, 10, 43, 200])
def test_charts_of_many_classes_stay_small(k: int) -> None:
    names = [f"class {label}" for label in range(k)]
    matrix = np.random.default_rng(0).integers(0, 9, (k, k))
    assert len(charts.confusion_chart(matrix, names)) < 300_000
    assert len(charts.class_chart(names, list(range(k)), [k] * k)) < 60_000


def test_of_many_classes_the_matrix_shows_those_with_the_lowest_recall() -> None:
    matrix = np.diag(np.full(100, 10))
    matrix[77] = 0
    matrix[77, 3] = 10
    said = text_of(charts.confusion_chart(matrix, [f"c{label}" for label in range(100)]))
    assert "c77" in said
    assert sum(text.startswith("c") for text in said) == 2 * 30


@pytest.mark.parametrize("suspects", [0, 1])
def test_a_split_without_suspects_has_no_threshold(suspects: int) -> None:
    values = np.linspace(0, 1, 20, dtype=np.float32)
    groups = {"kept": values[: 20 - suspects], "suspect": values[20 - suspects :]}
    said = text_of(charts.suspicion_chart(groups, 1.0 if suspects else None))
    assert any("lowest suspect" in text for text in said) == bool(suspects)


def test_stages_that_were_not_measured_say_so() -> None:
    said = text_of(charts.stage_chart([("final", 0.9, 0.1), ("undefended", None, None)]))
    assert said.count("not measured") == 2
    assert "90.0" in said


def test_no_chart_keeps_a_placeholder_colour() -> None:
    drawn = charts.history_chart({"warm-up": {"loss": [1.0]}, "final": {"loss": [2.0, 1.0], "acc": [0.1, 0.2]}})
    assert not re.search(r"#00f0[ab]\d", drawn + charts.time_chart([("warmup", 1.0, 2.0)], None))


def test_the_area_below_the_curve_is_the_auroc_and_the_curve_is_thin() -> None:
    rng = np.random.default_rng(0)
    positive = rng.random(5000) < 0.2
    scores = np.where(positive, rng.normal(1, 1, 5000), rng.normal(0, 1, 5000)).round(2).astype(np.float32)
    fpr, tpr, _ = thresholds(scores, positive)
    area = area_under_roc(scores, positive)
    assert float(np.trapezoid(tpr, fpr)) == pytest.approx(area, abs=1e-9)
    curve = roc_curve(scores, positive)
    assert curve is not None
    assert len(curve[0]) <= 200
    assert float(np.trapezoid(curve[1], curve[0])) == pytest.approx(area, abs=2e-3)
    assert (curve[0][0], curve[1][0], curve[0][-1], curve[1][-1]) == (0, 0, 1, 1)
    assert roc_curve(scores, np.zeros(5000, dtype=bool)) is None


def test_the_matrix_counts_labels_by_row_and_predictions_by_column() -> None:
    matrix = confusion_matrix(np.array([0, 0, 1, 2]), np.array([0, 2, 1, 2]), 3)
    assert matrix.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 1]]


def test_the_gallery_has_the_flagged_first_and_clean_ones_of_their_class() -> None:
    suspicion = np.array([0.9, 0.2, 0.8, 0.1, 0.3, 0.4], dtype=np.float32)
    flagged = np.array([False, True, True, False, False, False])
    labels = np.array([0, 1, 1, 1, 1, 0])
    assert most_suspect(suspicion, flagged, 3).tolist() == [2, 1, 0]
    assert dominating(labels[[2, 1, 0]], most=1) == [1]
    assert set(least_suspect(suspicion, flagged, labels, 1, 12).tolist()) == {3, 4}
    assert least_suspect(suspicion, flagged, labels, 7, 12).tolist() == []
    assert dominating(labels[:0]) == []
