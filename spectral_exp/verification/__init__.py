"""Checks that a run can be resumed exactly and reproduced."""
