"""Writes ``components/<stage>/README.md`` from the component itself: what it does, its inputs and its outputs.

``python -m pipelines.dag.docs`` writes them, ``--check`` ends with 1 if one is not in step; `make check` runs that.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from pipelines.dag.training import STAGES, component_of, image_of

__all__ = ["main", "readme"]

_ROOT = Path(__file__).parents[2] / "components"
_TYPES = {
    "STRING": "string",
    "NUMBER_INTEGER": "integer",
    "NUMBER_DOUBLE": "number",
    "STRUCT": "mapping",
    "BOOLEAN": "boolean",
    "LIST": "list",
}


def readme(stage: str) -> str:
    """The README of a stage, as Markdown.

    Args:
        stage: Stage name.
    """
    component = component_of(stage, image_of(stage, "", "TAG"))
    spec = next(iter(component.pipeline_spec.components.values()))
    meanings = _meanings(stage)
    return "\n".join(
        [
            f"# {stage}",
            "",
            " ".join((component.description or "").split()),
            "",
            f"Image: `{image_of(stage, '', 'TAG')}`. Contract: `component.py`. Reading and publishing: `stage.py`.",
            "Computing: `algorithm.py`.",
            "",
            "## Inputs",
            "",
            *_table(spec.input_definitions, meanings),
            "",
            "## Outputs",
            "",
            *_table(spec.output_definitions, meanings),
            "",
            "<!-- Written by `make docs` from component.py. -->",
            "",
        ]
    )


def _meanings(stage: str) -> dict[str, str]:
    """Each input and output to its line in the component's docstring; KFP's spec keeps those of the inputs only."""
    import docstring_parser

    tree = ast.parse((_ROOT / stage / "component.py").read_text())
    (function,) = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == stage)
    parsed = docstring_parser.parse(ast.get_docstring(function) or "")
    return {entry.arg_name: " ".join((entry.description or "").replace("``", "`").split()) for entry in parsed.params}


def _table(definitions: Any, meanings: Mapping[str, str]) -> list[str]:
    types = {name: _parameter_type(entry) for name, entry in definitions.parameters.items()}
    types |= {
        name: f"{entry.artifact_type.schema_title.removeprefix('system.')} artifact"
        for name, entry in definitions.artifacts.items()
    }
    # In the docstring's order, which is that of the signature; KFP's own is by name.
    rows = [f"| `{name}` | {types.pop(name)} | {meaning} |" for name, meaning in meanings.items() if name in types]
    return [
        "| name | type | meaning |",
        "| --- | --- | --- |",
        *rows,
        *(f"| `{n}` | {t} | |" for n, t in types.items()),
    ]


def _parameter_type(entry: Any) -> str:
    field = entry.DESCRIPTOR.fields_by_name["parameter_type"]
    return _TYPES[field.enum_type.values_by_number[entry.parameter_type].name]


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; end with 1 if a README is not in step.")
def main(check: bool) -> None:
    """Write the stages' READMEs from their components."""
    stale = []
    for stage in STAGES:
        path = _ROOT / stage / "README.md"
        text = readme(stage)
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
