"""From a drop's catalogue to training and holdout rows: subsets, limits, what is rejected and when that is too much."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from components.common.contracts.errors import ConfigError, DataError
from components.common.datasets.base import (
    MIN_SIDE,
    check_class_sizes,
    check_classes,
    stratified_rows,
)
from components.common.intake.catalogue import Catalogue
from components.common.intake.census import Census, ClassCount
from components.common.intake.listing import PassedOver, Rejected
from components.common.intake.names import claims_image
from components.common.intake.pixels import Drafts
from components.common.intake.result import Drop, DropOptions
from components.common.intake.sources import printable
from components.common.intake.workers import decode_all

__all__ = ["Rows", "holdout_share"]

_DEFAULT_HOLDOUT = 0.2


def holdout_share(holdout: str) -> float | None:
    """The share that a text names, 0 if it is empty, or None if it names a drop.

    Raises:
        ConfigError: A number that is no share.
    """
    if not holdout:
        return 0.0
    try:
        share = float(holdout)
    except ValueError:
        return None
    if not 0.0 < share < 1.0:
        raise ConfigError(
            "holdout", expected="a share in (0, 1), or the address of a drop", found=holdout, hint="0.2 is usual."
        )
    return share


class Rows:
    """The rows of a drop on their way from its catalogue to the training set.

    Attributes:
        options: How the drop is read.
        rejected: What is left out so far.
        rejected_rows: How many rows that are.
        passed: What is passed over so far.
        references: Number of images that rows can refer to.
        seen: Rows after limits, good and bad.

    Args:
        catalogues: The drop, and its holdout if that is a drop of its own.
        location: The drop's address, for messages.
        options: How the drop is read.
    """

    def __init__(self, catalogues: list[Catalogue], location: str, options: DropOptions) -> None:
        first, *others = catalogues
        self._catalogues = catalogues
        self._location = location
        self.options = options
        self._names = first.class_names
        self._refs, self._labels = first.row_ref, first.labels
        self._holdout = np.zeros(len(self._refs), dtype=bool)
        self.rejected = [entry for catalogue in catalogues for entry in catalogue.rejected]
        self.rejected_rows = sum(catalogue.rejected_rows for catalogue in catalogues)
        self.passed = PassedOver()
        for catalogue in catalogues:
            self.passed.counts.update(catalogue.passed.counts)
            self.passed.named += catalogue.passed.named
        self._census = Census(catalogues, self._names)
        self.seen = 0
        self.references = sum(catalogue.references for catalogue in catalogues)
        for other in others:
            self._append(other)

    def _append(self, other: Catalogue) -> None:
        place = {name: position for position, name in enumerate(self._names)}
        labels = np.array([place.get(name, -1) for name in other.class_names] or [-1], np.int32)[other.labels]
        refs = other.row_ref + np.int32(self._catalogues[0].references)
        unknown = labels < 0
        for key in other.key_array(np.unique(other.row_ref[unknown])).to_pylist():
            self._reject(key, "no_label", "a class that no training sample has", 0)
        self.rejected_rows += int(unknown.sum())
        self._refs = np.concatenate([self._refs, refs[~unknown]])
        self._labels = np.concatenate([self._labels, labels[~unknown]])
        self._holdout = np.concatenate([self._holdout, np.ones(int((~unknown).sum()), dtype=bool)])

    def divide(self, share: float | None) -> None:
        """Chooses the holdout: a second drop, a share, what the drop itself says, or else a fifth."""
        given = self._catalogues[0].holdout
        if share is None:
            if given is not None and given.any():
                self._pass_own_holdout(np.flatnonzero(given))
            return
        if share == 0.0 and given is not None and given.any():
            self._holdout = given.astype(bool)
            return
        keys = self._catalogues[0].key_array(np.arange(self.references, dtype=np.int32))
        # By a digest of the key: a sample stays on its side when the drop grows, and copies of a row stay together.
        order = np.fromiter(
            (int.from_bytes(hashlib.sha256(key.as_py().encode()).digest()[:8], "big") for key in keys),
            dtype=np.uint64,
            count=len(keys),
        )[self._refs]
        by_label = np.argsort(self._labels, kind="stable")
        for mine in np.split(by_label, np.searchsorted(self._labels[by_label], np.arange(1, len(self._names)))):
            if not len(mine):
                continue
            ranked = np.sort(order[mine])
            wanted = max(1, round((share or _DEFAULT_HOLDOUT) * len(mine)))
            chosen = order[mine] <= ranked[min(wanted, len(mine)) - 1]
            self._holdout[mine] = chosen if not chosen.all() else order[mine] < ranked[-1]

    def _pass_own_holdout(self, rows: npt.NDArray[np.int64]) -> None:
        """Neither trained on nor measured with: another holdout was asked for."""
        first = self._catalogues[0]
        keys = first.key_array(self._refs[rows])
        self.passed.add_all(keys, "own_holdout", "held out by the drop itself; --holdout names another holdout")
        self._census.pass_over(self._labels[rows])
        kept = np.ones(len(self._refs), dtype=bool)
        kept[rows] = False
        self._take(np.flatnonzero(kept))

    def limit(self) -> None:
        """Applies the limits, so that only chosen images are read."""
        kept = []
        for holdout, limit, name in (
            (False, self.options.train_limit, "train_limit"),
            (True, self.options.holdout_limit, "holdout_limit"),
        ):
            rows = np.flatnonzero(self._holdout == holdout)
            kept.append(rows[stratified_rows(self._labels[rows], limit, self.options.seed, name)])
        # Training rows first, each part in the order of the drop.
        self._take(np.concatenate(kept))
        self.seen = len(self._refs) + self.rejected_rows

    def decode(self, drafts: Drafts, scratch: Path) -> None:
        """Reads the chosen images, and ends early once too many of them are bad."""
        self.check_ratio()
        weight = np.bincount(self._refs, minlength=self.references)
        label_of = np.zeros(self.references, dtype=np.int32)
        label_of[self._refs] = self._labels
        no_image = np.zeros(self.references, dtype=bool)
        start = 0
        for catalogue in self._catalogues:
            stop = start + catalogue.references
            refs = (np.flatnonzero(weight[start:stop])).astype(np.int32)
            for found in decode_all(catalogue, refs, scratch, self.options.image_size):
                drafts.add(found, start)
                self._census.see(label_of[start + found.refs], found.coarse)
                bad = found.refs[list(found.problems)]
                keys = catalogue.key_array(bad).to_pylist()
                rows = weight[start + bad].tolist()
                for ref, key, count, (reason, detail) in zip(
                    bad.tolist(), keys, rows, found.problems.values(), strict=True
                ):
                    if reason == "format" and catalogue.form == "folders" and not claims_image(key):
                        self.passed.add(key, "other", detail)
                        self.seen -= count
                        no_image[start + ref] = True
                    else:
                        self._reject(key, reason, detail, count)
                self.check_ratio()
            start = stop
        lost = drafts.shapes[self._refs, 0] == 0
        self._census.pass_over(self._labels[lost & no_image[self._refs]])
        self._census.lose(self._labels[lost & ~no_image[self._refs]])
        self._take(np.flatnonzero(~lost))

    def judge(self, drafts: Drafts) -> None:
        """What only shows when all images are known: sizes, contradicting labels, holdout images in training."""
        self._same_size(drafts)
        if not len(self._refs):
            return
        used, position = np.unique(self._refs, return_inverse=True)
        # By pixels, for a file can be written again without changing what it shows.
        image_of = np.unique(_void(drafts.looks[used]), return_inverse=True)[1][position]
        images = int(image_of.max()) + 1
        lowest, highest = np.full(images, 2**31 - 1, np.int32), np.full(images, -1, np.int32)
        np.minimum.at(lowest, image_of, self._labels)
        np.maximum.at(highest, image_of, self._labels)
        contradicts = (lowest < highest)[image_of]
        in_training = np.zeros(images, dtype=bool)
        in_training[image_of[~self._holdout]] = True
        copied = in_training[image_of] & self._holdout & ~contradicts
        if self.options.as_published:
            copied[:] = False
        for row, key, count in self._mentions(np.flatnonzero(contradicts)):
            names = f"{self._names[lowest[image_of[row]]]} and {self._names[highest[image_of[row]]]}"
            self._reject(key, "label_conflict", f"labelled {self._names[self._labels[row]]}; seen: {names}", count)
        for _, key, _ in self._mentions(np.flatnonzero(copied)):
            # Not held against the drop: training is none the worse for it.
            self._reject(key, "in_training", "the training copy stays", 0)
        self._census.lose(self._labels[contradicts | copied])
        self._take(np.flatnonzero(~contradicts & ~copied))
        self.check_ratio()

    def counts(self) -> list[ClassCount]:
        """What became of each class so far."""
        return self._census.counts(self._labels, self._holdout)

    def settle(self, drafts: Drafts) -> Drop:
        """The drop as training sees it.

        Raises:
            DataError: Nothing to train on, or to measure with.
        """
        subject = f"drop {self._location}"
        n_train = int((~self._holdout).sum())
        shapes = drafts.shapes[self._refs]
        if len(shapes) and min(shapes[0, 1:].tolist()) < MIN_SIDE:
            raise DataError(
                f"{subject}, images",
                expected=f"a side of at least {MIN_SIDE} pixels, which every model needs",
                found=f"{shapes[0, 2]}x{shapes[0, 1]}",
                hint="Set --image-size 32 to enlarge them.",
            )
        counts = self.counts()
        self._census.check(counts, subject)
        names = [printable(name, 60) for name in self._names]
        check_classes(self._labels[:n_train], names, subject)
        hint = "Add samples, or leave the class out. A sample more goes to the holdout."
        check_class_sizes(self._labels[:n_train], names, subject, hint)
        hint = "Copies teach nothing new: add images, or leave the class out."
        check_class_sizes(self._different(drafts, n_train), names, f"{subject}, images that differ", hint)
        if n_train == len(self._labels):
            raise DataError(
                f"{subject}, holdout",
                expected="at least one sample that is not trained on",
                found="none" + (": all are copies of training samples" if "in_training" in self._reasons() else ""),
                hint="Name a holdout drop or a share with holdout.",
            )
        return Drop(
            form=self._catalogues[0].form,
            reading=[catalogue.reading for catalogue in self._catalogues],
            class_names=tuple(self._names),
            shape=(int(shapes[:, 0].max()), int(shapes[0, 1]), int(shapes[0, 2])),
            n_train=n_train,
            labels=self._labels.astype(np.int16),
            classes=counts,
            rejected=self.rejected,
            rejected_rows=self.rejected_rows,
            passed=self.passed,
            rows_seen=self.seen,
            _catalogues=self._catalogues,
            _refs=self._refs,
            _drafts=drafts,
        )

    def _different(self, drafts: Drafts, n_train: int) -> npt.NDArray[np.int64]:
        """The labels of training images that differ in their pixels, each image once."""
        used, position = np.unique(self._refs[:n_train], return_inverse=True)
        images = np.unique(_void(drafts.looks[used]), return_inverse=True)[1]
        # After contradictions are gone, an image has one label.
        label_of = np.zeros(int(images.max()) + 1, dtype=np.int64)
        label_of[images[position]] = self._labels[:n_train]
        return label_of

    def _same_size(self, drafts: Drafts) -> None:
        sides = drafts.shapes[self._refs, 1:].astype(np.int64)
        if not len(sides):
            return
        code = sides[:, 0] * 65_536 + sides[:, 1]
        sizes, counts = np.unique(code, return_counts=True)
        usual = int(sizes[np.argmax(counts)])
        wanted = f"{usual % 65_536}x{usual // 65_536}"
        for row, key, count in self._mentions(np.flatnonzero(code != usual)):
            detail = f"{sides[row, 1]}x{sides[row, 0]} instead of {wanted}; --image-size makes all images one size"
            self._reject(key, "other_size", detail, count)
        self._census.lose(self._labels[code != usual])
        self._take(np.flatnonzero(code == usual))
        self.check_ratio()

    def _take(self, rows: npt.NDArray[np.int64]) -> None:
        self._refs, self._labels, self._holdout = self._refs[rows], self._labels[rows], self._holdout[rows]

    def _mentions(self, rows: npt.NDArray[np.int64]) -> Iterator[tuple[int, str, int]]:
        """Every different pair of image and label among some rows: one of its rows, its key, how many rows it has.

        A list can repeat a pair millions of times, which no entry for each of them would survive.
        """
        pairs = self._refs[rows].astype(np.int64) << 32 | self._labels[rows]
        _, chosen, counts = np.unique(pairs, return_index=True, return_counts=True)
        refs, first = self._refs[rows[chosen]], self._catalogues[0]
        keys = first.key_array(refs[refs < first.references]).to_pylist()
        for other in self._catalogues[1:]:
            keys += other.key_array(refs[refs >= first.references] - first.references).to_pylist()
        return zip(rows[chosen].tolist(), keys, counts.tolist(), strict=True)

    def _reject(self, key: str, reason: str, detail: str, rows: int) -> None:
        self.rejected.append(Rejected(printable(key), reason, printable(detail)))
        self.rejected_rows += rows

    def _reasons(self) -> Counter[str]:
        return Counter(entry.reason for entry in self.rejected)

    def check_ratio(self) -> None:
        """Ends the drop once too large a share of it is rejected.

        Raises:
            DataError: It is.
        """
        limit = self.options.max_rejected_ratio
        files = sum(catalogue.files for catalogue in self._catalogues)
        bad_files = sum(catalogue.bad_files for catalogue in self._catalogues)
        # A shard that cannot be read does not tell how many samples it would have had.
        if self.rejected_rows <= limit * self.seen and bad_files <= limit * max(files, bad_files and 1):
            return
        reasons = ", ".join(f"{reason} {count}" for reason, count in self._reasons().most_common())
        example = self.rejected[-1]
        raise DataError(
            f"drop {self._location}",
            expected=f"at most {limit:.1%} of its samples rejected (max_rejected_ratio)",
            found=f"{self.rejected_rows} of {self.seen} rows ({reasons}), the last of them {example.key}: "
            f"{example.detail}",
            hint="`untaint ingest --only-check --drop …` lists them all.",
        )


def _void(digests: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """Digests, uint8 [n, bytes], as values that can be compared whole."""
    return np.ascontiguousarray(digests).view(f"V{digests.shape[1]}").reshape(-1)
