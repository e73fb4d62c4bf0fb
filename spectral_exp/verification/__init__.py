"""Checks of a run against itself: exact resume, reproduction, fingerprints of steps."""
