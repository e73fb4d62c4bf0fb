"""The groups of configuration files in conf/, and the help text that lists them."""

from __future__ import annotations

import string

import hydra

from spectral_exp.config.conf_dir import CONF_DIR


def group_names() -> list[str]:
    """Return the names of all groups, such as `model/attention`, including Hydra's own."""
    folders = (path for path in CONF_DIR.rglob("*") if path.is_dir())
    return [path.relative_to(CONF_DIR).as_posix() for path in folders]


def help_text() -> str:
    """Return the text of `--help`, from the template in conf/hydra/help."""
    with hydra.initialize_config_dir(config_dir=str(CONF_DIR), version_base="1.3"):
        template = hydra.compose("config", return_hydra_config=True).hydra.help.template
    # Hydra would fill in the same text, but needs longer for the list than for everything else.
    lines = []
    for group in sorted(group_names()):
        options = sorted(path.stem for path in (CONF_DIR / group).glob("*.yaml"))
        if options and group.split("/")[0] != "hydra":
            lines.append(f"{group}: {', '.join(options)}\n")
    return string.Template(template).substitute(APP_CONFIG_GROUPS="".join(lines))
