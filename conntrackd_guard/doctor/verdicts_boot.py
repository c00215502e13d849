"""What `guard doctor` concludes about the next boot: what is kept, who has the last word, and the module. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from conntrackd_guard.core.sysctl_precedence import Assignment, SysctlFile, Tool, last_word, named, reading_order
from conntrackd_guard.doctor.verdicts import Check, Verdict

_OTHERS_SHOWN = 2


def drop_in(path: str, kept: int | None, in_force: int | None, raised_to: int | None, *, persist: bool) -> Check:
    """Is the limit kept for the next boot, as it is in force? `raised_to`: what the guard last set in this boot."""
    name = "drop_in"
    if kept is None:
        if persist and raised_to is not None and raised_to == in_force:
            return Check(
                name=name,
                verdict=Verdict.WRONG,
                evidence=f"the guard raised the limit to {raised_to:,}, and {path} is not there: the next boot loses it",
                next_step="`guard status` says what keeps it from being written.",
            )
        why = "the guard has raised nothing that is still in force" if persist else "`persist: false`, or a dry run"
        return Check(name=name, verdict=Verdict.GOOD, evidence=f"nothing is kept for the next boot: {why}")
    if in_force is None:
        evidence = f"{kept:,} is kept in {path}; there is no limit in force to compare it with"
        return Check(name=name, verdict=Verdict.UNKNOWN, evidence=evidence)
    if kept == in_force:
        return Check(name=name, verdict=Verdict.GOOD, evidence=f"{kept:,} is kept in {path}, and in force")
    if kept < in_force and raised_to != in_force:
        return Check(
            name=name,
            verdict=Verdict.NOTE,
            evidence=f"{kept:,} is kept in {path}; another writer has set {in_force:,} since, which the next boot loses",
            next_step=f"To keep {in_force:,} too, put it into a sysctl file of your own.",
        )
    return Check(
        name=name,
        verdict=Verdict.WRONG,
        evidence=f"{kept:,} is kept in {path}, but {in_force:,} is in force",
        next_step=f"To have what was kept: `sysctl -w net.netfilter.nf_conntrack_max={kept}`. "
        f"If {in_force:,} is meant, remove the file."
        if kept > in_force
        else "`guard status` says what keeps the file from being written.",
    )


def order(files: Sequence[SysctlFile], tool: Tool, ours: str, kept: int | None) -> Check:
    """Does the kept limit have the last word when `tool` applies the sysctl files? `ours` is the drop-in's path."""
    match tool:
        case Tool.SYSTEMD:
            name, when = "at_boot", "systemd-sysctl, at boot,"
        case Tool.PROCPS:
            name, when = "sysctl_system", "`sysctl --system`, when called,"
        case _:
            assert_never(tool)
    unread = [file.path for file in reading_order(files, tool) if file.content is None]
    if unread:
        return Check(
            name=name,
            verdict=Verdict.UNKNOWN,
            evidence=f"what {when} would set is not known: {', '.join(unread[:_OTHERS_SHOWN])} can't be read",
            next_step="Run this as root.",
        )
    word = last_word(files, tool)
    lines = named(files, tool)
    if kept is None:
        evidence = "no sysctl file sets the limit" if word is None else f"{when} sets {word.value} ({_place(word)})"
        return Check(name=name, verdict=Verdict.GOOD, evidence=evidence)
    if word is None:
        winner = [line for line in lines if line.path != ours][-1:]
        by = "".join(f": {_place(line)} has the last word, with {line.value or 'no value'}" for line in winner)
        return Check(
            name=name,
            verdict=Verdict.WRONG,
            evidence=f"{when} sets nothing{by}",
            next_step=f"Take that line out: {ours} sets {kept:,}.",
        )
    if word.number == kept:
        others = [line for line in lines if line.path != ours]
        over = f", over {_listed(others)}" if others else ""
        return Check(name=name, verdict=Verdict.GOOD, evidence=f"{when} sets {kept:,} ({_place(word)}){over}")
    higher = (word.number or 0) > kept
    return Check(
        name=name,
        verdict=Verdict.NOTE if higher else Verdict.WRONG,
        evidence=f"{when} sets {word.value} ({_place(word)}), which comes after {kept:,} in {ours}",
        next_step="" if higher else f"Take line {word.line} out of {_edited(word)}: it undoes what the guard keeps.",
    )


def boot_trap(*, built_in: bool | None, rule: str, listed: str, kept: bool) -> Check:
    """Is the limit's key there when sysctl files are applied at boot? `kept`: there is, or may be, a limit to apply."""
    if built_in:
        found = "connection tracking is built into this kernel"
    elif rule:
        found = f"{rule} applies the sysctl files when the module loads"
    elif listed:
        found = f"{listed} loads the module before the sysctl files are applied"
    else:
        return Check(
            name="boot_trap",
            verdict=Verdict.WRONG if kept else Verdict.NOTE,
            evidence="open: the module loads after the sysctl files are applied, so a kept limit is lost at boot",
            next_step="`echo nf_conntrack > /etc/modules-load.d/conntrackd-guard.conf`",
        )
    return Check(name="boot_trap", verdict=Verdict.GOOD, evidence=f"closed: {found}")


def _place(line: Assignment) -> str:
    return f"{line.path}:{line.line}{f', a link to {line.link}' if line.link else ''}"


def _edited(line: Assignment) -> str:
    """Return the file that an operator has to edit."""
    return f"{line.link} ({line.path} is a link to it)" if line.link else line.path


def _listed(lines: Sequence[Assignment]) -> str:
    shown = ", ".join(f"{line.value or 'nothing'} in {_place(line)}" for line in lines[-_OTHERS_SHOWN:])
    more = len(lines) - _OTHERS_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
