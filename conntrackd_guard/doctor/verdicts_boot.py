"""Verdicts of `guard doctor` on the next boot: the saved limit, sysctl files that override it, module loading. Pure."""

from collections.abc import Sequence

from conntrackd_guard.core.sysctl_precedence import Assignment, SysctlFile, Tool, final_assignment, named, reading_order
from conntrackd_guard.doctor.verdicts import Check, good, note, unknown, wrong

_OTHERS_SHOWN = 2


def drop_in(path: str, saved: int | None, in_force: int | None, raised_to: int | None, *, persist: bool) -> Check:
    """Check that the limit in force is saved for the next boot. `raised_to`: the guard's last raise in this boot."""
    status = "`guard status` shows why the file is not written."
    if saved is None:
        if persist and raised_to is not None and raised_to == in_force:
            return wrong(f"the guard raised the limit to {raised_to:,}, but {path} is missing", status)
        why = "no raise is in force" if persist else "`persist: false`, or a dry run"
        return good(f"no limit is saved: {why}")
    where = f"{saved:,} is saved in {path}"
    if in_force is None:
        return unknown(f"{where}; no limit is in force")
    if saved == in_force:
        return good(f"{where} and in force")
    if saved > in_force or raised_to == in_force:
        apply = (
            f"To apply it: `sysctl -w net.netfilter.nf_conntrack_max={saved}`. To keep {in_force:,}: remove the file."
        )
        return wrong(f"{where}, but {in_force:,} is in force", apply if saved > in_force else status)
    evidence = f"{where}; another program has set {in_force:,}, which the next boot loses"
    return note(evidence, f"To save {in_force:,} too, put it into a sysctl file of your own.")


def order(files: Sequence[SysctlFile], tool: Tool, ours: str, saved: int | None) -> Check:
    """Check that `tool`, applying the sysctl files, ends with the saved limit. `ours` is the drop-in's path."""
    unread = [file.path for file in reading_order(files, tool) if file.content is None]
    if unread:
        return unknown(f"can't read {', '.join(unread[:_OTHERS_SHOWN])}", "Run this as root.")
    word = final_assignment(files, tool)
    if saved is None:
        return good("no sysctl file sets the limit" if word is None else f"sets {word.value} ({_place(word)})")
    others = [line for line in named(files, tool) if line.path != ours]
    if word is None:
        by = "".join(f": {_place(line)} overrides it with {line.value or 'an empty value'}" for line in others[-1:])
        return wrong(f"leaves the limit unset{by}", f"Remove that line, so that {ours} sets {saved:,}.")
    if word.number == saved:
        return good(f"sets {saved:,} ({_place(word)}){f', over {_listed(others)}' if others else ''}")
    evidence = f"sets {word.value} ({_place(word)}), which overrides {saved:,} in {ours}"
    if (word.number or 0) > saved:
        return note(evidence)
    return wrong(evidence, f"Remove line {word.line} from {_edited(word)}: it undoes the saved limit.")


def boot_trap(*, built_in: bool | None, rule: str, listed: str, saved: bool) -> Check:
    """Check that the module is loaded when sysctl files are applied at boot. `saved`: a limit is, or may be, saved."""
    if built_in:
        return good("connection tracking is built into this kernel")
    if rule:
        return good(f"{rule} applies the sysctl files when the module loads")
    if listed:
        return good(f"{listed} loads the module before the sysctl files are applied")
    evidence = "the module loads after the sysctl files are applied, so a saved limit is lost at boot"
    step = "`echo nf_conntrack > /etc/modules-load.d/conntrackd-guard.conf`"
    return wrong(evidence, step) if saved else note(evidence, step)


def _place(line: Assignment) -> str:
    return f"{line.path}:{line.line}{f', a link to {line.link}' if line.link else ''}"


def _edited(line: Assignment) -> str:
    """Return the file to edit."""
    return f"{line.link} ({line.path} is a link to it)" if line.link else line.path


def _listed(lines: Sequence[Assignment]) -> str:
    shown = ", ".join(f"{line.value or 'nothing'} in {_place(line)}" for line in lines[-_OTHERS_SHOWN:])
    more = len(lines) - _OTHERS_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
