"""Fixtures that several test folders use, and the stage of the live ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from testbed.disks import refusing, stalled
from testbed.guarded import host
from testbed.overridden import a_guard_that_raised

if TYPE_CHECKING:
    from testbed.stage import Stage

__all__ = ["a_guard_that_raised", "host", "refusing", "stalled"]

# No test judges by time, and a whole record is large. `make unit` runs the profile "quick": what a test has as its own
# number of examples is a multiple of the profile's.
_LARGE = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("full", deadline=None, suppress_health_check=_LARGE)
settings.register_profile("quick", settings.get_profile("full"), max_examples=10)
settings.load_profile("full")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--live`: without it no test lowers this machine's nf_conntrack_max, not even as root."""
    parser.addoption("--live", action="store_true", help="also run tests/live, which lowers nf_conntrack_max")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the live tests unless the command line has `--live`, whatever `-m` selects."""
    if not config.getoption("--live"):
        for item in items:
            if item.get_closest_marker("live"):
                item.add_marker(pytest.mark.skip(reason="needs --live: lowers this machine's nf_conntrack_max"))


@pytest.fixture(autouse=True)
def _nothing_is_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests decide at seconds of their own, which this machine's uptime may not have reached."""
    monkeypatch.setattr("conntrackd_guard.host.dropin_lock._is_ahead", lambda _: False)


@pytest.fixture(params=[True, False], ids=["numbered", "without-number"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """Give a live test its stage, once with messages as this kernel prints them, once as kernels before 6.17 do."""
    from testbed.limit_guard import LimitGuard  # noqa: PLC0415  only where a live test runs
    from testbed.private_world import PrivateWorld  # noqa: PLC0415
    from testbed.scratch_namespace import ScratchNamespace  # noqa: PLC0415
    from testbed.stage import LIMIT, Stage  # noqa: PLC0415

    with LimitGuard() as limit_guard, ScratchNamespace() as table, PrivateWorld(tmp_path) as world:
        limit_guard.own(table.number)
        limit_guard.set_message_cost(0)
        limit_guard.set_limit(LIMIT)
        stage = Stage(limit_guard, table, world, numbered=request.param)
        yield stage
        stage.kernel.close()
        limit_guard.check()
