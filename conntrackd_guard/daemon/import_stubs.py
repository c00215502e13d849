"""Replace modules that the daemon never uses. Import this first.

Their importers treat each as optional, and it costs memory (RSS): rich (5 MB, structlog imports it for
tracebacks, which the daemon does not print), ssl (4 MB, by asyncio), OpenSSL's hashes (3 MB; hashlib has its
own), asyncio (2 MB, by structlog for logging from coroutines; there are none), ipaddress (0.2 MB, by pathlib
for IPv6 in URLs), and pickle (0.2 MB, by structlog for the name of an exception).
"""

import sys
from types import ModuleType

for _name in ("rich", "ssl", "_hashlib"):
    sys.modules.setdefault(_name, None)  # type: ignore[arg-type] # Python's own mark for "do not import"
for _name in ("asyncio", "ipaddress", "pickle"):
    sys.modules.setdefault(_name, ModuleType(_name))
sys.modules["pickle"].__dict__.setdefault("PicklingError", Exception)
