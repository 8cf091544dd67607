"""The same run as processes and in the six images, side by side: its result, and what each way costs.

    python -m tests.docker.compare docs/results/containers.json [OPTIONS OF untaint run]   # needs `make images`
    python -m tests.docker.compare --render                               # writes the tables of docs/RESULTS.md

Both runs take the PyTorch of the images: another build computes other last bits, which training amplifies. With one
thread the sums have one order, so that two runs of the same build can be the same to the bit.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.common.runs.publish import find_manifest
from components.common.storage.store import Store
from pipelines.dag.training import image_of
from pipelines.images.build import content_tag, docker
from pipelines.local.run import opened_store
from tests.docker.base_image import BASE_IMAGE

__all__ = [
    "Finished",
    "cell_of",
    "differences",
    "manifests",
    "pytorch_of",
    "run_both",
    "same_arrays",
    "untaint",
    "write_cell",
]

ROOT = Path(__file__).parents[2]
CELL = ROOT / "docs" / "results" / "containers.json"
PAGE = ROOT / "docs" / "RESULTS.md"
START, END = "<!-- containers -->", "<!-- end of containers -->"
# The stages' names in the store; the undefended model is a second run of warmup's image.
RESULTS = ("truth", "ingest", "warmup", "control", "split", "unlearn", "finetune", "evaluate")
_PACKAGES = "/opt/venv/lib/python3.11/site-packages"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Finished:
    """A run that ended.

    Attributes:
        code: Exit code.
        said: Everything that it printed.
        seconds: Wall-clock time of the command.
    """

    code: int
    said: str
    seconds: float

    @property
    def table(self) -> list[str]:
        """The result as lines, one for each figure of the run's ``summary.json``; without times."""
        path = self.said.splitlines()[-1].removeprefix("summary: ")
        summary = json.loads(Path(path).read_text())
        figures = {"verdict": summary["verdict"], **summary["split"]}
        for model, found in summary["stages"].items():
            figures |= {f"{model} {name}": value for name, value in found.items()}
        return [f"{name}: {value}" for name, value in figures.items()]


