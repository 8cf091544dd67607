"""The function that KFP's executor calls in the container of promote, made from the stage's declaration."""

from components.container import entry_point
from components.promote.spec import SPECS

__all__ = ["run"]

run = entry_point(*SPECS)
