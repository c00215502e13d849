"""Every command, argument and option of `guard`.

Imports argparse and units only: help texts and shell completions cost no command's imports. `cli.main` runs
the function named after the command in `cli/commands/<module>.py`. Times are parsed by the commands that take them.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conntrackd_guard import __version__
from conntrackd_guard.core import units

LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("auto", "text", "json", "journal")
RANKINGS = ("source", "destination", "port", "state")
VERDICTS = ("raise", "hold", "override")

_FILE = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}
"""`shtab.FILE`: shells complete the names of files."""
_DIGITS = 19
"""As many as SQLite's largest number has."""
_TIME = "'2026-11-01 10:00', yesterday, -1h, @EPOCH"


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
    for add in [_COMMANDS[command]] if command in _COMMANDS else _COMMANDS.values():
        add(commands)
    return guard


def _command(  # noqa: PLR0913 - one argument a part of the help text
    commands: Any, name: str, *, module: str = "", does: str, more: str = "", example: str
) -> argparse.ArgumentParser:
    """Add a command, carried out by `module` (default: named as the command)."""
    added: argparse.ArgumentParser = commands.add_parser(
        name,
        help=does,
        description=more or f"{does[0].upper()}{does[1:]}.",
        epilog=f"Example: {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    added.set_defaults(module=module or name)
    return added


def _run(commands: Any) -> None:
    run = _command(
        commands,
        "run",
        does="watch this host and raise the limit when needed",
        example="sudo guard run --dry-run    decides and records, but changes nothing.",
    )
    run.add_argument("--dry-run", action="store_true", help="decide and record, but change nothing")
    _file(run.add_argument("--config", type=Path, metavar="FILE", help="read the settings from this file alone"))
    run.add_argument("--check", action="store_true", help="do the start-up checks, print what would run, and exit")
    run.add_argument("--log-format", choices=LOG_FORMATS, default="auto", help="format of the log (default: auto)")
    run.add_argument(
        "--log-level",
        choices=LOG_LEVELS,
        default="info",
        help="least severe level to log; debug shows why nothing happened (default: info)",
    )


def _history(commands: Any) -> None:
    history = _command(
        commands,
        "history",
        does="list decisions, newest first",
        example="guard history --since yesterday --verdict raise",
    )
    history.add_argument("--since", metavar="TIME", help=f"decisions from TIME on ({_TIME})")
    history.add_argument("--until", metavar="TIME", help="decisions up to TIME")
    history.add_argument("--last", metavar="N", type=_positive, help="the newest N at most")
    history.add_argument("--verdict", choices=VERDICTS, help="decisions with this verdict only")
    _takes_negative_times(history)
    _json(history)
    _mode(history)


def _show(commands: Any) -> None:
    show = _command(
        commands,
        "show",
        module="history",
        does="show one decision: inputs, memory calculation, result",
        example="guard show 12",
    )
    show.add_argument(
        "id", metavar="ID", help="number from the first column of `guard history`, or key from a log line"
    )
    _json(show)
    _mode(show)


def _report(commands: Any) -> None:
    report = _command(
        commands,
        "report",
        does="write an HTML page about use, drops, memory and decisions",
        example="sudo guard report --since yesterday -o conntrack.html    (one file, opens without a network)",
    )
    report.add_argument("--since", metavar="TIME", help=f"start of the report ({_TIME}; default: 24 h before the end)")
    report.add_argument("--until", metavar="TIME", help="end of the report (default: now)")
    _file(
        report.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="write the page to FILE")
    )
    _takes_negative_times(report)
    _mode(report)


def _status(commands: Any) -> None:
    status = _command(
        commands,
        "status",
        does="show limit, use, memory, next step and the state of the daemon",
        example="guard status --json | jq .tables    (exit code 3: the running daemon is degraded)",
    )
    form = status.add_mutually_exclusive_group()
    _json(form)
    form.add_argument(
        "--watch", action="store_true", help="refresh every 2 s until Ctrl-C, with rates and a 5 min trend"
    )
    _mode(status)


