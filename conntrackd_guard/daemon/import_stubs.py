"""What the daemon does without. Import this first.

Each of these is optional to whoever imports it, and costs the daemon memory for nothing: rich (5 MB,
which structlog takes for tracebacks that are never printed), ssl (4 MB, which asyncio takes), OpenSSL's
hashes (3 MB; hashlib has its own), asyncio itself (2 MB, which structlog takes for the methods that
log from coroutines; there are none here), ipaddress (0.2 MB, for IPv6 in URLs, which pathlib can print), and
pickle (0.2 MB, of which structlog takes an exception's name).
"""

from __future__ import annotations

import sys
from types import ModuleType

for _name in ("rich", "ssl", "_hashlib"):
    sys.modules.setdefault(_name, None)  # type: ignore[arg-type] # Python's own mark for "do not import"
for _name in ("asyncio", "ipaddress", "pickle"):
    sys.modules.setdefault(_name, ModuleType(_name))
sys.modules["pickle"].__dict__.setdefault("PicklingError", Exception)
