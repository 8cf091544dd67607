"""Whether there is anything to learn from training rows: checked once, before hours are spent on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from components.common.contracts.errors import ConfigError, DataError
from components.common.datasets.base import check_class_sizes

__all__ = ["check_labels_left", "check_learnable"]


def check_learnable(
    images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int16], class_names: Sequence[str], subject: str
) -> None:
    """Checks training rows as delivered.

    Args:
        images: uint8 [n, c, h, w].
        labels: int16 [n], 0 to len(class_names) - 1.
        class_names: Names of the classes.
        subject: The dataset, for the message.

    Raises:
        DataError: A class with fewer than ``MIN_CLASS_SAMPLES`` samples, or all images are one and the same.
    """
    hint = "Add samples, leave the class out, or raise train_limit."
    check_class_sizes(labels, [f"'{name}'" for name in class_names], subject, hint)
    # Stops at the first that differs, so it costs nothing where it finds nothing.
    if not any(not np.array_equal(images[0], image) for image in images[1:]):
        raise DataError(
            f"{subject}, training samples",
            expected="images that differ",
            found=f"{len(images)} times the same image",
            hint="Check how the files were written.",
        )


def check_labels_left(labels: npt.NDArray[np.int16], poison_rate: float) -> None:
    """Checks that an injected attack left a classification problem.

    Args:
        labels: int16 [n], training labels after the attack.
        poison_rate: What was asked for, for the message.

    Raises:
        ConfigError: One label is left, as of an attack on every sample of the other classes.
    """
    if len(np.unique(labels)) < 2:
        raise ConfigError(
            "poison_rate",
            expected="samples of at least two labels after the attack",
            found=f"{poison_rate}, which leaves one label",
            hint="Lower the rate: nothing tells such data from those of one class.",
        )
