"""The function that KFP's executor calls in the container of finetune, made from the stage's declaration."""

from components.container import entry_point
from components.finetune.spec import SPECS

__all__ = ["run"]

run = entry_point(*SPECS)
