"""The function that KFP's executor calls in the container of claim, made from the stage's declaration."""

from components.claim.spec import SPECS
from components.container import entry_point

__all__ = ["run"]

run = entry_point(*SPECS)
