"""Read the command line of training: compose and check its jobs before Hydra runs them.

Hydra creates run directories before it calls any of our code, and its advice on a misspelt key lets
the typo pass (`+key`). So every job is composed here first, with Hydra's compose API, and a
mistake is reported with the nearest valid name before anything exists.
"""

from __future__ import annotations

from spectral_exp.config.command_line.command import CommandLine
from spectral_exp.config.command_line.consent import trusted_overrides
from spectral_exp.config.command_line.grammar import (
    format_value,
    is_readable,
    parse,
    quote_text_setting,
    text_of,
)
from spectral_exp.config.command_line.groups import help_text
from spectral_exp.config.command_line.hydra_errors import describe
from spectral_exp.config.command_line.jobs import JOB_NAME, Composer, Job, open_composer
from spectral_exp.config.command_line.recording import resolve_overrides, search_arguments
from spectral_exp.runs.overrides import quote

__all__ = [
    "JOB_NAME",
    "CommandLine",
    "Composer",
    "Job",
    "describe",
    "format_value",
    "help_text",
    "is_readable",
    "open_composer",
    "parse",
    "quote",
    "quote_text_setting",
    "resolve_overrides",
    "search_arguments",
    "text_of",
    "trusted_overrides",
]