def untaint(home: Path, *arguments: str, **variables: str) -> Finished:
    """Runs a command of this checkout, with one thread where nothing else is said."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli.main", *arguments],
        cwd=ROOT,
        env={"OMP_NUM_THREADS": "1", **os.environ, "UNTAINT_HOME": str(home), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return Finished(done.returncode, done.stdout, time.monotonic() - started)


def run_both(
    home: Path, images: tuple[str, str], packages: Path, options: Sequence[str], **variables: str
) -> tuple[Finished, Finished]:
    """The same run twice in one store: ``plain`` as processes, ``boxed`` in the images.

    Args:
        home: Folder of both runs, as ``UNTAINT_HOME``.
        images: Registry and tag.
        packages: Folder of ``pytorch_of``.
        options: Options of ``untaint run``.
        variables: Environment variables for both.
    """
    plain = untaint(home, "run", "--run-id", "plain", *options, PYTHONPATH=str(packages), **variables)
    registry, tag = images
    named = ("--run-id", "boxed", "--registry", registry, "--tag", tag)
    return plain, untaint(home, "run-docker", *named, *options, **variables)


def pytorch_of(images: tuple[str, str], folder: Path) -> Path:
    """Copies PyTorch out of the images, for processes of this machine; both have Python 3.11."""
    container = docker("create", image_of("warmup", *images), "true").strip()
    try:
        for name in ("torch", "torchgen", "functorch"):
            docker("cp", f"{container}:{_PACKAGES}/{name}", str(folder / name))
    finally:
        docker("rm", container)
    return folder


def manifests(home: Path, run_id: str) -> dict[str, Any]:
    """What the stages of a run published, by stage."""
    with _quiet(), opened_store("", home) as (root, _):
        store = Store(root)
        found = {stage: find_manifest(store, f"{root}/runs/{run_id}/{stage}") for stage in RESULTS}
    return {stage: manifest[2] for stage, manifest in found.items() if manifest is not None}


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    """By how much each figure of two runs differs, as ``stage.figure``; infinite where only one run has it."""
    found = {}
    for stage in ours.keys() | theirs.keys():
        one, other = (side[stage].metrics if stage in side else {} for side in (ours, theirs))
        for name in one.keys() | other.keys():
            both = name in one and name in other
            found[f"{stage}.{name}"] = abs(one[name] - other[name]) if both else float("inf")
    return found


def same_arrays(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, bool]:
    """Which checkpoints and arrays of two runs are the same bytes; tables also hold the runs' own digests."""
    return {
        f"{stage}.{name}": ref.sha256 == theirs[stage].objects[name].sha256
        for stage, manifest in ours.items()
        for name, ref in manifest.objects.items()
        if ref.kind in ("array", "checkpoint")
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    level = logging.getLogger("components").level
    logging.getLogger("components").setLevel(logging.WARNING)
    try:
        yield
    finally:
        logging.getLogger("components").setLevel(level)


def _side(done: Finished, published: dict[str, Any]) -> dict[str, Any]:
    last = published["evaluate"]
    return {
        "wall_seconds": round(done.seconds, 1),
        "metrics": last.metrics,
        "verdict": last.facts["verdict"],
        "stages": last.facts["stages"],
    }


def cell_of(home: Path, images: tuple[str, str], options: Sequence[str], runs: tuple[Finished, Finished]) -> Any:
    """What is kept of the two runs of ``run_both``, for docs/RESULTS.md; JSON values."""
    ours, theirs = manifests(home, "plain"), manifests(home, "boxed")
    said = docker(
        "run", "--rm", "--network", "none", image_of("warmup", *images), "python3", "-c",
        "import platform, torch; print(torch.__version__, platform.python_version(), platform.libc_ver()[1])",
    ).split()  # fmt: skip
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--abbrev=10", "--match="],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return {
        "options": list(options),
        "commit": commit.stdout.strip(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", "1")),
        "python": {"processes": platform.python_version(), "containers": said[1]},
        "c_library": {"processes": platform.libc_ver()[1], "containers": said[2]},
        "torch": said[0],
        "images_tag": images[1],
        "largest_difference": max(differences(ours, theirs).values()),
        "same_bytes": same_arrays(ours, theirs),
        "table": {"processes": runs[0].table, "containers": runs[1].table},
        "processes": _side(runs[0], ours),
        "containers": _side(runs[1], theirs),
    }


def write_cell(cell: Any, target: Path) -> None:
    """Writes a cell as JSON."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(cell, indent=1, sort_keys=True) + "\n")


def measure(target: Path, options: Sequence[str]) -> None:
    """Runs both ways and writes the cell ``target``."""
    from tests.docker.conftest import REGISTRY, options_for

    images = (REGISTRY, content_tag(options_for(BASE_IMAGE)))
    with tempfile.TemporaryDirectory(prefix="untaint-compare-") as folder:
        home, packages = Path(folder, "home"), Path(folder, "packages")
        packages.mkdir()
        runs = run_both(home, images, pytorch_of(images, packages), options)
        if runs[0].code or runs[1].code:
            raise SystemExit(f"{runs[0].said}\n{runs[1].said}")
        cell = cell_of(home, images, options, runs)
    write_cell(cell, target)
    sys.stdout.write("\n".join(_page(cell)) + "\n")


def _page(cell: dict[str, Any]) -> list[str]:
    """The Markdown of a cell."""
    sides = ("processes", "containers")
    lines = ["| | as processes | in the six images |", "| --- | --- | --- |"]
    for label, name, scale in (
        ("ACC %, defended", "acc", 100),
        ("ASR %, defended", "asr", 100),
        ("ACC %, undefended", "control_acc", 100),
        ("ASR %, undefended", "control_asr", 100),
        ("suspects", "suspects", 1),
        ("AUROC of suspicion", "auroc", 1),
    ):
        values = [cell[side]["metrics"].get(name) for side in sides]
        if None not in values:
            digits = {100: 2, 1: 0 if name == "suspects" else 4}[scale]
            lines.append(f"| {label} | " + " | ".join(f"{scale * value:.{digits}f}" for value in values) + " |")
    lines.append("| verdict | " + " | ".join(cell[side]["verdict"] for side in sides) + " |")
    stages = [{entry["stage"]: entry for entry in cell[side]["stages"]} for side in sides]
    for stage in stages[0]:
        pair = [entries[stage] for entries in stages]
        lines.append(
            f"| {stage}, seconds (overhead) | "
            + " | ".join(f"{entry['seconds']:.1f} ({entry['overhead_seconds']:.1f})" for entry in pair)
            + " |"
        )
    lines.append("| whole command, seconds | " + " | ".join(f"{cell[s]['wall_seconds']:.0f}" for s in sides) + " |")
    same, versions = cell["same_bytes"], [cell["python"], cell["c_library"]]
    python, library = (f"{found['processes']} and {found['containers']}" for found in versions)
    lines += [
        "",
        f"`untaint run {' '.join(cell['options'])}`",
        "",
        f"PyTorch {cell['torch']} in both, {cell['threads']} thread, Python {python}, C library {library}, commit "
        f"{cell['commit']}. Largest difference of any figure of any stage: {cell['largest_difference']:g}; "
        f"{sum(same.values())} of {len(same)} checkpoints and arrays are the same bytes.",
    ]
    return lines


def render() -> None:
    """Writes the section of docs/RESULTS.md from the committed cell."""
    head, mark, rest = PAGE.read_text().partition(START)
    if mark:
        PAGE.write_text(
            f"{head}{mark}\n" + "\n".join(_page(json.loads(CELL.read_text()))) + f"\n{END}{rest.partition(END)[2]}"
        )


if __name__ == "__main__":
    if sys.argv[1:] == ["--render"]:
        render()
    else:
        measure(Path(sys.argv[1]), sys.argv[2:])
