"""The declaration of a stage, from which everything that the pipeline needs to know of it is made.

``components/<stage>/spec.py`` holds one declaration per task of that folder, in ``SPECS``. From it follow the stage's
component for Kubeflow Pipelines and the function that its container calls (``components/container.py``), its place in
the DAG, the pipeline's parameters, the options of the command line, ``--set``, its README and its entry in a profile
(``pipelines/dag``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from components.common.contracts.config import Config

__all__ = ["Output", "ResourceClass", "StageSpec"]

ResourceClass = Literal["light", "training", "measuring"]
"""What a task needs: little, a GPU where there is one, or cores to run a model forward."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """What a stage hands on besides its manifest.

    Attributes:
        name: Its name. One that ends in ``_uri`` has a ``_sha256`` beside it: together they are a manifest that later
            stages may have as a parent.
        text: What it is, one sentence.
        kind: ``text`` for a parameter, else the type of a KFP artifact. The content of ``ClassificationMetrics`` is
            their metadata as JSON.
    """

    name: str
    text: str
    kind: Literal["text", "HTML", "Markdown", "ClassificationMetrics", "Model"] = "text"


@dataclass(frozen=True, kw_only=True, slots=True)
class StageSpec:
    """One task of a pipeline.

    What a stage may know is what it is given here: its settings and the manifests of its parents. The ground truth of
    an injected attack is a manifest of its own, ``truth``, and reaches the stages that have it as a parent.

    Attributes:
        config: Its settings. They give the task its name, and the folder that holds the code.
        summary: What it does, for the graph and the README.
        parents: The manifests that it reads: names of tasks, or of outputs without their ``_uri``. One that a run does
            not have comes as a pair of empty texts.
        inputs: Settings that are parameters of the pipeline, to the parameter's name, which tasks may share. The
            others travel together as a mapping.
        after: The parent whose lineage artifact it takes, which makes the edge between both in the run graph; empty for
            none. What it reads comes by the manifests.
        lineage: Type of the artifact that stands for the result in the run graph.
        outputs: What it hands on besides its manifest.
        image: The stage whose image holds the code; empty for one of its own.
        resources: The class of resources under which a profile grants it cores, memory and GPUs.
        optional: Whether a run may go without it.
        withheld: Settings that its manifest does not show, since stages that read it must not know them.
    """

    config: type[Config]
    summary: str
    parents: tuple[str, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    after: str = ""
    lineage: Literal["Dataset", "Model"] = "Dataset"
    outputs: tuple[Output, ...] = ()
    image: str = ""
    resources: ResourceClass = "light"
    optional: bool = False
    withheld: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the task, as in ``--set name.setting=value``."""
        return self.config.stage

    @property
    def package(self) -> str:
        """Dotted name of the folder that holds the code, ``components.<folder>``."""
        return self.config.__module__.rpartition(".")[0]

    @property
    def folder(self) -> str:
        """Name of that folder."""
        return self.package.rpartition(".")[2]
