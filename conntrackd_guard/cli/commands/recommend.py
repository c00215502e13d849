"""`guard recommend`: what this host, or one described, should be set to."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from conntrackd_guard.cli.answer import Answer, note
from conntrackd_guard.cli.exits import Exit
from conntrackd_guard.cli.render.lines import plain
from conntrackd_guard.cli.render.recommend_lines import FORMATS
from conntrackd_guard.core import codec
from conntrackd_guard.core.codec import encode
from conntrackd_guard.core.recommendation import Recommendation, describe
from conntrackd_guard.host.paths import Paths
from conntrackd_guard.settings.files import load_settings

if TYPE_CHECKING:
    from conntrackd_guard.actions.recommended_files import Written

_WRITABLE = ("text", "sysctl", "modprobe")


def recommend(args: argparse.Namespace, paths: Paths) -> Answer | Exit:
    """Return the recommendation in the format asked for, or put it in place for the next boot."""
    if args.memory is None and (args.buckets, args.cpus) != (None, None):
        raise argparse.ArgumentTypeError("--buckets and --cpus describe another host: give its --memory, too")
    if args.write and args.memory is not None:
        raise argparse.ArgumentTypeError("--write is for this host, and --memory describes another")
    if args.write and args.format not in _WRITABLE:
        raise argparse.ArgumentTypeError(f"--write takes --format sysctl or modprobe, not {args.format}")
    policy = load_settings(paths.settings_file, paths.settings_folder, in_container=paths.has_prefix).policy
    if args.memory is None:
        # Each of the late imports costs a command that does without it 15 ms or more.
        from conntrackd_guard.actions.recommend import for_host  # noqa: PLC0415

        found = for_host(paths, policy, args.entries)
    else:
        found = describe(policy, args.memory, args.buckets, args.cpus, args.entries)
    if args.write:
        from conntrackd_guard.actions import recommended_files  # noqa: PLC0415

        is_module = args.format == "modprobe"
        write = recommended_files.write_module_options if is_module else recommended_files.write_sysctl
        _note_written(write(found, paths))
        return Exit.DONE
    if args.format == "json":
        return Answer(value=codec.document(document(found)))
    if args.format in FORMATS:
        return Answer(value=FORMATS[args.format](found))
    from conntrackd_guard.cli.render import recommend_text  # noqa: PLC0415

    sections = recommend_text.sections(found)
    if not sys.stdout.isatty():
        return Answer(value=plain(sections))
    return Answer(value=sections, view="console.print_sections")


def document(found: Recommendation) -> dict[str, Any]:
    """Return everything for JSON."""
    seen = found.observation
    return {
        "described": found.is_described,
        "memory_total_bytes": seen.memory_total_bytes,
        "memory_available_bytes": seen.memory_available_bytes,
        "cpus": found.cpus,
        "limit_in_force": found.in_force,
        "buckets_now": seen.buckets,
        "peak": encode(found.peak),
        "limit": found.limit,
        "buckets": found.buckets,
        "memory_if_full_bytes": found.full.cost_bytes,
        "highest_limit": found.reach.target,
        "highest_bound": found.reach.bound.value,
        "sysctl": found.values(),
        "timeouts": [encode(step) for step in found.timeouts],
        "causes": [finding.cause.value for finding in found.findings],
        "arithmetic": {
            "needed": None if found.needed is None else encode(found.needed),
            "limit": encode(found.full),
            "highest": encode(found.reach_full),
            "highest_with_buckets": encode(found.highest),
        },
        "policy": encode(found.policy),
    }


def _note_written(written: "Written") -> None:
    for text in written.left_out:
        note(f"Left out: {text}")
    if not written.is_new:
        note(f"{written.path} has these lines already. To undo: {written.undo}")
        return
    note(f"Wrote {written.path} for the next boot. No running value was changed.")
    note(f"To undo: {written.undo}")
