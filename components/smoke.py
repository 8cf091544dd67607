"""The health check of a stage's image: ``python3 -m components.smoke``, the images' default command.

It imports everything that the stage in this image consists of, so that a missing file or library shows when the image
is built and not hours into a run. It needs no network, no store and no writable disk.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Sequence

import components

__all__ = ["main", "stages_here"]

_NEVER_STAGES = {"common"}


def stages_here() -> list[str]:
    """The stages and steps whose code lies here: one stage in an image, all in a checkout."""
    return sorted(m.name for m in pkgutil.iter_modules(components.__path__) if m.ispkg and m.name not in _NEVER_STAGES)


def main(arguments: Sequence[str] | None = None) -> int:
    """Imports the stages here and says what was found.

    Args:
        arguments: Command line without the program's name; ``sys.argv`` by default.

    Returns:
        0; an import that does not work raises, and shows where.
    """
    parser = argparse.ArgumentParser(prog="python3 -m components.smoke", description="Checks a stage's image.")
    parser.add_argument("--stage", help="fail unless this stage, and no other, is here")
    wanted = parser.parse_args(arguments).stage
    found = stages_here()
    # Steps of retraining that are too small for an image of their own say in whose they are.
    homes = {importlib.import_module(f"components.{name}.spec").SPECS[0].image or name for name in found}
    if not found or (wanted is not None and homes != {wanted}):
        sys.stdout.write(f"expected {wanted or 'a stage'}, found {', '.join(found) or 'none'}\n")
        return 1
    for stage in found:
        for module in pkgutil.iter_modules([f"{next(iter(components.__path__))}/{stage}"], f"components.{stage}."):
            importlib.import_module(module.name)
    importlib.import_module("kfp.dsl.executor_main")
    # Great Expectations is imported by a process of its own when a stage runs, so that nothing above has tried it.
    importlib.import_module("components.common.tables.suites")
    importlib.import_module("great_expectations")
    torch = "none"
    if importlib.util.find_spec("torch") is not None:
        torch = str(importlib.import_module("torch").__version__)
    from components.common.runs.lifecycle import code_version

    sys.stdout.write(
        f"{', '.join(found)}: Python {sys.version.split()[0]}, torch {torch}, code {code_version(found[0])[:12]}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
