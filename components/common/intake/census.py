"""What becomes of each class of a drop, and whether its images differ at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from components.common.contracts.errors import DataError
from components.common.datasets.base import MIN_CLASS_SAMPLES
from components.common.intake.catalogue import Catalogue, ClassLoss
from components.common.intake.sources import printable
from components.common.intake.workers import COARSE

__all__ = ["Census", "ClassCount"]

_LEAST_SPREAD = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassCount:
    """Rows and files of one class.

    Attributes:
        name: The class.
        train: Training rows.
        holdout: Holdout rows.
        rejected: Rows that are rejected.
        passed: Files that are passed over.
    """

    name: str
    train: int
    holdout: int
    rejected: int
    passed: int


class Census:
    """Counts by class; its size follows the number of classes alone.

    Args:
        catalogues: The drop, and its holdout if that is a drop of its own.
        names: The classes.
    """

    def __init__(self, catalogues: Sequence[Catalogue], names: Sequence[str]) -> None:
        self._names = names
        self._rejected = np.zeros(len(names), np.int64)
        self._passed = np.zeros(len(names), np.int64)
        self._seen = np.zeros(len(names), np.int64)
        self._sums = np.zeros((len(names), COARSE * COARSE))
        self._squares = np.zeros((len(names), COARSE * COARSE))
        self._empty: dict[str, ClassLoss] = {}
        for name, loss in (item for catalogue in catalogues for item in catalogue.losses.items()):
            known = self._empty.get(name, ClassLoss())
            self._empty[name] = ClassLoss(known.rejected + loss.rejected, known.passed + loss.passed)
        for position, name in enumerate(names):
            lost = self._empty.pop(name, ClassLoss())
            self._rejected[position], self._passed[position] = lost.rejected, lost.passed

    def lose(self, labels: npt.NDArray[np.int32]) -> None:
        """Rows of these classes are rejected."""
        self._rejected += np.bincount(labels, minlength=len(self._names))

    def pass_over(self, labels: npt.NDArray[np.int32]) -> None:
        """Rows of these classes turn out to be no images."""
        self._passed += np.bincount(labels, minlength=len(self._names))

    def see(self, labels: npt.NDArray[np.int32], coarse: npt.NDArray[np.uint8]) -> None:
        """Takes in the coarse images, uint8 [n, 64], of some classes, int32 [n]."""
        values = coarse.astype(np.float64)
        np.add.at(self._seen, labels, 1)
        np.add.at(self._sums, labels, values)
        np.add.at(self._squares, labels, values**2)

    def counts(self, labels: npt.NDArray[np.int32], holdout: npt.NDArray[np.bool_]) -> list[ClassCount]:
        """What became of every class, those that lost all at the end.

        Args:
            labels: int32 [n], the classes of what is left.
            holdout: bool [n], which of it is held out.
        """
        held = np.bincount(labels[holdout], minlength=len(self._names)).tolist()
        train = np.bincount(labels[~holdout], minlength=len(self._names)).tolist()
        rows = zip(self._names, train, held, self._rejected.tolist(), self._passed.tolist(), strict=True)
        found = [
            ClassCount(name=name, train=n_train, holdout=n_held, rejected=rejected, passed=passed)
            for name, n_train, n_held, rejected, passed in rows
        ]
        return found + [
            ClassCount(name=name, train=0, holdout=0, rejected=loss.rejected, passed=loss.passed)
            for name, loss in sorted(self._empty.items())
        ]

    def check(self, counts: Sequence[ClassCount], subject: str) -> None:
        """Checks that every class that the drop names has something left, and images that differ.

        Raises:
            DataError: A class has not.
        """
        lost = [count for count in counts if not count.train and not count.holdout]
        if lost:
            shown = ", ".join(
                f"{printable(one.name, 60)} ({one.rejected} rejected, {one.passed} passed over)" for one in lost[:5]
            )
            raise DataError(
                f"{subject}, classes",
                expected="an image in each class",
                found=f"none in {shown}" + (", …" if len(lost) > 5 else ""),
                hint="Mend what the check lists of it, or move the class away.",
            )
        many = self._seen >= MIN_CLASS_SAMPLES
        seen = np.maximum(self._seen, 1)[:, None]
        variance = np.maximum(self._squares / seen - (self._sums / seen) ** 2, 0.0)
        alike = np.flatnonzero(many & (np.sqrt(variance).mean(axis=1) < _LEAST_SPREAD))
        if len(alike):
            shown = ", ".join(printable(self._names[position], 60) for position in alike[:5].tolist())
            raise DataError(
                f"{subject}, images",
                expected=f"images that differ in each class, by {_LEAST_SPREAD:g} grey level and more on average",
                found=f"nearly the same image throughout {shown}" + (", …" if len(alike) > 5 else ""),
                hint="Check how the files were written; leave the class out if that is what it holds.",
            )
