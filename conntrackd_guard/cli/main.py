"""The `guard` command: one file a subcommand; this one joins them and ends the process."""

from __future__ import annotations

import argparse
import io
import os
import sys
from importlib import import_module
from types import ModuleType

from conntrackd_guard import __version__
from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.core.errors import AnswerIsNo, GuardError, NotPermitted, SettingsError
from conntrackd_guard.core.model import Mode
from conntrackd_guard.host.paths import Paths

_MODULES = {
    "run": "run",
    "history": "history",
    "show": "history",
    "report": "report",
    "status": "status",
    "top": "top",
    "doctor": "doctor",
    "pause": "overrides",
    "resume": "overrides",
    "revert": "overrides",
    "notify": "notify",
    "config": "config",
}


def entry() -> None:
    """Run the command line and end the process with its exit code (see `cli.exits`)."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an arrow that a locale lacks is no reason to end
    try:
        code = main(sys.argv[1:], Paths())
        sys.stdout.flush()
    except BrokenPipeError:  # the reader (a pager, `head`) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = Exit.DONE
    except KeyboardInterrupt:
        code = Exit.FAILED
    sys.exit(code)


def main(arguments: list[str], paths: Paths) -> Exit:
    """Carry out one command line and return the exit code; what went wrong is told on stderr."""
    args = _parser(_parts(arguments[0] if arguments else "")).parse_args(arguments)
    if "rehearsed" in args:
        paths = Paths(paths.root, _mode(paths, rehearsed=args.rehearsed))
    try:
        return Exit(args.run(args, paths))
    except SettingsError as error:
        code = Exit.BAD_SETTINGS
        text = str(error)
    except NotPermitted as error:
        code = Exit.NOT_PERMITTED
        text = str(error)
    except AnswerIsNo as error:
        code = Exit.NO
        text = str(error)
    except GuardError as error:
        code = Exit.FAILED
        text = str(error)
    print(f"guard: {text}", file=sys.stderr)  # noqa: T201 - the command line talks on stderr
    return code


def _mode(paths: Paths, *, rehearsed: bool | None) -> Mode:
    """Return which guard is looked at: as the command line says, else the settings; with bad ones the acting guard."""
    if rehearsed is not None:
        return Mode.DRY_RUN if rehearsed else Mode.ACT
    from conntrackd_guard.settings.files import load_settings  # noqa: PLC0415 - yaml, which few commands need

    try:
        return load_settings(paths.settings_file, paths.settings_folder).mode
    except SettingsError:
        return Mode.ACT


def _parts(command: str) -> list[ModuleType]:
    """Return the module of `command`, or all of them for a help text: each costs tens of milliseconds to import."""
    if command in {"run", "notify"}:
        import conntrackd_guard.daemon.import_stubs  # noqa: F401, PLC0415 - before anything that would import what it leaves out
    names = [_MODULES[command]] if command in _MODULES else list(dict.fromkeys(_MODULES.values()))
    return [import_module(f"conntrackd_guard.cli.commands.{name}") for name in names]


def _parser(parts: list[ModuleType]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="guard",
        description="Raises nf_conntrack_max within a memory budget when the connection-tracking table fills.",
        epilog="Example: guard run --dry-run    shows what it would do on this host, and changes nothing.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"guard {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for part in parts:
        part.add_parser(commands)
    return parser
