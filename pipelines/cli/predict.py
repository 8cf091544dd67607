"""``untaint predict``: what a model makes of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipelines.cli.json_output import json_option, show_json
from pipelines.cli.options import store_option
from pipelines.local.home import home

if TYPE_CHECKING:
    from components.common.classifier import Classifier

__all__ = ["predict_command"]


@click.command("predict")
@click.argument("model", metavar="RUN_ID|CHAMPION|FOLDER")
@click.argument("images", metavar="IMAGE…", nargs=-1, required=True, type=click.Path(path_type=Path))
@json_option()
@store_option()
@click.pass_context
def predict_command(ctx: click.Context, model: str, images: tuple[Path, ...], as_json: bool, store: str) -> None:
    """Classify image files with the model of a run, of a champion or in a folder.

    Images are read as `untaint ingest` reads them: the same checks, the same resizing. One that is refused is named
    with the reason; the others are classified, and the command ends with 3.

    \b
    Examples:
      untaint predict 20260131-120000-1f2e photo.png
      untaint predict digits *.png --store s3://bucket/untaint --json
      untaint predict ./model photo.png
    """  # noqa: D301 - click reads the backspace as "do not wrap"
    from components.common.contracts.errors import DataError

    answers = _classify(_model(model, store), images)
    if as_json:
        show_json(answers)
    else:
        from components.common.intake.sources import printable
        from pipelines.views.summary import table

        cells = [
            ("refused", "-", printable(f"{answer['image']}: {answer['refused']}, {answer['found']}"))
            if "refused" in answer
            else (printable(answer["class"]), f"{100 * answer['probability']:.2f}", printable(answer["image"]))
            for answer in answers
        ]
        for line in table(("class", "probability %", "image"), cells):
            click.echo(line)
    ctx.exit(DataError.exit_code if any("refused" in answer for answer in answers) else 0)


def _classify(classifier: Classifier, paths: tuple[Path, ...]) -> list[dict[str, Any]]:
    """Class and probability of each image, or why it is refused."""
    from components.common.intake.images import ImageProblem
    from components.common.intake.single import read_image

    answers: list[dict[str, Any]] = []
    for path in paths:
        try:
            pixels = read_image(path, classifier.image_shape)
        except ImageProblem as problem:
            answers.append(
                {"image": str(path), "refused": problem.reason, "found": problem.found, "what_to_do": problem.hint}
            )
            continue
        # One by one: a batch's size decides how its sums are rounded, and an image's answer is to be its own.
        probabilities = classifier.predict(pixels[None])[0]
        best = int(probabilities.argmax())
        answers.append(
            {
                "image": str(path),
                "class": classifier.class_names[best],
                "label": best,
                "probability": round(float(probabilities[best]), 6),
            }
        )
    return answers


def _model(name: str, store: str) -> Classifier:
    """The model of a folder, of a run of this machine or of a store, or of a champion, in that order.

    Raises:
        ConfigError: None of them.
    """
    from components.common.classifier import load
    from components.common.classifier.loading import CONFIG_FILE
    from components.common.contracts.errors import ConfigError
    from components.common.contracts.names import checked_run_id
    from components.common.runs.publish import find_manifest
    from components.common.storage.addresses import join
    from components.common.storage.store import Store
    from pipelines.local.run import opened_store
    from pipelines.local.runs import located
    from pipelines.views.model_files import MODEL_FOLDER, model_of, read_champion

    if Path(name).is_dir():
        return load(name)
    root_of_run, run_id = located(name, store, home())
    kept = home() / "runs" / checked_run_id(run_id) / MODEL_FOLDER
    if not store and (kept / CONFIG_FILE).is_file():
        return load(kept)
    with opened_store(root_of_run, home()) as (root, _):
        reached = Store(root)
        found = find_manifest(reached, join(root, "runs", run_id, "evaluate"))
        try:
            return model_of(reached, found[2] if found else read_champion(reached, run_id))
        except ConfigError as problem:
            if found:
                raise
            raise ConfigError(
                f"model '{name[:200]}'",
                expected="a folder, a finished run, or the name of a model that has a champion",
                found=f"none of them here and in {root}",
                hint="`untaint runs list` and `untaint models list` show what there is.",
            ) from problem
