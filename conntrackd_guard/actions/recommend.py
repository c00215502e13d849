"""Read what a recommendation needs, of this host or as described, and put it in place for the next boot."""

import contextlib
import errno
import os
from pathlib import Path
from typing import NamedTuple

from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.errors import AnswerIsNo, GuardError, HostError, NotPermitted
from conntrackd_guard.core.kernel_default import default_buckets
from conntrackd_guard.core.model import LoadFacts, Observation
from conntrackd_guard.core.recommendation import LIMIT_KEY, Peak, Recommendation, recommend
from conntrackd_guard.core.sysctl_precedence import LIMIT_KEYS, Tool, named, writes
from conntrackd_guard.core.text import printable
from conntrackd_guard.core.traffic.diagnosis import LEAST_SEEN, Finding
from conntrackd_guard.core.units import utc
from conntrackd_guard.history.database import History
from conntrackd_guard.host import conf_dirs, files
from conntrackd_guard.host.clock import Clock
from conntrackd_guard.host.conntrack.limit import LiveKernel
from conntrackd_guard.host.conntrack.observer import Observer
from conntrackd_guard.host.conntrack.sampler import Sampler
from conntrackd_guard.host.load_facts import hashsize_options, load_facts
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.host.runtime_dir import RuntimeDir

PEAK_SECONDS = 30 * 86400.0
"""The peak of the last month counts: a month has every usual day, batch run and backup."""
MARK = "# Written by `guard recommend --write`."
"""The first line of its files; one without it is another's."""


class Written(NamedTuple):
    """What `--write` did: the file, what it left out, and the command that takes it back."""

    path: Path
    left_out: tuple[str, ...]
    undo: str
    is_new: bool
    """Whether the file did not have that content already."""


def for_host(paths: Paths, policy: Policy, entries: int | None) -> Recommendation:
    """Return the recommendation for this host; `entries`: the peak to expect. Raises GuardError."""
    seen = Observer(paths, LiveKernel(paths), Clock(), RuntimeDir(paths)).observe(rescan=True)
    return recommend(
        seen,
        policy,
        _peak(paths, seen) if entries is None else Peak(entries=entries, source="--entries"),
        load=load_facts(paths),
        is_described=False,
        cpus=os.cpu_count(),
        findings=_findings(paths, seen),
    )


def described(
    policy: Policy, memory_bytes: int, buckets: int | None, cpus: int | None, entries: int | None
) -> Recommendation:
    """Return the recommendation for a host with that memory, all of it available. Raises AnswerIsNo."""
    seen = Observation(
        boottime_seconds=0.0,
        wall_seconds=0.0,
        boot_id="",
        limit=None,
        kernel_limit=None,
        buckets=buckets or default_buckets(LoadFacts(), memory_bytes),
        entry_slab_bytes=256,  # a 64-bit kernel's
        memory_total_bytes=memory_bytes,
        memory_available_bytes=memory_bytes,
    )
    peak = Peak(entries=entries or 0, source="--entries")
    return recommend(seen, policy, peak, load=LoadFacts(), is_described=True, cpus=cpus)


def write_sysctl(found: Recommendation, paths: Paths) -> Written:
    """Write the sysctl values that no other file sets. Raises AnswerIsNo if none is left, HostError, NotPermitted."""
    path, kept, left_out = paths.recommended_sysctl, dict[str, int](), list[str]()
    others = [file for file in conf_dirs.sysctl_files(paths.root) if file.path != str(path)]
    for file in others:
        if file.content is None:
            raise AnswerIsNo(printable(f"Nothing was written: {file.path} can't be read, and may set the same."))
    for name, value in found.values().items():
        keys = LIMIT_KEYS if name == LIMIT_KEY else (name.replace(".", "/"),)
        lines = [line for tool in Tool for line in (*named(others, tool, keys), *writes(others, tool, keys))]
        if lines:
            left_out.append(printable(f"{lines[-1].path}:{lines[-1].line} sets {name} already."))
        else:
            kept[name] = value
    if not kept:
        raise AnswerIsNo(f"Nothing was written: {' '.join(left_out)} Change it there.")
    return _replace(path, "".join(f"{name} = {value}\n" for name, value in kept.items()), left_out)


def write_module_options(found: Recommendation, paths: Paths) -> Written:
    """Write `hashsize=` unless another file has it. Raises AnswerIsNo, HostError, NotPermitted."""
    path = paths.recommended_module
    for place, value in hashsize_options(paths.root):
        if place != str(path):
            raise AnswerIsNo(printable(f"Nothing was written: {place} has hashsize={value} already. Change it there."))
    return _replace(path, f"options nf_conntrack hashsize={found.buckets}\n", [])


def _replace(path: Path, lines: str, left_out: list[str]) -> Written:
    """Replace the file at once, and keep an earlier one beside it under a name that no program reads."""
    before, content, kept = conf_dirs.read_text(path), f"{MARK}\n{lines}", Path(f"{path}.before")
    if before is None or path.is_symlink() or (before and not before.startswith(MARK)):
        raise AnswerIsNo(f"Nothing was written: {path} is not a file of `guard recommend`. Move it away first.")
    if before == content:
        return Written(path, tuple(left_out), f"rm {path}", is_new=False)
    try:
        with files.translate_errors("write", path, "Nothing was changed."):
            path.parent.mkdir(parents=True, exist_ok=True)
            if before:
                files.replace(kept, before.encode("utf-8", "surrogateescape"), durable=True)
            files.replace(path, content.encode(), durable=True)
    except HostError as error:
        if error.errno in {errno.EACCES, errno.EPERM}:
            raise NotPermitted(f"`guard recommend --write` needs root. {error}") from error
        raise
    return Written(path, tuple(left_out), f"mv {kept} {path}" if before else f"rm {path}", is_new=True)


def _peak(paths: Paths, seen: Observation) -> Peak:
    """Return the most that one table held in the last month, by the history or now."""
    now = max((table.count for table in seen.tables), default=0)
    with contextlib.suppress(GuardError):
        history = History.existing(paths.history)
        if history is not None:
            with history:
                found = history.peak(seen.wall_seconds - PEAK_SECONDS)
            if found is not None and found[0] > now:
                return Peak(entries=found[0], source=f"history, {utc(found[1])}")
    return Peak(entries=now, source="the fullest table now")


def _findings(paths: Paths, seen: Observation) -> tuple[Finding, ...]:
    """Return what a sample of the fullest table shows; nothing of a small one, or where it can't be read."""
    if max((table.count for table in seen.tables), default=0) < LEAST_SEEN:
        return ()
    with contextlib.suppress(GuardError):
        sampler = Sampler(paths)
        found = sampler.find()
        return sampler.analyze(found[0], found).findings if found else ()
    return ()
