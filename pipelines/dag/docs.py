"""Writes ``components/<stage>/README.md`` from the stage's declaration: what it does, takes, gives and can be told.

``python -m pipelines.dag.docs`` writes them, ``--check`` ends with 1 if one is not in step; `make check` runs that.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from kfp import dsl

from components.common.contracts.config import Config, Rule
from components.common.contracts.spec import StageSpec
from components.container import described
from pipelines.dag.stages import TASKS, folders_of

__all__ = ["main", "readme"]

_ROOT = Path(__file__).parents[2] / "components"
_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", dict[str, Any]: "mapping"}


def readme(*specs: StageSpec) -> str:
    """The README of a folder, as Markdown.

    Args:
        specs: Its tasks.
    """
    first = specs[0]
    table = described(*specs)
    inputs = [_row(name, kind, text) for name, (kind, text, given) in table.items() if not given]
    outputs = [_row(name, kind, text) for name, (kind, text, given) in table.items() if given]
    return "\n".join(
        [
            f"# {first.folder}",
            "",
            " ".join(first.summary.replace("``", "`").split()),
            "",
            f"Image: `untaint-{first.image or first.folder}`. Declaration: `spec.py`. Settings: `config.py`.",
            "Reading and publishing: `stage.py`. Computing: `algorithm.py`.",
            "",
            "## Inputs",
            "",
            "| name | type | meaning |",
            "| --- | --- | --- |",
            *inputs,
            "",
            "## Outputs",
            "",
            "| name | type | meaning |",
            "| --- | --- | --- |",
            *outputs,
            "",
            *(line for spec in specs for line in _settings(spec)),
            "<!-- Written by `make docs` from spec.py and config.py. -->",
            "",
        ]
    )


def _row(name: str, kind: Any, text: str) -> str:
    """A line of a table of inputs or outputs."""
    if isinstance(kind, dsl.OutputPath):
        shown = "string"
    else:
        # An artifact's class is in the __origin__ of its annotation.
        shown = _TYPES[kind] if kind in _TYPES else f"{kind.__origin__.__name__} artifact"
    return f"| `{name}` | {shown} | {text.replace('``', '`')} |"


def _settings(spec: StageSpec) -> list[str]:
    config = spec.config
    return [
        f"## Settings, `--set {spec.name}.NAME=VALUE`",
        "",
        "| name | default | expected | meaning |",
        "| --- | --- | --- | --- |",
        *(
            f"| `{name}` | `{_shown(field.default)}` | {_expected(config, name)} | "
            f"{config.meaning(name).replace('``', '`')} |"
            for name, field in config.model_fields.items()
        ),
        "",
    ]


def _expected(config: type[Config], name: str) -> str:
    # A list of names would make every new attack or model a change of this file.
    rules = [rule for rule in config.model_fields[name].metadata if isinstance(rule, Rule)]
    return "a known name" if any(callable(rule.expected) for rule in rules) else config.expected(name)


def _shown(default: Any) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default) or "''"


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; end with 1 if a README is not in step.")
def main(check: bool) -> None:
    """Write the stages' READMEs from their declarations."""
    stale = []
    for folder, specs in folders_of(tuple(TASKS.values())).items():
        path = _ROOT / folder / "README.md"
        text = readme(*specs)
        if not path.exists() or path.read_text() != text:
            stale.append(path)
            if not check:
                path.write_text(text)
    for path in stale:
        click.echo(f"{'not in step' if check else 'wrote'}: {path.relative_to(_ROOT.parent)}")
    if check and stale:
        click.echo("Run `make docs`.", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
