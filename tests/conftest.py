"""Makes what `scripts/` shares with the tests importable, and sets the stage of the live ones."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

settings.register_profile("no deadline", deadline=None)  # no test judges by time
settings.load_profile("no deadline")

_HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE.parent / "scripts"), str(_HERE / "live")]

if TYPE_CHECKING:
    from stage import Stage


@pytest.fixture(params=[True, False], ids=["numbered", "without-number"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """Give a live test its stage, once with lines as this kernel prints them, once as kernels before 6.17 do."""
    from limit_keeper import LimitKeeper  # noqa: PLC0415  only where a live test runs
    from private_world import PrivateWorld  # noqa: PLC0415
    from scratch_namespace import ScratchNamespace  # noqa: PLC0415
    from stage import LIMIT, Stage  # noqa: PLC0415

    with LimitKeeper() as keeper, ScratchNamespace() as table, PrivateWorld(tmp_path) as world:
        keeper.own(table.number)
        keeper.set_message_cost(0)
        keeper.set_limit(LIMIT)
        stage = Stage(keeper, table, world, numbered=request.param)
        yield stage
        stage.kernel.close()
        keeper.check()
