"""`guard pause`, `guard resume`, `guard revert`: the operator outranks policy."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from conntrackd_guard.actions.overrides import Overrides, Plan
from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.core import units
from conntrackd_guard.core.errors import AnswerIsNo, SettingsError
from conntrackd_guard.core.model import Policy, Record
from conntrackd_guard.core.text import printable
from conntrackd_guard.host.conntrack.limit import LiveKernel
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.sysctl_dropin import SysctlDropIn
from conntrackd_guard.settings.files import load_settings


def add_parser(commands: Any) -> None:
    """Add the three commands."""
    raw = argparse.RawDescriptionHelpFormatter
    pause = commands.add_parser(
        "pause",
        help="stop raising until resumed",
        formatter_class=raw,
        epilog="Example: guard pause --for 2h --reason 'load test on this gateway'",
    )
    pause.add_argument(
        "--for", dest="duration", metavar="T", type=_duration, help="end by itself after T (such as 30min)"
    )
    pause.add_argument("--reason", default="", metavar="TEXT", help="recorded with the order")
    pause.set_defaults(run=_pause)

    resume = commands.add_parser(
        "resume",
        help="end a pause and a stand-off",
        formatter_class=raw,
        epilog="Example: guard resume",
    )
    resume.set_defaults(run=_resume)

    revert = commands.add_parser(
        "revert",
        help="go back to the limit before a raise",
        formatter_class=raw,
        epilog="Example: guard revert --dry-run    tells what undoing the last raise would do to live traffic.",
    )
    which = revert.add_mutually_exclusive_group()
    which.add_argument("id", nargs="?", type=int, metavar="ID", help="the decision to undo (default: the last raise)")
    which.add_argument("--all", action="store_true", help="back to the limit before the guard's first raise")
    revert.add_argument("--dry-run", action="store_true", help="tell what it would do, and do nothing")
    revert.add_argument("--force", action="store_true", help="revert although live flows exceed the target")
    revert.add_argument("--reason", default="", metavar="TEXT", help="recorded with the order")
    revert.set_defaults(run=_revert)


def _orders(paths: Paths) -> Overrides:
    """Wire what gives orders. They need no settings: where these can't be used, that is said, and no more."""
    try:
        policy = load_settings(paths.settings_file, paths.settings_folder).policy
    except SettingsError as error:
        _say(f"The settings can't be used; the order is recorded with the defaults:\n{error}")
        policy = Policy()
    return Overrides(paths, LiveKernel(paths), SysctlDropIn(paths), policy)


def _pause(args: argparse.Namespace, paths: Paths) -> Exit:
    _note(_orders(paths).pause(args.duration, args.reason))
    until = "until `guard resume`" if args.duration is None else f"for {units.format_duration(args.duration)}"
    _say(f"Raising is paused {until}. Full tables will drop new connections meanwhile.")
    return Exit.DONE


def _resume(args: argparse.Namespace, paths: Paths) -> Exit:
    del args
    record, left = _orders(paths).resume()
    _note(record)
    if left is not None:
        raise AnswerIsNo(f"Raising is still paused: {left.by} exists. Remove that file to resume.")
    _say("Raising is resumed; a stand-off, if there was one, is over.")
    return Exit.DONE


def _revert(args: argparse.Namespace, paths: Paths) -> Exit:
    orders = _orders(paths)
    plan = orders.plan(args.id, whole=args.all)
    pause = " and pauses raising for 1 h" if plan.paused is None else f"; raising stays paused by {plan.paused.by}"
    _say(printable(f"Reverting takes the limit from {plan.current:,} to {plan.target:,}{pause}."))
    for label, count in plan.squeezed:
        _say(
            f"The table of {printable(label)} holds {count:,} entries, more than that: its new connections would drop."
        )
    if args.dry_run:
        _say("Dry run: nothing was changed.")
        return Exit.NO if plan.squeezed else Exit.DONE
    if plan.squeezed and not args.force:
        raise AnswerIsNo("Refused, because new connections would drop. Use --force if that is meant.")
    return _carry_out(orders, plan, args.reason)


def _carry_out(orders: Overrides, plan: Plan, reason: str) -> Exit:
    record = orders.revert(plan, reason)
    _note(record)
    if record.outcome.limit_after != plan.target:
        _say(f"The limit reads {record.outcome.limit_after} instead: another writer is at work.")
        return Exit.FAILED
    _say(f"The limit is {plan.target:,}. `guard resume` lets the guard raise again before the pause is over.")
    return Exit.DONE


def _note(record: Record) -> None:
    """Tell what of an order failed although it was carried out."""
    if record.outcome.detail:
        _say(printable(record.outcome.detail))


def _duration(text: str) -> float:
    try:
        return units.parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
