"""Matrices of cells: read from YAML, filtered, and each cell with its settings, their digest and its place."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from importlib import import_module
from pathlib import Path
from string import Template
from typing import Any

import yaml

from benchmarks.cells import measured, name_of
from components.common.contracts.errors import ConfigError
from components.common.runs.artifacts import digest_of
from pipelines.dag.settings import apply_settings, check_parameters, default_parameters, stage_configs

__all__ = ["MATRICES", "METHODS", "AttackCase", "Cell", "Matrix", "load_matrix", "parse_filter", "selected"]

MATRICES = Path(__file__).parent / "matrices"
METHODS = ("undefended", "oracle", "untaint", "abl", "spectral")
"""``untaint`` is the pipeline; the others are files of ``benchmarks/comparators``."""
_FILTERS = ("attack", "seed", "method")


@dataclass(frozen=True, kw_only=True)
class AttackCase:
    """An attack of a matrix; ``poison_rate`` 0 and ``none`` belong together; ``options`` as in ``IngestConfig``."""

    name: str
    poison_rate: float = 0.0
    target_label: int = 0
    cover_rate: float = -1.0
    options: str = ""

    def __post_init__(self) -> None:
        """Takes whole numbers, as YAML has them, for rates: cells are named by them."""
        for name in ("poison_rate", "cover_rate"):
            object.__setattr__(self, name, float(getattr(self, name)))


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """What a benchmark runs; the fields are those of the YAML file, ``settings`` being its ``set``."""

    name: str
    dataset: str
    model: str
    attacks: tuple[AttackCase, ...]
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    dataset_label: str = ""
    train_limit: int = 0
    holdout_limit: int = 0
    settings: tuple[str, ...] = ()

    def parameters(self, attack: AttackCase, seed: int) -> dict[str, Any]:
        """The pipeline's parameters of one cell, checked.

        Raises:
            ConfigError: A setting that no stage takes, or a variable of the dataset's name that is not set.
        """
        given = {
            **default_parameters(),
            "dataset": self._dataset(),
            "train_limit": self.train_limit,
            "model": self.model,
            "attack": attack.name,
            "target_label": attack.target_label,
            "seed": seed,
        }
        if attack.name != "none":
            given["poison_rate"] = attack.poison_rate
        own = [f"ingest.holdout_limit={self.holdout_limit}", f"ingest.cover_rate={attack.cover_rate}"]
        if attack.options:
            own.append(f"ingest.attack_options={attack.options}")
        parameters = apply_settings(given, [*own, *self.settings])
        check_parameters(parameters)
        return parameters

    def _dataset(self) -> str:
        try:
            return Template(self.dataset).substitute(os.environ)
        except (KeyError, ValueError) as problem:
            raise ConfigError(
                f"matrix {self.name}, dataset '{self.dataset}'",
                expected="every variable in it set",
                found=f"{problem} is not",
                hint="Set it to the folder of the data, as in UNTAINT_TEST_CIFAR10=/data/cifar10 make bench.",
            ) from None


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One method on one poisoned dataset."""

    matrix: Matrix
    attack: AttackCase
    seed: int
    method: str

    @property
    def name(self) -> str:
        """Its name among the measured cells of its matrix."""
        return name_of(
            {
                "dataset": self.matrix.dataset_label or self.matrix.dataset,
                "attack": self.attack.name,
                "poison_rate": self.attack.poison_rate,
                "seed": self.seed,
                "method": self.method,
            }
        )

    def measured(self) -> dict[str, Any] | None:
        """Its figures, or None if it was not measured."""
        return measured(self.matrix.name, self.name)

    def digest(self) -> str:
        """Hex sha256 over every setting that its figures depend on, defaults included, the code excluded."""
        configs = {
            stage: config.model_dump()
            for stage, config in stage_configs(self.matrix.parameters(self.attack, self.seed)).items()
        }
        if not configs["ingest"]["attack_options"]:
            # What was measured before attacks could be given options was measured without any.
            del configs["ingest"]["attack_options"]
        configs["ingest"]["dataset"] = self.matrix.dataset_label or self.matrix.dataset
        control = configs.pop("control")
        if self.method == "untaint":
            return digest_of(configs)
        settings = import_module(f"benchmarks.comparators.{self.method}").SETTINGS
        return digest_of({"ingest": configs["ingest"], "control": control, self.method: asdict(settings)})

    def state(self) -> str:
        """``measured``, ``stale`` (measured with other settings) or ``missing``."""
        figures = self.measured()
        if figures is None:
            return "missing"
        return "measured" if figures.get("config_digest") == self.digest() else "stale"


