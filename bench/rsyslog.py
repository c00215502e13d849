"""rsyslog as a yardstick: Debian's package, unpacked in a folder of the bench and never installed."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bench.contenders import LIMIT_FILE, Contender
from bench.ground import progress

_PACKAGES = ("rsyslog", "libestr0", "libfastjson4", "liblognorm5")
_SETTINGS = """module(load="imklog")
:msg, contains, "nf_conntrack: table full" ^{folder}/raise
"""
_SCRIPT = f"""#!/bin/sh
echo $(($(cat {LIMIT_FILE}) * 3 / 2)) >{LIMIT_FILE}
"""
_START = """
timeout 0.5 cat /proc/kmsg >/dev/null  # messages from before
(sleep 1; echo ready) &
export LD_LIBRARY_PATH=$1
exec "$2/usr/sbin/rsyslogd" -n -M "$1/rsyslog" -f "$2/settings" -i "$2/pid"
"""


def unpack(folder: Path) -> Contender | None:
    """Return rsyslog with a shell script that raises the limit, unpacked in `folder`; None if it can't be downloaded."""
    try:
        subprocess.run(["apt-get", "-qq", "download", *_PACKAGES], cwd=folder, check=True, capture_output=True)
        for package in folder.glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", str(package), str(folder)], check=True)
        libraries = next(folder.glob("usr/lib/*/rsyslog")).parent
    except (OSError, subprocess.CalledProcessError, StopIteration) as error:
        progress(f"rsyslog is left out: apt-get could not download it ({error})")
        return None
    (folder / "settings").write_text(_SETTINGS.format(folder=folder), "utf-8")
    script = folder / "raise"
    script.write_text(_SCRIPT, "utf-8")
    script.chmod(0o755)
    return Contender(
        name="rsyslog with a shell script", command=("sh", "-c", _START, "sh", str(libraries), str(folder))
    )
