"""Submit training to a batch system, as a job that can be started again at any time."""

from __future__ import annotations
