"""A trained classifier with its provenance, in memory and read from files."""

from __future__ import annotations

from components.common.classifier.loading import classifier_from, load
from components.common.classifier.model import Classifier
from components.common.classifier.provenance import Provenance, dataset_digest, dataset_name

__all__ = ["Classifier", "Provenance", "classifier_from", "dataset_digest", "dataset_name", "load"]
