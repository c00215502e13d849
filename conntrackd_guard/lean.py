"""What the daemon does without. Import this first.

Each of these is optional to whoever imports it, and costs the daemon memory for nothing: rich (5 MB,
which structlog takes for tracebacks that are never printed), ssl (4 MB, which asyncio takes), OpenSSL's
hashes (3 MB; hashlib has its own), and asyncio itself (2 MB, which structlog takes for the methods that
log from coroutines; there are none here).
"""

from __future__ import annotations

import sys
from types import ModuleType

for _name in ("rich", "ssl", "_hashlib"):
    sys.modules.setdefault(_name, None)  # type: ignore[arg-type] # Python's own mark for "do not import"
sys.modules.setdefault("asyncio", ModuleType("asyncio"))
