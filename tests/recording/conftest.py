"""Settings belong to whoever runs the tests."""

from testbed.overridden import settings_of_whoever_tests

__all__ = ["settings_of_whoever_tests"]
