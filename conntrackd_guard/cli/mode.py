"""Which daemon a command looks at: the one that acts, or the dry run."""

from __future__ import annotations

from conntrackd_guard.core.configuration import Mode
from conntrackd_guard.core.errors import SettingsError
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.settings.files import load_settings


def configured(paths: Paths) -> Paths:
    """Return the paths for `mode` in the settings; those of the acting daemon if the settings are bad."""
    try:
        return Paths(paths.root, load_settings(paths.settings_file, paths.settings_folder).mode)
    except SettingsError:
        return Paths(paths.root, Mode.ACT)
