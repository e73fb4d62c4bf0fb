"""Read the command line of training: compose and check its jobs before Hydra runs them.

Hydra creates run directories before it calls any of our code, and its advice on a misspelt key lets
the typo pass (`+key`). So every job is composed here first, with Hydra's compose API, and a
mistake is reported with the nearest valid name before anything exists.
"""

from __future__ import annotations

from spectral_exp.config.command_line.command import CommandLine as CommandLine
from spectral_exp.config.command_line.command import requests_sweep as requests_sweep
from spectral_exp.config.command_line.consent import trusted_overrides as trusted_overrides
from spectral_exp.config.command_line.grammar import format_value as format_value
from spectral_exp.config.command_line.grammar import is_readable as is_readable
from spectral_exp.config.command_line.grammar import parse as parse
from spectral_exp.config.command_line.grammar import quote_text_setting as quote_text_setting
from spectral_exp.config.command_line.grammar import text_of as text_of
from spectral_exp.config.command_line.groups import help_text as help_text
from spectral_exp.config.command_line.hydra_errors import as_user_errors as as_user_errors
from spectral_exp.config.command_line.hydra_errors import describe as describe
from spectral_exp.config.command_line.hydra_folder import (
    write_hydra_folder as write_hydra_folder,
)
from spectral_exp.config.command_line.jobs import JOB_NAME as JOB_NAME
from spectral_exp.config.command_line.jobs import Composer as Composer
from spectral_exp.config.command_line.jobs import Job as Job
from spectral_exp.config.command_line.jobs import open_composer as open_composer
from spectral_exp.config.command_line.recorded import known_search as known_search
from spectral_exp.config.command_line.recorded import plain_search as plain_search
from spectral_exp.config.command_line.recording import (
    list_changed_settings as list_changed_settings,
)
from spectral_exp.config.command_line.recording import resolve_overrides as resolve_overrides
from spectral_exp.config.command_line.recording import search_arguments as search_arguments
from spectral_exp.runs.overrides import quote as quote
