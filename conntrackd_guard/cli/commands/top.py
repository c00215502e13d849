"""`guard top`: what fills a table now."""

import argparse
import errno
import sys
import time
from collections.abc import Iterator

from conntrackd_guard.cli.answer import Answer
from conntrackd_guard.core.errors import HostError, NotPermitted
from conntrackd_guard.core.traffic.analysis import TableAnalysis
from conntrackd_guard.history import details, documents
from conntrackd_guard.host.conntrack.sampler import Sampler, choose
from conntrackd_guard.host.paths import Paths

EVERY_SECONDS = 2.0


def top(args: argparse.Namespace, paths: Paths) -> Answer:
    """Return the analysis of one table; with `--watch` one every 2 s, without end."""
    analyses = _analyses(args, paths)
    return Answer(value=(args, analyses), view="top_text.print_analyses", json=lambda: _lines(args, analyses))


def _analyses(args: argparse.Namespace, paths: Paths) -> Iterator[TableAnalysis]:
    sampler = Sampler(paths, whole=not args.watch)
    while True:
        found = sampler.find()
        try:
            yield sampler.analyze(choose(found, args.namespace), found)
        except HostError as error:
            if error.errno in {errno.EACCES, errno.EPERM}:
                raise NotPermitted(f"`guard top` needs root (reads {error.path}: {error.cause}).") from error
            raise
        if not args.watch:
            return
        time.sleep(EVERY_SECONDS)


def _lines(args: argparse.Namespace, analyses: Iterator[TableAnalysis]) -> Iterator[str]:
    for analysis in analyses:
        yield documents.document(details.analysis(analysis), indent=None if args.watch else 2)
        sys.stdout.flush()
