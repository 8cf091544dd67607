"""Datasets: one file per source, found by name through ``base.load``."""
