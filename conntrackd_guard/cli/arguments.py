"""Every command, argument and option of `guard`.

Imports argparse and constants only: help texts and shell completions cost no command's imports. `cli.main` runs
the function named after the command in `cli/commands/<module>.py`. Times are parsed by the commands that take them.
"""

import argparse
import re
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from conntrackd_guard import __version__
from conntrackd_guard.core import tuning, units
from conntrackd_guard.core.text import LONGEST_REASON, capitalized, printable

INT_MAX = 2**31 - 1
"""As `model.INT_MAX`: the highest limit that the kernel accepts. The model costs each command 10 ms."""
_FILE = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}
"""`shtab.FILE`: shells complete the names of files."""
_COMPLETED_BY = {
    ("show", "id"): "_guard_ids",
    ("revert", "id"): "_guard_raises",
    ("top", "namespace"): "_guard_namespaces",
}
"""Functions of the shell that list values, by command and argument; `scripts/completions` defines them."""
_ROOT: dict[str, Any] = {
    "type": Path, "metavar": "DIR", "help": "in a container: where the host's files are mounted (default: $GUARD_ROOT, or /)",
}  # fmt: skip
_ROOT_AGAIN = (("--root",), {**_ROOT, "default": argparse.SUPPRESS})
"""The option after a command, which overrides the one before it."""
_LEAST_BYTES = 64 << 20
"""Linux with a network needs that."""
_DIGITS = 19
"""As many as SQLite's largest number has."""
_TIME = "'2026-11-01 10:00', yesterday, -1h, @EPOCH"

_Option = tuple[tuple[str, ...], dict[str, Any]]
"""Arguments of argparse's `add_argument`."""


class _Command(NamedTuple):
    """A command, or an action of one."""

    module: str
    does: str
    example: str
    options: tuple[_Option, ...] = ()
    either: tuple[_Option, ...] = ()
    """Options that exclude each other; the help text has them first."""
    description: str = ""
    """Where `does` is not enough."""
    actions: "dict[str, _Command] | None" = None


