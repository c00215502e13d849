"""`guard pause`, `guard resume`, `guard revert`: the operator overrides the policy."""

import argparse

from conntrackd_guard.actions.overrides import Overrides
from conntrackd_guard.cli.answer import note
from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.core import chains, units
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.errors import AnswerIsNo, SettingsError
from conntrackd_guard.core.model import Record
from conntrackd_guard.core.text import printable
from conntrackd_guard.host.conntrack.limit import LiveKernel
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.sysctl_dropin import SysctlDropIn
from conntrackd_guard.settings.files import load_settings


def pause(args: argparse.Namespace, paths: Paths) -> Exit:
    """Stop raising until `guard resume`, or for `--for`."""
    overrides = _overrides(paths)
    _note_detail(overrides, overrides.pause(args.duration, args.reason))
    until = "until `guard resume`" if args.duration is None else f"for {units.format_duration(args.duration)}"
    note(f"Raising is paused {until}. Full tables drop new connections meanwhile.")
    return Exit.DONE


def resume(_args: argparse.Namespace, paths: Paths) -> Exit:
    """End a pause, and forget who lowered the limit."""
    overrides = _overrides(paths)
    record, left = overrides.resume()
    _note_detail(overrides, record)
    if left is not None:
        raise AnswerIsNo(f"Raising is still paused: {left.by} exists. Remove that file to resume.")
    note("Raising is resumed. Earlier conflicts with other programs no longer count.")
    return Exit.DONE


def revert(args: argparse.Namespace, paths: Paths) -> Exit:
    """Restore the limit from before a raise, unless live flows would suffer."""
    overrides = _overrides(paths)
    plan = overrides.plan(args.id, whole=args.all)
    pause = " and pauses raising for 1 h" if plan.paused is None else f"; raising stays paused by {plan.paused.by}"
    note(printable(f"Reverting takes the limit from {plan.current:,} to {plan.target:,}{pause}."))
    if plan.buckets is not None:
        ms = chains.stall_ms(chains.alive(plan.observation))
        note(f"It also takes the hash buckets back to {plan.buckets:,}, which stalls traffic for about {ms:.0f} ms.")
    for label, count in plan.squeezed:
        note(f"The table of {printable(label)} has {count:,} entries, more than that: its new connections would drop.")
    if args.dry_run:
        note("Dry run: nothing was changed.")
        return Exit.NO if plan.squeezed else Exit.DONE
    if plan.squeezed and not args.force:
        raise AnswerIsNo("Refused, because new connections would drop. Use --force if that is meant.")
    record = overrides.revert(plan, args.reason)
    _note_detail(overrides, record)
    if record.outcome.limit_after != plan.target:
        note(f"The limit reads {record.outcome.limit_after}, not {plan.target}: another program changed it.")
        return Exit.FAILED
    note(f"The limit is {plan.target:,}. `guard resume` allows raises again before the pause ends.")
    return Exit.DONE


def _overrides(paths: Paths) -> Overrides:
    """Return what carries overrides out. They work with bad settings too: the defaults are recorded instead."""
    try:
        policy = load_settings(paths.settings_file, paths.settings_folder, in_container=paths.has_prefix).policy
    except SettingsError as error:
        note(f"The settings can't be used; the override is recorded with the defaults:\n{error}")
        policy = Policy()
    return Overrides(paths, LiveKernel(paths), SysctlDropIn(paths), policy)


def _note_detail(overrides: Overrides, record: Record) -> None:
    """Print what was moved out of the way, and which part of an override failed although the rest was carried out."""
    for text in overrides.moved:
        note(text)
    if record.outcome.detail:
        note(printable(record.outcome.detail))
