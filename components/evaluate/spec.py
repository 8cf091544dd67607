"""What the evaluation is to the pipeline."""

from __future__ import annotations

from components.common.contracts.spec import Output, StageSpec
from components.evaluate.config import EvaluateConfig

__all__ = ["SPECS"]

SPECS = (
    StageSpec(
        config=EvaluateConfig,
        summary="Measures ACC and ASR on the holdout and the split against the truth, and writes the report.",
        parents=("ingest", "truth", "warmup", "split", "unlearn", "finetune", "control"),
        after="finetune",
        outputs=(
            Output(name="report", text="The report as one self-contained page.", kind="HTML"),
            Output(name="overview", text="Verdict, figures and caveats in short.", kind="Markdown"),
            Output(name="confusion", text="Confusion matrix of the final model.", kind="ClassificationMetrics"),
            Output(name="roc", text="ROC of the suspicion; empty without a truth.", kind="ClassificationMetrics"),
            Output(
                name="model",
                text="The clean model, ready to be used: model.pt2 or, without it, the weights.",
                kind="Model",
            ),
        ),
        resources="measuring",
    ),
)
