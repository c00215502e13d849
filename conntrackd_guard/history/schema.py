"""The tables of a history file, and the migrations between versions.

`decisions` holds what a list of decisions shows, `evidence` the large rest: so a hundred thousand decisions can be listed
without reading a hundred megabytes of JSON. `samples` holds analyses of the tables concerned, `verifications` those of
raises. `history.series` has the time series.
"""

from typing import Final

from conntrackd_guard.history.series import TABLES

FOLDED: Final = "(verdict != 'hold' OR trigger = 'other_writer')"
"""The rows that `core.state.advance` can care about: raises (refused ones too), overrides, other writers."""

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
        "CREATE TABLE policies (hash TEXT PRIMARY KEY, json TEXT NOT NULL) WITHOUT ROWID",
        """CREATE TABLE decisions (
            id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE,
            at TEXT NOT NULL, at_seconds REAL NOT NULL, boottime_seconds REAL NOT NULL, boot_id TEXT NOT NULL,
            mode TEXT NOT NULL, trigger TEXT NOT NULL, namespace INTEGER, message TEXT NOT NULL,
            verdict TEXT NOT NULL, reason TEXT NOT NULL, from_limit INTEGER, to_limit INTEGER,
            outcome TEXT NOT NULL, limit_after INTEGER, errno INTEGER, detail TEXT NOT NULL,
            sentence TEXT NOT NULL, fingerprint TEXT NOT NULL,
            policy_hash TEXT NOT NULL REFERENCES policies (hash),
            guard_version TEXT NOT NULL, kernel_release TEXT NOT NULL, uid INTEGER, login_uid INTEGER,
            repeats INTEGER NOT NULL DEFAULT 1, last_at TEXT NOT NULL, last_seconds REAL NOT NULL)""",
        """CREATE TABLE evidence (
            id INTEGER PRIMARY KEY REFERENCES decisions (id) ON DELETE CASCADE,
            trigger TEXT NOT NULL, observation TEXT NOT NULL, state TEXT NOT NULL,
            decision TEXT NOT NULL, arithmetic TEXT)""",
        "CREATE INDEX decisions_fingerprint ON decisions (boot_id, fingerprint)",
        f"CREATE INDEX decisions_folded ON decisions (boot_id) WHERE {FOLDED}",
        """CREATE TABLE samples (
            id INTEGER PRIMARY KEY REFERENCES decisions (id) ON DELETE CASCADE,
            at_seconds REAL NOT NULL, cause TEXT NOT NULL, analysis TEXT NOT NULL)""",
        """CREATE TABLE verifications (
            id INTEGER PRIMARY KEY REFERENCES decisions (id) ON DELETE CASCADE, json TEXT NOT NULL)""",
        *TABLES,
    ),
)
"""Migration N brings a file from `user_version` N to N + 1. Append only, once a version is released."""
