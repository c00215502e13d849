"""The reader's time zone: $TZ, else the host's, else UTC."""

from datetime import UTC, datetime, timedelta, tzinfo


class HostZone(tzinfo):
    """The zone as the C library knows it, which takes a damaged /etc/localtime for UTC: `zoneinfo` reads one for ever."""

    def utcoffset(self, when: datetime | None) -> timedelta | None:
        """Return the offset of a time; the first one for an hour that repeats, or that is left out."""
        if when is None:
            return None
        local = when.replace(
            tzinfo=None
        )  # `astimezone` moves an hour that is left out, from Python 3.13 on to after it
        return local - datetime.fromtimestamp(local.timestamp(), UTC).replace(tzinfo=None)

    def dst(self, _: datetime | None) -> None:
        """Return None: unknown."""

    def tzname(self, when: datetime | None) -> str | None:
        """Return the zone's name at a time."""
        return None if when is None else when.replace(tzinfo=None).astimezone().tzname()

    def fromutc(self, when: datetime) -> datetime:
        """Return a time in UTC as one of this zone."""
        return when.replace(tzinfo=UTC).astimezone().replace(tzinfo=self)
