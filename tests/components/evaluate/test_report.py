"""The report is one page that shows hostile text as text."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from components.evaluate.report import Report, SuspectRow, picture, render

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


def report(text: str = "plain") -> Report:
    suspect = SuspectRow(
        sample_id=7,
        label=text,
        predicted=text,
        suspicion=0.5,
        reasons=[text],
        picture=picture(np.zeros((1, 4, 4), dtype=np.uint8)),
        uri=text,
    )
    probe = {
        "signal": text,
        "label": text,
        "forget_set": 1,
        "forget_confidence": 0.1,
        "retain_accuracy": 0.9,
        "retain_loss_increase": 0.0,
        "accepted": True,
    }
    return Report(
        run_id=text,
        dataset=text,
        verdict=text,
        models={text: {"acc": 0.981, "asr": None}},
        found={text: 0.5},
        attack={"name": text, "poison_rate": 0.1, "target_label": text},
        probes=[probe],
        stages=[{"stage": text, "seconds": 1.0, "train_seconds": 0.5, "peak_mib": 100.0}],
        suspects=[suspect],
        counts={text: 1},
        settings={text: {text: text}},
    )


def test_no_text_from_data_becomes_markup() -> None:
    page = render(report(EVIL)).decode()
    assert "<script" not in page
    assert "<img src=x" not in page
    assert page.count("&lt;script&gt;") >= 12


def test_the_page_loads_nothing_and_needs_no_script() -> None:
    page = render(report()).decode()
    assert not re.search(r"(https?:)?//[a-z]", page.replace("s3://", ""))
    assert "javascript" not in page.lower()
    assert len(page) < 2_000_000


def test_a_canary_is_told_with_what_it_does_not_show() -> None:
    planted = {"planted": 40, "label": EVIL, "caught": 0.975, "fired": 0.003}
    page = render(replace(report(), canary=planted)).decode()
    for words in ("on 40 training samples", "97.5 % of them", "0.3 % for", "This trigger was tested, no other"):
        assert words in page
    assert "<script" not in page
    assert "Canary" not in render(report()).decode()


def test_without_an_attack_of_its_own_a_run_claims_no_success_rate() -> None:
    assert "ASR" not in render(replace(report(), attack={})).decode()
    assert "ASR" in render(report()).decode()


def test_figures_are_shown_in_per_cent_and_missing_ones_as_a_dash() -> None:
    page = render(report()).decode()
    assert "98.1 %" in page
    assert ">–</td>" in page  # noqa: RUF001 - the dash that the table shows


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_a_png_of_the_same_pixels(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (channels, 5, 6), dtype=np.uint8)
    head, _, data = picture(pixels).partition(",")
    assert head == "data:image/png;base64"
    back = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert np.array_equal(back, pixels[0] if channels == 1 else pixels.transpose(1, 2, 0))