def _top(commands: Any) -> None:
    top = _command(
        commands,
        "top",
        does="show what fills a table and whether raising the limit would help",
        more="Sample the entries of one table (the fullest, by default) and rank them. Needs root.",
        example="sudo guard top --namespace web --by source",
    )
    top.add_argument("--namespace", metavar="N", help="network namespace: its number, its name, or `initial`")
    top.add_argument("--by", choices=RANKINGS, help="show the ten largest of this kind alone")
    top.add_argument("--watch", action="store_true", help="refresh every 2 s until Ctrl-C")
    _json(top, more=" (with --watch: one a line)")


def _doctor(commands: Any) -> None:
    doctor = _command(
        commands,
        "doctor",
        does="check this host for problems and print how to fix them",
        example="sudo guard doctor    (changes nothing; exit code 3: a check failed)",
    )
    _json(doctor)


def _pause(commands: Any) -> None:
    pause = _command(
        commands,
        "pause",
        module="overrides",
        does="stop raising until resumed",
        example="guard pause --for 2h --reason 'load test on this gateway'",
    )
    pause.add_argument("--for", dest="duration", metavar="T", type=_duration, help="resume after T (such as 30min)")
    _reason(pause)


def _resume(commands: Any) -> None:
    _command(
        commands,
        "resume",
        module="overrides",
        does="end a pause, and a conflict with another program",
        example="guard resume",
    )


def _revert(commands: Any) -> None:
    revert = _command(
        commands,
        "revert",
        module="overrides",
        does="restore the limit from before a raise",
        example="guard revert --dry-run    shows what undoing the last raise would do to live traffic.",
    )
    which = revert.add_mutually_exclusive_group()
    which.add_argument("id", nargs="?", type=int, metavar="ID", help="the raise to undo (default: the last)")
    which.add_argument("--all", action="store_true", help="restore the limit from before the first raise")
    revert.add_argument("--dry-run", action="store_true", help="show what it would do, and change nothing")
    revert.add_argument("--force", action="store_true", help="revert even if live flows exceed the target")
    _reason(revert)


def _notify(commands: Any) -> None:
    _command(
        commands,
        "notify",
        does="run the `notify` command for each queued decision",
        more="Run the command of the `notify` setting for each queued decision, until the queue is empty.",
        example="sudo guard notify    does what conntrackd-guard-notify.service does, without its sandbox.",
    )


def _config(commands: Any) -> None:
    config = _command(
        commands,
        "config",
        does="check, show or explain the settings",
        example="guard config check && sudo systemctl reload conntrackd-guard",
    )
    actions = config.add_subparsers(dest="action", required=True, metavar="check|show|example")
    for name, does, example in (
        ("check", "list every problem in the settings", "guard config check --config ./guard.yaml"),
        ("show", "print each value in effect and its origin", "guard config show --json"),
        ("example", "print every key with its explanation", "guard config example > guard.yaml"),
    ):
        action = _command(actions, name, module="config", does=does, example=example)
        if name != "example":
            _file(action.add_argument("--config", type=Path, metavar="FILE", help="read this file instead of /etc"))
        if name == "show":
            _json(action)


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


def _file(argument: argparse.Action) -> None:
    argument.complete = _FILE  # type: ignore[attr-defined] # read by shtab, which argparse does not know


def _takes_negative_times(command: argparse.ArgumentParser) -> None:
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


_COMMANDS: dict[str, Callable[[Any], None]] = {
    "run": _run,
    "history": _history,
    "show": _show,
    "report": _report,
    "status": _status,
    "top": _top,
    "doctor": _doctor,
    "pause": _pause,
    "resume": _resume,
    "revert": _revert,
    "notify": _notify,
    "config": _config,
}
"""In the order of the help text."""
