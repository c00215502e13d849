"""The `guard` command: parse, run the command, print its answer, end the process with an exit code."""

import io
import os
import sys
from argparse import ArgumentTypeError, Namespace
from contextlib import suppress
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from conntrackd_guard.cli.answer import Answer, note
from conntrackd_guard.cli.arguments import parser
from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.core.configuration import Mode
from conntrackd_guard.core.errors import AnswerIsNo, GuardError, NotPermitted, SettingsError
from conntrackd_guard.core.text import printable_lines
from conntrackd_guard.host.paths import Paths

_LEAN = frozenset({"run", "notify", "events"})
"""Long-running commands: they start without the libraries that `daemon.import_stubs` replaces."""

_LIBRARIES = {
    "systemd": "systemd-python", "yaml": "PyYAML", "structlog": "structlog", "rich": "rich", "jinja2": "Jinja2",
    "urllib3": "urllib3",
}  # fmt: skip
"""Packages on PyPI, by module; Debian's are `python3-` and the module's name."""
_OPTIONAL = "urllib3"
"""Needed by `guard events` alone."""
_READ_HISTORY = frozenset({"recommend", "replay"})
"""Commands without `--dry-run` that read this host's history."""
_EXITS = {NotPermitted: Exit.NOT_PERMITTED, AnswerIsNo: Exit.NO}


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
    """Carry out one command line and return the exit code; errors are printed on stderr."""
    args = parser(arguments[0] if arguments else "").parse_args(arguments)
    if args.command is None:
        parser().print_help()
        return Exit.USAGE
    try:
        return _carry_out(args, _of_host(args.root or os.environ.get("GUARD_ROOT"), paths))
    except ArgumentTypeError as error:
        parser().error(str(error))
    except SettingsError as error:
        sys.stderr.write(f"{printable_lines(str(error))}\n")  # each line begins with its file and line number
        return Exit.BAD_SETTINGS
    except GuardError as error:
        note(str(error))
        return _EXITS.get(type(error), Exit.FAILED)
    except ImportError as error:
        if (error.name or "").startswith("conntrackd_guard"):
            raise
        sys.stderr.write(f"guard: {_missing(error)}\n")
        return Exit.FAILED


def _missing(error: ImportError) -> str:
    """Return which libraries to install."""
    specs = {name: PathFinder.find_spec(name) for name in _LIBRARIES}
    # Any folder of that name, such as the repository's `systemd`, is found as a package without a file.
    names = [name for name, spec in specs.items() if spec is None or spec.origin is None]
    names = [name for name in names if name != _OPTIONAL or error.name == name]
    if not names:
        return f"Can't load the Python libraries ({error}). Reinstall python3 and the package that this is from."
    debian, pypi = " ".join(f"python3-{name}" for name in names), " ".join(_LIBRARIES[name] for name in names)
    found = ", ".join(names)
    return f"Python modules are missing: {found}. Install them: apt install {debian} (elsewhere: pip install {pypi})."


def _of_host(root: Path | str | None, paths: Paths) -> Paths:
    """Return the paths of the host that is mounted below `root`. Raises GuardError if none is."""
    if not root:
        return paths
    found = Paths(Path(os.path.abspath(root)), own=paths.root)
    if not found.proc.is_dir():
        text = f"{found.proc} does not exist: mount the host's /proc there, or name another folder with --root."
        raise GuardError(text)
    return found


def _carry_out(args: Namespace, paths: Paths) -> Exit:
    if args.command in _LEAN:
        import_module("conntrackd_guard.daemon.import_stubs")  # before anything that would import what it leaves out
    if "looks_at" in args or args.command in _READ_HISTORY:
        paths = _looked_at(getattr(args, "looks_at", None), paths)
    command = _load(f"cli.commands.{args.module}", args.command)
    if not getattr(args, "watch", False):
        return _print(command(args, paths), as_json=getattr(args, "json", False))
    with suppress(KeyboardInterrupt):
        _print(command(args, paths), as_json=args.json)
    return Exit.DONE


def _looked_at(dry_run: bool | None, paths: Paths) -> Paths:  # noqa: FBT001 - the option's value
    """Return the paths of the dry run or of the acting daemon; None: as `mode` in the settings, `act` if they are bad."""
    mode = Mode.DRY_RUN if dry_run else Mode.ACT
    if dry_run is None:
        load_settings = _load("settings.files", "load_settings")  # yaml costs 17 ms
        with suppress(SettingsError):
            mode = load_settings(paths.settings_file, paths.settings_folder, in_container=paths.has_prefix).mode
    return paths.for_mode(mode)


def _print(answer: Answer | Exit, *, as_json: bool) -> Exit:
    """Print an answer as JSON or for people; return the exit code."""
    if isinstance(answer, Exit):
        return answer
    if as_json:
        for piece in answer.json():
            sys.stdout.write(piece)
    elif isinstance(answer.value, str):
        sys.stdout.write(answer.value)
    else:
        with _load("cli.render.console", "screen")(paged=answer.paged) as console:
            module, name = answer.view.split(".")
            _load(f"cli.render.{module}", name)(console, answer.value)
    return answer.code


def _load(module: str, name: str) -> Any:
    """Import late: rich and the commands cost up to 100 ms, so each command imports only what it needs."""
    return getattr(import_module(f"conntrackd_guard.{module}"), name)
