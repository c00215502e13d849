"""Tuning constants: figures that no host needs to set, each with its reason.

Read them as `tuning.NAME`, so that a test can replace one.
"""

MIN_STEP = 8192
"""Entries that a raise adds at least, so that small limits grow in useful steps.

Judgement: about 5 MiB at 640 bytes an entry, the planning figure when the slab size can't be read. Half of it doubles
the raises of a limit up to 8,192; double it takes a fifth of the budget of a 512 MiB host in one raise.
"""

LOOKAHEAD_SECONDS = 30.0
"""A raise leaves room for this long at the measured growth.

Judgement: enough for an operator to read the log message before the next raise. Half of it doubles the raises under
steady growth; with double a short burst commits memory that stays committed after it.
"""

COOLDOWN_FULL_SECONDS = 0.2
"""Minimum time between raises while a table is full or drops packets; `cooldown`, when that is shorter.

A raise without a measured demand can fill within 2 s. At half of it demand is measured over two readings, which is too
rough; at double it packets are dropped for twice as long after a raise that was too small.
"""

MAX_RAISES = 20
"""Raises of tables that only fill up, within MAX_RAISES_WINDOW_SECONDS. A table that drops packets is exempt.

Judgement: 20 raises by half make the limit 3,325 times as large; more is a fault, not traffic.
"""

MAX_RAISES_WINDOW_SECONDS = 600.0
"""Judgement: longer than a burst, shorter than the time an operator needs to be called and log in."""

INCIDENT_SECONDS = 600.0
"""Judgement: decisions within this time belong to one incident, which is over within minutes."""

CONFLICT_WINDOW_SECONDS = 86400.0
"""Window of `conflict_limit`. Judgement: daily runs of configuration tools are the usual other writer."""

MOST_CONFLICTS = 100
"""Conflicts that the state keeps, and the maximum of `conflict_limit`. Judgement: nobody waits for more in a day."""

STANDING_SECONDS = 10.0
"""Another program's value that stands for less is passing: neither a conflict nor a reason to drop the saved limit.

Judgement: `sysctl --system` passes through other values within milliseconds, scripts and restarts of firewalls within
seconds.
"""

SAMPLE_ENTRIES = 5000
"""Entries read to find what fills a table: shares are within 1.4 points, and reading takes about 35 ms (measured)."""

HISTORY_MAX_ROWS = 200_000
"""Decisions kept in the history. Judgement: 500 a day for 400 days; repeated holds share a row."""

HISTORY_MAX_BYTES = 256 << 20
"""What the history takes at most. Holds are deleted first, raises last.

Judgement: 13,000 decisions of the largest kind (32 tables, 20 KB), far more of the usual 5 KB; a small part of any disk.
With half of it the largest kind fills it in a month of 430 a day, with double a small /var notices.
"""
