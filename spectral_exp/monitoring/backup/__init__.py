"""Backup of a run to a second place, and restoring from it."""
