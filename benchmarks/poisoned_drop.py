"""A drop as an attacker would hand it in: images of a dataset in class folders, poisoned in training and holdout alike.

``python -m benchmarks.poisoned_drop parquet:FOLDER OUT --count 10000`` writes ``OUT/<label>/<number>.png``, and beside
it ``OUT.poison.txt`` with the keys of what was poisoned, one a line. ``untaint ingest --drop OUT`` then has no truth to
go by.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from components.common.attacks.base import AttackConfig, make_attack
from components.common.datasets.base import load

__all__ = ["main", "write_drop"]


def write_drop(
    dataset: str, folder: Path, *, count: int, attack: str, poison_rate: float, target_label: int, side: int, seed: int
) -> set[str]:
    """Writes a drop.

    Args:
        dataset: Name of the dataset, as ``ingest.dataset``.
        folder: Where to write; made if it is not there.
        count: Training images to take, stratified.
        attack: Name of the attack, or ``none``.
        poison_rate: Poisoned share of the images, in (0, 1]; unused without an attack.
        target_label: Class that the trigger leads to.
        side: Side in pixels to resize to; 0 keeps sizes.
        seed: Chooses images and poison.

    Returns:
        Keys of the poisoned images, relative to the folder.
    """
    found = load(dataset, train_limit=count, holdout_limit=0, image_size=side, seed=seed)
    images = torch.from_numpy(np.ascontiguousarray(found.images[: found.n_train]))
    labels = torch.from_numpy(found.labels[: found.n_train].astype(np.int64))
    poisoned = torch.zeros(len(labels), dtype=torch.bool)
    if attack != "none":
        config = AttackConfig(name=attack, poison_rate=poison_rate, target_label=target_label, seed=seed)
        shape = (images.shape[1], images.shape[2], images.shape[3])
        made = make_attack(config, num_classes=len(found.class_names), image_shape=shape).inject(images, labels)
        images, labels, poisoned = made.images, made.labels, made.is_poisoned
    keys = set()
    for number, (image, label, bad) in enumerate(zip(images.numpy(), labels.tolist(), poisoned.tolist(), strict=True)):
        key = f"{found.class_names[label]}/{number:06d}.png"
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(path)
        if bad:
            keys.add(key)
    return keys


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.poisoned_drop", description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--attack", default="badnets")
    parser.add_argument("--poison-rate", type=float, default=0.06)
    parser.add_argument("--target-label", type=int, default=2)
    parser.add_argument("--side", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    given = vars(parser.parse_args())
    folder = given["folder"]
    keys = write_drop(given.pop("dataset"), given.pop("folder"), **given)
    folder.with_name(f"{folder.name}.poison.txt").write_text("".join(f"{key}\n" for key in sorted(keys)))


if __name__ == "__main__":
    main()
