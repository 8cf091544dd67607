"""The report is one page that shows hostile text as text, in light and dark, and needs nothing but itself."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from components.evaluate import charts
from components.evaluate.gallery import difference, picture
from components.evaluate.report import Card, Figure, Report, Time, render
from components.evaluate.summary import summarise
from components.evaluate.wording import Candidate, Detector

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
STAGES = [{"stage": name, "seconds": 2.0, "train_seconds": 1.0, "peak_mib": 900.0} for name in ("warmup", "control")]


def report(text: str = "plain", *, attacked: bool = True) -> Report:
    rng = np.random.default_rng(0)
    metrics = {"acc": 0.981, "suspects": 1.0, "control_acc": 0.97}
    if attacked:
        metrics |= {"asr": 0.012, "auroc": 0.9, "flagged_poisoned": 0.8, "flagged_clean": 0.1, "tpr_at_1pct_fpr": 0.7}
    finding = {"name": text, "train": 5, "suspects": 2, "recall": None, "finding": text, "reason": text}
    facts = {"verdict": text, "stages": STAGES, "reason": text, "checked": text, "classes": [finding]}
    card = Card(
        sample_id=7,
        picture=picture(np.zeros((1, 4, 4), dtype=np.uint8)),
        label=text,
        predicted=f"{text}!",
        suspicion=0.5,
        reasons=[text],
        key=text,
        flagged=True,
        poisoned=True if attacked else None,
    )
    probe = Candidate(
        detector=text,
        label=text,
        size=1,
        forget_confidence=0.1,
        retain_accuracy=0.9,
        retain_loss_increase=0.0,
        accepted=True,
    )
    drawn = {
        "stages": charts.stage_chart([(text, 0.9, 0.1 if attacked else None)]),
        "suspicion": charts.suspicion_chart({"kept": rng.random(9).astype(np.float32)}, 0.5),
        "classes": charts.class_chart([text], [2], [5]),
        "confusion": charts.confusion_chart(np.array([[5]]), [text]),
        "history": charts.history_chart({text: {"loss": [1.0, 0.5], "acc": [0.5, 0.9]}}),
        "time": charts.time_chart([(text, 1.0, 1.0)], 2.0),
    }
    if attacked:
        drawn["roc"] = charts.roc_chart((np.array([0.0, 1.0]), np.array([0.0, 1.0])), 0.5, (0.1, 0.2))
    images = rng.integers(0, 256, (3, 1, 8, 8), dtype=np.uint8)
    return Report(
        summary=summarise(
            run_id=text,
            facts=facts,
            metrics=metrics,
            artifacts={"report": text},
            versions={text: text},
            config_digest="",
        ),
        title=text,
        colour="red",
        sentence=text,
        next_steps=[text],
        caveats=[text],
        headline=[Figure(name=text, value=text, note=text)],
        charts=drawn,
        suspects=[card],
        clean=[card],
        gallery_class=text,
        differences=[difference(text, images[:1], images[1:])],
        classes=[finding],
        detectors=[Detector(name=text, found=True, text=text)],
        probes=[probe],
        times=[Time(stage=text, seconds=1.0, train_seconds=0.5, peak_mib=100.0, ratio=0.5)],
        ordinary=(2.0, True),
        counts={text: 1},
        attack={"name": text} if attacked else {},
        provenance={text: text},
        command=text,
        settings={text: {text: text}},
    )


def markup_of(page: str) -> list[tuple[str, list[str]]]:
    """Every element of a page with the names of its attributes."""
    found: list[tuple[str, list[str]]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: found.append((tag, [name for name, _ in attrs]))  # type: ignore[method-assign]
    parser.feed(page)
    # How many paths a chart's text has, if any, is the chart's own business.
    return [element for element in found if element[0] not in ("path", "g")]


def test_no_text_from_data_becomes_markup_neither_in_the_page_nor_in_a_chart() -> None:
    page = render(report(EVIL)).decode()
    assert page.count("&lt;script&gt;") >= 25
    # The same elements with the same attributes as without it.
    assert markup_of(page) == markup_of(render(report()).decode())


def test_the_page_loads_nothing_and_needs_no_script() -> None:
    page = render(report()).decode()
    assert not re.search(r"(https?:)?//[a-z]", page)
    assert not re.search(r"(src|href)=[\"'](?!data:|#)", page)
    assert "javascript" not in page.lower()


def test_the_page_knows_dark_and_print_and_its_charts_take_their_colours_from_it() -> None:
    page = render(report()).decode()
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    drawn = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(drawn) == 7
    defined = set(re.findall(r"(--[a-z-]+):", page))
    for svg in drawn:
        used = set(re.findall(r"var\((--[a-z]+)\)", svg))
        assert "--ink" in used
        assert used <= defined
        # Nothing is painted in a colour that is lost on one of the two grounds.
        assert not re.search(r"(fill|stroke): (#|black|white)", svg)


def test_ids_are_unique_on_the_page_and_every_reference_finds_its_own() -> None:
    page = render(report()).decode()
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([\w.-]+)', page)) <= set(ids)


def test_the_same_figures_give_the_same_bytes() -> None:
    assert render(report()) == render(report())


@pytest.mark.parametrize("colour", ["red", "amber", "green"])
def test_the_verdict_has_its_colour(colour: str) -> None:
    assert f'<header class="{colour}">' in render(replace(report(), colour=colour)).decode()


def test_without_an_attack_of_its_own_a_run_claims_no_success_rate() -> None:
    page = render(report(attacked=False)).decode()
    assert "ASR" not in page
    assert "TPR" not in page
    assert "ASR" in render(report()).decode()


def test_figures_are_shown_in_per_cent_and_missing_ones_as_a_dash() -> None:
    page = render(report()).decode()
    assert "98.1 %" in page
    assert ">–</td>" in page  # noqa: RUF001 - the dash that the table shows


def test_caveats_and_what_was_checked_stand_on_the_page() -> None:
    page = render(replace(report("what was checked"), caveats=["one caveat", "another caveat"])).decode()
    for words in ("one caveat", "another caveat", "What limits this", "what was checked"):
        assert words in page
    assert "What limits this" not in render(replace(report(), caveats=[])).decode()