def parser(command: str = "") -> argparse.ArgumentParser:
    """Return the parser of the whole command line; with the name of a command, one that knows only that (4 ms less)."""
    guard = _Parser(
        prog="guard",
        description="Raise nf_conntrack_max within a memory budget when the connection-tracking table fills up.",
        epilog="Example: sudo guard run --dry-run    logs what it would do on this host, and changes nothing.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    guard.add_argument("--root", **_ROOT)
    guard.add_argument("--version", action="version", version=f"guard {__version__}")
    commands = guard.add_subparsers(dest="command", metavar="COMMAND")
    for name in [command] if command in _COMMANDS else _COMMANDS:
        _add(commands, name, _COMMANDS[name])
    return guard


def _add(commands: Any, name: str, command: _Command) -> None:
    added = commands.add_parser(
        name,
        help=command.does,
        description=command.description or f"{capitalized(command.does)}.",
        epilog=f"Example: {command.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    added.set_defaults(module=command.module)
    either = added.add_mutually_exclusive_group() if command.either else added
    for place, options in ((either, command.either), (added, (*command.options, _ROOT_AGAIN))):
        for names, settings in options:
            argument = place.add_argument(*names, **settings)
            if argument.type is Path:
                argument.complete = _FILE  # read by shtab
            if function := _COMPLETED_BY.get((name, argument.dest)):
                argument.complete = {"bash": function, "zsh": function}
            if argument.metavar == "TIME":
                added._negative_number_matcher = re.compile("-[0-9]")  # noqa: SLF001 - or `-1h` would be an option
    if command.actions:
        actions = added.add_subparsers(dest="action", required=True, metavar="|".join(command.actions))
        for action in command.actions.items():
            _add(actions, *action)


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > _DIGITS or not 1 <= int(text) < 1 << 63:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, found {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > _DIGITS or not 1 <= int(text) <= INT_MAX:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {INT_MAX:,}, found {text!r}")
    return int(text)


def _duration(text: str) -> float:
    try:
        return units.parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _size(text: str) -> int:
    try:
        size = units.parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if size < _LEAST_BYTES:
        raise argparse.ArgumentTypeError(f"expected at least 64MiB, found {text!r}")
    return size


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def _reason(text: str) -> str:
    if len(text) > LONGEST_REASON:
        raise argparse.ArgumentTypeError(f"expected up to {LONGEST_REASON} characters, found {len(text):,}")
    return text


def _option(*names: str, **settings: Any) -> _Option:
    return names, settings


def _flag(name: str, does: str) -> _Option:
    return _option(name, action="store_true", help=does)


# fmt: off
_JSON = _flag("--json", "print one JSON document")
_MODE = _option("--dry-run", dest="looks_at", action=argparse.BooleanOptionalAction,
    help="use the data of the dry run, or of the acting daemon (default: `mode` in the settings)")
_REASON = _option("--reason", type=_reason, default="", metavar="TEXT", help="reason to record with the override")
_CONFIG = _option("--config", type=Path, metavar="FILE", help="read this file instead of /etc")

_COMMANDS = {  # in the order of the help text
    "run": _Command("run", "watch this host and raise the limit when needed",
        "sudo guard run --dry-run    decides and records, but changes nothing.", (
            _flag("--dry-run", "decide and record, but change nothing"),
            _option("--config", type=Path, metavar="FILE", help="read the settings from this file alone"),
            _flag("--check", "do the start-up checks, log the result, and exit"),
            _option("--log-format", choices=("auto", "text", "json", "journal"), default="auto",
                help="format of the log (default: auto)"),
            _option("--log-level", choices=("debug", "info", "warning", "error"), default="info",
                help="least severe level to log; debug shows why nothing happened (default: info)"),
        )),
    "history": _Command("history", "list decisions, newest first",
        "sudo guard history --since yesterday --verdict raise", (
            _option("--since", metavar="TIME", help=f"decisions from TIME on ({_TIME})"),
            _option("--until", metavar="TIME", help="decisions up to TIME"),
            _option("--last", metavar="N", type=_positive, help="the newest N at most"),
            _option("--verdict", choices=("raise", "hold", "override"), help="decisions with this verdict only"),
            _JSON, _MODE,
        ), description=f"List decisions, newest first. Up to {tuning.HISTORY_MAX_ROWS:,} decisions are kept, in up to"
            f" {tuning.HISTORY_MAX_BYTES >> 20} MiB: holds are deleted first, raises last."),
    "show": _Command("show", "show one decision: inputs, memory calculation, result", "sudo guard show 12", (
        _option("id", metavar="ID", help="number from the first column of `guard history`, or key from a log line"),
        _JSON, _MODE,
    )),
    "report": _Command("report", "write an HTML page about use, drops, memory and decisions",
        "sudo guard report --since yesterday -o conntrack.html    (one file, opens without a network)", (
            _option("--since", metavar="TIME", help=f"start of the report ({_TIME}; default: 24 h before the end)"),
            _option("--until", metavar="TIME", help="end of the report (default: now)"),
            _option("-o", "--output", type=Path, metavar="FILE", required=True, help="write the page to FILE"),
            _MODE,
        )),
    "replay": _Command("replay", "show what a policy would have done on evidence of the past",
        "guard replay --config new.yaml /srv/histories    (changes nothing)", (
            _option("source", nargs="*", metavar="SOURCE",
                help="a history.db, journal files, a folder of some, `-` for `journalctl -o export` or `-o json` on"
                " stdin, or the address of a Prometheus (default: this host's history)"),
            _option("--match", default="", metavar="MATCHERS",
                help="the hosts of a Prometheus, such as 'job=\"node\"' (default: all with node_exporter)"),
            _option("--token-file", type=Path, metavar="FILE", help="bearer token for Prometheus"),
            _option("--ca-file", type=Path, metavar="FILE", help="certificates to trust instead of the system's"),
            _flag("--token-over-http", "send the token without TLS, too"),
            _option("--limit", type=_positive, metavar="N", help="limit to assume where the evidence has none"),
            _option("--memory-available", type=_size, metavar="SIZE",
                help="memory available to assume where the evidence has none"),
            _option("--config", type=Path, metavar="FILE",
                help="settings to try (default: those recorded with each decision, else this host's)"),
            _option("--against", type=Path, metavar="FILE",
                help="compare with these settings: show what differs, and exit with 3 if anything does"),
            _option("--since", metavar="TIME", help=f"evidence from TIME on ({_TIME})"),
            _option("--until", metavar="TIME", help="evidence up to TIME"),
            _option("--jobs", type=_positive, metavar="N", help="processes to use (default: one a CPU)"),
            _option("--dask", metavar="ADDRESS", help="let the workers of this Dask scheduler do it (such as tls://HOST:8786)"),
            _option("--dask-ca", type=Path, metavar="FILE", help="certificate of the authority, for a tls:// scheduler"),
            _option("--dask-cert", type=Path, metavar="FILE", help="own certificate for it"),
            _option("--dask-key", type=Path, metavar="FILE", help="key of that certificate"),
            _option("--resume", type=Path, metavar="FILE",
                help="keep in FILE what is done; if it exists, go on from there"),
            _option("--expect", type=Path, metavar="FILE",
                help="check the cases of FILE instead: what must come of a series or of messages (exit code 3 if not)"),
            _flag("--merge", "add up: each SOURCE is a file of `guard replay --json`"),
        ), either=(_option("-o", "--output", type=Path, metavar="FILE", help="write an HTML page to FILE"),
            _flag("--json", "print one JSON document a line: a head, a line a host, the totals"),
            _flag("--csv", "print a row a host"))),
    "status": _Command("status", "show limit, use, memory, next step and the state of the daemon",
        "sudo guard status --json | jq .tables    (exit code 3: somebody has to act)", (_MODE,),
        either=(_JSON, _flag("--watch", "refresh every 2 s until Ctrl-C, with rates and a 5 min trend"))),
    "top": _Command("top", "show what fills a table and whether raising the limit would help",
        "sudo guard top --namespace web --by source", (
            _option("--namespace", metavar="N", help="network namespace: its number, its name, or `initial`"),
            _option("--by", choices=("source", "destination", "port", "state"),
                help="show the ten largest of this kind alone"),
            _flag("--watch", "refresh every 2 s until Ctrl-C"),
            _flag("--json", "print one JSON document (with --watch: one a line)"),
        ), description="Sample the entries of one table (the fullest, by default) and rank them. Needs root."),
    "recommend": _Command("recommend", "recommend a limit, hash buckets and timeouts, each with its calculation",
        "guard recommend --memory 8GiB --entries 300000    (for another host; changes nothing)", (
            _option("--entries", type=_count, metavar="N", help="peak of the fullest table (default: the last month's)"),
            _option("--memory", type=_size, metavar="SIZE", help="describe another host: its memory, such as 8GiB"),
            _option("--buckets", type=_count, metavar="N", help="its hash buckets (default: the kernel's for that memory)"),
            _option("--cpus", type=_count, metavar="N", help="its CPUs, for kube-proxy"),
            _option("--format", choices=("text", "json", "sysctl", "modprobe", "kube-proxy", "helm"), default="text",
                help="format of the output; all but text and json are lines to paste (default: text)"),
            _flag("--write", "write what no other file sets to /etc/sysctl.d (with --format modprobe: /etc/modprobe.d)"),
        ), description="Recommend a limit, hash buckets and timeouts for this host, or one described, by the policy that runs."
            " No running value is changed."),
    "doctor": _Command("doctor", "check this host for problems and print how to fix them",
        "sudo guard doctor    (changes nothing; exit code 3: a check failed)", (_JSON,)),
    "pause": _Command("overrides", "stop raising until resumed",
        "sudo guard pause --for 2h --reason 'load test on this gateway'", (
            _option("--for", dest="duration", metavar="T", type=_duration, help="resume after T (such as 30min)"),
            _REASON,
        )),
    "resume": _Command("overrides", "end a pause, and a conflict with another program", "sudo guard resume"),
    "revert": _Command("overrides", "restore the limit from before a raise",
        "sudo guard revert --dry-run    shows what undoing the last raise would do to live traffic.", (
            _flag("--dry-run", "show what it would do, and change nothing"),
            _flag("--force", "revert even if live flows exceed the target"),
            _REASON,
        ), either=(
            _option("id", nargs="?", type=_positive, metavar="ID", help="the raise to undo (default: the last)"),
            _flag("--all", "restore the limit from before the first raise"),
        )),
    "notify": _Command("notify", "run the `notify` command for each queued decision",
        "sudo guard notify    does what conntrackd-guard-notify.service does, without its sandbox.",
        description="Run the command of the `notify` setting for each queued decision, until the queue is empty."),
    "events": _Command("events", "in a pod: report decisions to Kubernetes as Events and a condition of the Node",
        "guard events    (a container of its own in the pod; NODE_NAME and a service account's token)",
        description="Report each raise, and each hold that needs an operator, as an Event of this pod's Node, and whether"
            " raising is blocked as its condition ConntrackConstrained. Runs until it gets SIGTERM."),
    "persist": _Command("persist", "write the sysctl.d file that the daemon requests",
        "sudo guard persist    does what conntrackd-guard-persist.service does, without its sandbox.",
        description="Write the sysctl.d file that the daemon requests, whose sandbox may not write it."),
    "config": _Command("config", "check, show or explain the settings",
        "sudo guard config check && sudo systemctl reload conntrackd-guard", actions={
            "check": _Command("config", "list every problem in the settings, and warn of those that can't work here",
                "guard config check --config ./guard.yaml", (_CONFIG,)),
            "show": _Command("config", "print each value in effect and its origin", "guard config show --json",
                (_CONFIG, _JSON)),
            "example": _Command("config", "print every key with its explanation", "guard config example > guard.yaml"),
        }),
}
# fmt: on
