"""The made-up host, for every test here."""

from guarded import host

__all__ = ["host"]