def load_matrix(path: Path) -> Matrix:
    """Reads a matrix.

    Args:
        path: The YAML file.

    Raises:
        ConfigError: It is not there or says what no matrix says.
    """
    try:
        written = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as problem:
        raise _bad(path, "a matrix in YAML", f"{type(problem).__name__}: {problem}") from None
    if not isinstance(written, Mapping):
        raise _bad(path, "a mapping", type(written).__name__)
    given = {"settings" if key == "set" else key: value for key, value in written.items()}
    _names(path, "a matrix", given, Matrix)
    for key in ("attacks", "seeds", "methods", "settings"):
        if not isinstance(given.get(key, []), list):
            raise _bad(path, f"a list under {key}", repr(given[key]))
    for attack in given["attacks"]:
        _names(path, "an attack", attack, AttackCase)
        if (attack["name"] == "none") != (not attack.get("poison_rate")):
            raise _bad(path, f"a poison_rate above 0 for '{attack['name']}', and none for 'none'", repr(attack))
    cases = Counter((attack["name"], attack.get("poison_rate")) for attack in given["attacks"])
    twice = [f"{name} at {rate}" for (name, rate), count in cases.items() if count > 1]
    if twice:
        raise _bad(path, "every attack once at a rate, for that names its cells", ", ".join(twice))
    unknown = [method for method in given["methods"] if method not in METHODS]
    if unknown:
        raise _bad(path, f"methods of {', '.join(METHODS)}", ", ".join(map(repr, unknown)))
    lists = {key: tuple(given.get(key, ())) for key in ("seeds", "methods", "settings")}
    return Matrix(**{**given, **lists, "attacks": tuple(AttackCase(**attack) for attack in given["attacks"])})


def parse_filter(texts: Iterable[str]) -> dict[str, set[str]]:
    """Reads ``attack=badnets,wanet,seed=30``: per key the values that are wanted.

    Raises:
        ConfigError: Another form, or another key than attack, seed and method.
    """
    wanted: dict[str, set[str]] = {}
    key = ""
    for part in itertools.chain.from_iterable(text.split(",") for text in texts if text):
        name, equals, value = part.rpartition("=")
        key = name if equals else key
        if key not in _FILTERS or not value:
            raise ConfigError(
                f"filter '{part}'",
                expected=f"key=value with a key of {', '.join(_FILTERS)}",
                found="another form",
                hint="Write it like attack=badnets,wanet,seed=30.",
            )
        wanted.setdefault(key, set()).add(value)
    return wanted


def selected(matrix: Matrix, wanted: Mapping[str, set[str]]) -> Iterator[Cell]:
    """The matrix's cells that a filter lets through, seed by seed, so that an interrupted benchmark has whole seeds.

    Raises:
        ConfigError: A value that the matrix does not have.
    """
    known = {
        "attack": [attack.name for attack in matrix.attacks],
        "seed": [str(seed) for seed in matrix.seeds],
        "method": list(matrix.methods),
    }
    for key, values in wanted.items():
        if not values <= set(known[key]):
            raise ConfigError(
                f"filter {key}={','.join(sorted(values))}",
                expected=f"values of {', '.join(known[key])}",
                found=", ".join(sorted(values - set(known[key]))),
                hint=f"Choose what matrix {matrix.name} has.",
            )
    for seed, attack, method in itertools.product(matrix.seeds, matrix.attacks, matrix.methods):
        cell = {"attack": attack.name, "seed": str(seed), "method": method}
        if all(cell[key] in values for key, values in wanted.items()):
            yield Cell(matrix=matrix, attack=attack, seed=seed, method=method)


def _names(path: Path, what: str, given: Any, kind: type[Any]) -> None:
    known = {field.name: field for field in fields(kind)}
    shown = ", ".join("set" if name == "settings" else name for name in known)
    if not isinstance(given, Mapping) or not set(given) <= set(known):
        raise _bad(path, f"{what} with keys of {shown}", repr(given))
    missing = [name for name, field in known.items() if field.default is MISSING and name not in given]
    if missing:
        raise _bad(path, f"{what} with {', '.join(missing)}", repr(given))


def _bad(path: Path, expected: str, found: str) -> ConfigError:
    return ConfigError(str(path), expected=expected, found=found[:300], hint="Look at benchmarks/matrices/.")
