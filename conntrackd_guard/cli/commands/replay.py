"""`guard replay`: what a policy would have done, on evidence of the past."""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from conntrackd_guard.cli.answer import Answer, note
from conntrackd_guard.cli.commands.history import time_option
from conntrackd_guard.cli.commands.report import write_page
from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.cli.render import replay_csv
from conntrackd_guard.cli.render.replay_progress import progress
from conntrackd_guard.cli.render.report import replay_page
from conntrackd_guard.core.codec import encode
from conntrackd_guard.core.configuration import Policy
from conntrackd_guard.core.errors import GuardError
from conntrackd_guard.core.text import printable
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.replay import dask, lines
from conntrackd_guard.replay.expectation import check, read_cases
from conntrackd_guard.replay.fleet import Fleet, local, processors
from conntrackd_guard.replay.lines import Job
from conntrackd_guard.replay.model import Span
from conntrackd_guard.replay.sources.named import Access, units
from conntrackd_guard.replay.summary import Summary, summarize
from conntrackd_guard.settings.files import load_settings


def replay(args: argparse.Namespace, paths: Paths) -> Answer | Exit:
    """Replay the sources, or merge results. Exit code 3 where two policies differ, or an expectation is not met."""
    if args.expect is not None:
        return _expect(args, paths)
    texts = _merged(args.source) if args.merge else _replayed(args, paths)
    head = next(lines.read(texts[:1], "the results"))
    summary = summarize(_hosts(texts), compared=bool(head.get("compares")))
    if args.output is not None:
        content = replay_page.page(summary, time.time()).encode()
        write_page(args.output, content)
        note(f"{args.output}: {len(content) / 1024:,.0f} KiB")
        return _code(summary)
    if args.csv:
        sys.stdout.writelines(replay_csv.rows(summary))
        return _code(summary)
    return Answer(
        value=summary, view="replay_text.print_summary", json=lambda: _json(texts, summary), code=_code(summary)
    )


def _expect(args: argparse.Namespace, paths: Paths) -> Answer:
    """Check the cases of a file; one line for each expectation that is not met."""
    policy = None if args.config is None else _policy(args.config, paths)
    texts, failed = list[str](), 0
    for case in read_cases(args.expect, policy):
        _, mismatches = check(case)
        failed += bool(mismatches)
        texts.append(f"{'✗' if mismatches else '✓'} {printable(case.name)}\n")
        texts += [f"    {one.field}: expected {one.expected}, found {one.found}\n" for one in mismatches]
    return Answer(value="".join(texts), code=Exit.NO if failed else Exit.DONE)


def _code(summary: Summary) -> Exit:
    return Exit.NO if summary.compared and summary.answers else Exit.DONE


def _replayed(args: argparse.Namespace, paths: Paths) -> list[str]:
    """Return all lines of a replay of the sources."""
    since, until = time_option("--since", args.since), time_option("--until", args.until)
    if since is not None and until is not None and since >= until:
        raise GuardError("The replay would end before it begins: check --since and --until.")
    job = Job(
        policy=_policy(args.config, paths),
        recorded=args.config is None,
        against=None if args.against is None else _policy(args.against, paths),
        span=Span(since=since, until=until),
        limit=args.limit,
        available_bytes=args.memory_available,
    )
    access = Access(
        match=args.match, token_file=args.token_file, ca_file=args.ca_file, token_over_http=args.token_over_http
    )
    found = list(units(args.source or [str(paths.history)], access, job.span))  # without any, this host's own history
    jobs = min(args.jobs or processors(), max(1, len(found)))
    fleet = Fleet(found, job, args.resume)
    with ExitStack() as stack:
        executor = stack.enter_context(_executor(args, jobs))
        report = stack.enter_context(progress(len(fleet), fleet.done))
        return "".join(fleet.run(executor, report)).splitlines(keepends=True)


def _executor(args: argparse.Namespace, jobs: int) -> AbstractContextManager[Executor | None]:
    if args.dask is None:
        return local(jobs)
    return dask.executor(args.dask, ca=args.dask_ca, cert=args.dask_cert, key=args.dask_key)


def _policy(file: Path | None, paths: Paths) -> Policy:
    """Return the policy of a settings file; None: of this host's settings."""
    owner = os.geteuid() if file else 0  # a file named here is printed, never obeyed, so its reader may own it
    return load_settings(
        paths.settings_file, paths.settings_folder, in_container=paths.has_prefix, only=file, owner=owner
    ).policy


def _merged(files: Iterable[str]) -> list[str]:
    """Return the lines of files of results as those of one. Raises GuardError if they are of different replays."""
    heads, texts = dict[str, str](), dict[tuple[str, str], None]()
    for name in files:
        found = list(lines.open_results(Path(name)))
        for text, content in zip(found, lines.read(found, name), strict=True):
            if "job" in content:
                heads.setdefault(text, name)
            elif "answer" in content or "skipped" in content:
                texts[str(content.get("unit")), text] = None  # the same host in two files counts once
    if len(heads) != 1:
        why = (
            "are of different replays (policy, time, assumed figures or version of the guard)"
            if heads
            else "hold no replay"
        )
        raise GuardError(f"The files {why}: {', '.join(heads.values()) or ', '.join(files) or 'none was named'}.")
    return [*heads, *(text for _, text in sorted(texts))]


def _hosts(texts: Iterable[str]) -> Iterator[lines.Found]:
    for content in lines.read(texts, "the results"):
        one = lines.found(content, "the results")
        if one is not None:
            yield one


def _json(texts: Iterable[str], summary: Summary) -> Iterator[str]:
    """Yield the head, a line a host (with two policies also of those on which they agree, for `--merge`), and the sums."""
    for text in texts:
        if "done" not in json.loads(text):
            yield text
    yield lines.line({"totals": {grade.value: encode(total) for grade, total in summary.totals.items()}})
