"""Every command, argument and option of `guard`.

Imports argparse and units only: help texts and shell completions cost no command's imports. `cli.main` runs
the function named after the command in `cli/commands/<module>.py`. Times are parsed by the commands that take them.
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from conntrackd_guard import __version__
from conntrackd_guard.core import units

_FILE = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}
"""`shtab.FILE`: shells complete the names of files."""
_DIGITS = 19
"""As many as SQLite's largest number has."""
_TIME = "'2026-11-01 10:00', yesterday, -1h, @EPOCH"


class _Command(NamedTuple):
    """A command: its module, what it does, an example, and the function that adds its options."""

    module: str
    does: str
    example: str
    add_options: Callable[[argparse.ArgumentParser], None]
    description: str = ""


def parser(command: str = "") -> argparse.ArgumentParser:
    """Return the parser of the whole command line; with the name of a command, one that knows only that (4 ms less)."""
    guard = argparse.ArgumentParser(
        prog="guard",
        description="Raise nf_conntrack_max within a memory budget when the connection-tracking table fills up.",
        epilog="Example: guard run --dry-run    shows what it would do on this host, and changes nothing.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    guard.add_argument("--version", action="version", version=f"guard {__version__}")
    commands = guard.add_subparsers(dest="command", metavar="COMMAND")
    for name in [command] if command in _COMMANDS else _COMMANDS:
        _add(commands, name, _COMMANDS[name])
    return guard


def _add(commands: Any, name: str, command: _Command) -> None:
    added = commands.add_parser(
        name,
        help=command.does,
        description=command.description or f"{command.does[0].upper()}{command.does[1:]}.",
        epilog=f"Example: {command.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    added.set_defaults(module=command.module)
    command.add_options(added)


def _run(run: argparse.ArgumentParser) -> None:
    run.add_argument("--dry-run", action="store_true", help="decide and record, but change nothing")
    _file(run, "--config", help="read the settings from this file alone")
    run.add_argument("--check", action="store_true", help="do the start-up checks, print what would run, and exit")
    formats, levels = ("auto", "text", "json", "journal"), ("debug", "info", "warning", "error")
    run.add_argument("--log-format", choices=formats, default="auto", help="format of the log (default: auto)")
    help_level = "least severe level to log; debug shows why nothing happened (default: info)"
    run.add_argument("--log-level", choices=levels, default="info", help=help_level)


def _history(history: argparse.ArgumentParser) -> None:
    _times(history, since=f"decisions from TIME on ({_TIME})", until="decisions up to TIME")
    history.add_argument("--last", metavar="N", type=_positive, help="the newest N at most")
    verdicts = ("raise", "hold", "override")
    history.add_argument("--verdict", choices=verdicts, help="decisions with this verdict only")
    _json(history)
    _mode(history)


def _show(show: argparse.ArgumentParser) -> None:
    show.add_argument(
        "id", metavar="ID", help="number from the first column of `guard history`, or key from a log line"
    )
    _json(show)
    _mode(show)


def _report(report: argparse.ArgumentParser) -> None:
    since = f"start of the report ({_TIME}; default: 24 h before the end)"
    _times(report, since=since, until="end of the report (default: now)")
    _file(report, "-o", "--output", required=True, help="write the page to FILE")
    _mode(report)


def _status(status: argparse.ArgumentParser) -> None:
    form = status.add_mutually_exclusive_group()
    _json(form)
    form.add_argument(
        "--watch", action="store_true", help="refresh every 2 s until Ctrl-C, with rates and a 5 min trend"
    )
    _mode(status)


def _top(top: argparse.ArgumentParser) -> None:
    top.add_argument("--namespace", metavar="N", help="network namespace: its number, its name, or `initial`")
    kinds = ("source", "destination", "port", "state")
    top.add_argument("--by", choices=kinds, help="show the ten largest of this kind alone")
    top.add_argument("--watch", action="store_true", help="refresh every 2 s until Ctrl-C")
    _json(top, more=" (with --watch: one a line)")


def _pause(pause: argparse.ArgumentParser) -> None:
    pause.add_argument("--for", dest="duration", metavar="T", type=_duration, help="resume after T (such as 30min)")
    _reason(pause)


def _revert(revert: argparse.ArgumentParser) -> None:
    which = revert.add_mutually_exclusive_group()
    which.add_argument("id", nargs="?", type=int, metavar="ID", help="the raise to undo (default: the last)")
    which.add_argument("--all", action="store_true", help="restore the limit from before the first raise")
    revert.add_argument("--dry-run", action="store_true", help="show what it would do, and change nothing")
    revert.add_argument("--force", action="store_true", help="revert even if live flows exceed the target")
    _reason(revert)


def _config(config: argparse.ArgumentParser) -> None:
    actions = config.add_subparsers(dest="action", required=True, metavar="check|show|example")
    for name, command in _CONFIG_ACTIONS.items():
        _add(actions, name, command)


def _config_file(action: argparse.ArgumentParser) -> None:
    _file(action, "--config", help="read this file instead of /etc")


def _config_show(action: argparse.ArgumentParser) -> None:
    _config_file(action)
    _json(action)


def _none(_command: argparse.ArgumentParser) -> None:
    """Add no option."""


def _json(options: Any, *, more: str = "") -> None:
    options.add_argument("--json", action="store_true", help=f"print one JSON document{more}")


def _mode(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--dry-run",
        dest="looks_at",
        action=argparse.BooleanOptionalAction,
        help="use the data of the dry run, or of the acting daemon (default: `mode` in the settings)",
    )


def _reason(command: argparse.ArgumentParser) -> None:
    command.add_argument("--reason", default="", metavar="TEXT", help="reason to record with the override")


def _file(command: argparse.ArgumentParser, *names: str, **more: Any) -> None:
    argument = command.add_argument(*names, type=Path, metavar="FILE", **more)
    argument.complete = _FILE  # type: ignore[attr-defined] # read by shtab, which argparse does not know


def _times(command: argparse.ArgumentParser, *, since: str, until: str) -> None:
    command.add_argument("--since", metavar="TIME", help=since)
    command.add_argument("--until", metavar="TIME", help=until)
    command._negative_number_matcher = re.compile("-[0-9]")  # noqa: SLF001 - or `--since -1h` would be an option


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > _DIGITS or not 1 <= int(text) < 1 << 63:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, found {text!r}")
    return int(text)


def _duration(text: str) -> float:
    try:
        return units.parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


# fmt: off
_COMMANDS = {  # in the order of the help text
    "run": _Command("run", "watch this host and raise the limit when needed",
        "sudo guard run --dry-run    decides and records, but changes nothing.", _run),
    "history": _Command("history", "list decisions, newest first",
        "guard history --since yesterday --verdict raise", _history),
    "show": _Command("show", "show one decision: inputs, memory calculation, result", "guard show 12", _show),
    "report": _Command("report", "write an HTML page about use, drops, memory and decisions",
        "sudo guard report --since yesterday -o conntrack.html    (one file, opens without a network)", _report),
    "status": _Command("status", "show limit, use, memory, next step and the state of the daemon",
        "guard status --json | jq .tables    (exit code 3: the running daemon is degraded)", _status),
    "top": _Command("top", "show what fills a table and whether raising the limit would help",
        "sudo guard top --namespace web --by source", _top,
        "Sample the entries of one table (the fullest, by default) and rank them. Needs root."),
    "doctor": _Command("doctor", "check this host for problems and print how to fix them",
        "sudo guard doctor    (changes nothing; exit code 3: a check failed)", _json),
    "pause": _Command("overrides", "stop raising until resumed",
        "guard pause --for 2h --reason 'load test on this gateway'", _pause),
    "resume": _Command("overrides", "end a pause, and a conflict with another program", "guard resume", _none),
    "revert": _Command("overrides", "restore the limit from before a raise",
        "guard revert --dry-run    shows what undoing the last raise would do to live traffic.", _revert),
    "notify": _Command("notify", "run the `notify` command for each queued decision",
        "sudo guard notify    does what conntrackd-guard-notify.service does, without its sandbox.", _none,
        "Run the command of the `notify` setting for each queued decision, until the queue is empty."),
    "config": _Command("config", "check, show or explain the settings",
        "guard config check && sudo systemctl reload conntrackd-guard", _config),
}
_CONFIG_ACTIONS = {
    "check": _Command("config", "list every problem in the settings",
        "guard config check --config ./guard.yaml", _config_file),
    "show": _Command("config", "print each value in effect and its origin", "guard config show --json", _config_show),
    "example": _Command("config", "print every key with its explanation", "guard config example > guard.yaml", _none),
}
# fmt: on
