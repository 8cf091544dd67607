"""Backdoor attacks that can be injected to test the defence: one file per attack, found by name."""
