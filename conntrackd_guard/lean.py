"""What the daemon does without. Import this first: `None` is Python's own mark for "do not import".

Each of these is optional to whoever imports it, and costs the daemon memory for nothing: rich (5 MB,
which structlog takes for tracebacks that are never printed), ssl (4 MB, which asyncio takes, which
structlog takes), and OpenSSL's hashes (3 MB; hashlib has its own).
"""

from __future__ import annotations

import sys

for _name in ("rich", "ssl", "_hashlib"):
    sys.modules.setdefault(_name, None)  # type: ignore[arg-type]
