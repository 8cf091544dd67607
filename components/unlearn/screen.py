"""Which classes hold samples of other classes, by how they compare with the other classes of the same model.

Clean samples of a class look like other classes too, but like the few that resemble theirs. So what counts of a class
is the lower quartile, over all other classes, of how many of its samples pass for their members. Bounds are relative:
a weak model lets samples of every class pass, and labels that are wrong throughout make all classes look alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

from components.unlearn.context import Context

__all__ = ["DISBELIEVED", "passing_shares", "quartile_of", "screen"]

# Quartile above which a class is inconsistent, at least, and how far it must exceed the median class's: .020 to .049
# where labels of a class were changed, .000 to .004 elsewhere on well-learned data; with a weak model 2.7 to 2.8 times
# the median, at most 1.9 times on clean data (docs/LOG.md).
_LEAST, _FACTOR = 0.01, 2.5
DISBELIEVED = 0.2
"""Probability of the given label, as a share of chance, below which the model says that the label is wrong. With 10 %
of the labels replaced precision 1.00 and .86, recall .71 and .24 among those whose neighbours agree (digits, CIFAR-10
at 16 pixels); with half of chance .99 and .66, .88 and .43 (docs/LOG.md)."""
# Fewer that pass for members of a class are none: of small classes one or two are a share that says nothing.
_FEWEST_PASSING = 3


def screen(context: Context) -> None:
    """Fills ``context.inconsistent`` and ``context.noisy``."""
    disbelieved = context.before.given_probability < DISBELIEVED / context.logits.shape[1]
    shares = sorted(float(disbelieved[rows].float().mean()) for rows in context.members.values())
    # An attack towards a label leaves the other classes as they are; carelessness spares none.
    context.noisy = shares[(len(shares) - 1) // 4] > _LEAST
    quartiles = {}
    for done, label in enumerate(context.unlearnable(), start=1):
        quartiles[label] = quartile_of(context, label)
        context.asked(done, figures={})
    if not quartiles:
        return
    bound = max(_LEAST, _FACTOR * float(torch.tensor(list(quartiles.values())).median()))
    context.inconsistent = {label: context.unlearned(label) for label in quartiles if quartiles[label] > bound}


def quartile_of(context: Context, label: int) -> float:
    """Lower quartile, over the other classes, of how many samples of a label pass for their members."""
    sizes = torch.bincount(context.labels, minlength=context.logits.shape[1]).float()
    shares = passing_shares(context.unlearned(label).passing(len(sizes)), sizes, label)
    return float(shares.sort().values[(len(shares) - 1) // 4])


def passing_shares(passing: Tensor, sizes: Tensor, label: int) -> Tensor:
    """How many samples of a label pass for members of each other class, as a share of that class.

    Args:
        passing: float32 [k], ``ClassUnlearning.passing``.
        sizes: float32 [k], samples per label.
        label: The label.

    Returns:
        float32 [m], for the other classes that have samples. A class smaller than most counts as one of median size:
        of a few samples one or two would be a large share.
    """
    others = (sizes > 0) & (torch.arange(len(sizes)) != label)
    counted = torch.where(passing >= _FEWEST_PASSING, passing, 0.0)
    return counted[others] / sizes[others].clamp_min(float(sizes[sizes > 0].median()))
