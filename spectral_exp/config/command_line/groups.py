"""The help text, which lists the groups of configuration files."""

from __future__ import annotations

import string

import hydra

from spectral_exp.config.command_line.options import read_options
from spectral_exp.config.conf_dir import CONF_DIR


def help_text() -> str:
    """Return the text of `--help`, from the template in conf/hydra/help."""
    with hydra.initialize_config_dir(config_dir=str(CONF_DIR), version_base="1.3"):
        template = hydra.compose("config", return_hydra_config=True).hydra.help.template
    # Hydra would fill in the same text, but needs longer for the list than for everything else.
    lines = []
    for group, options in sorted(read_options().groups.items()):
        if options and group.split("/")[0] != "hydra":
            lines.append(f"{group}: {', '.join(options)}\n")
    return string.Template(template).substitute(APP_CONFIG_GROUPS="".join(lines))
