"""Questions that can be asked of the training data, one file each; see ``base``."""

from components.unlearn.detectors.base import DETECTORS, Detector, Find, chosen_detectors

__all__ = ["DETECTORS", "Detector", "Find", "chosen_detectors"]
