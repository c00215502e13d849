"""Settings: defaults, bounds, and problems that name their place, all in one list."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conntrackd_guard.core import tuning, usage
from conntrackd_guard.core.configuration import Addresses, Buckets, FloodAction, FloodResponse, Mode, Policy, Share
from conntrackd_guard.core.errors import SettingsError
from conntrackd_guard.core.model import INT_MAX
from conntrackd_guard.settings import types
from conntrackd_guard.settings.keys import BY_NAME, FIXED, KEYS, RENAMED, Settings
from conntrackd_guard.settings.settings import DEFAULT, Entry, Problem, read_settings


def entry(key: str, value: str, line: int = 1, file: str = "guard.yaml") -> Entry:
    """Return `key: value` of a file."""
    return Entry(place=f"{file}:{line}", key=key, value=value)


def problems(*items: Entry | Problem) -> list[str]:
    """Return the lines of the error for these items."""
    with pytest.raises(SettingsError) as raised:
        read_settings(items)
    return str(raised.value).splitlines()


def test_without_entries_every_setting_has_its_default() -> None:
    """No entry: the defaults of the model, each with the origin `default`."""
    settings = read_settings()
    assert settings.policy == Policy()
    assert set(settings.origins.values()) == {DEFAULT}


def test_every_field_has_its_key() -> None:
    """No field of Policy or Settings is without a key, no key without a field; there are at most 20 keys."""
    expected = {field.name for field in (*fields(Policy), *fields(Settings))} - {"policy", "origins"}
    assert {key.field for key in KEYS} == expected
    assert len(KEYS) == len(BY_NAME) <= 20


def test_every_value_reaches_its_field() -> None:
    """Each key sets its attribute and is listed with its origin."""
    given_texts = {
        "mode": "dry-run", "raise_early": "off", "threshold": "70%", "growth_factor": "2",
        "budget": "256MiB", "min_available": "7.5%", "min_limit": "500_000", "max_limit": "1_000_000",
        "on_flood": "raise_to 900_000",
        "cooldown": "3s", "conflict_limit": "0", "buckets": "match", "trust_user_namespaces": "yes", "persist": "false",
        "notify": "/usr/bin/mail -s 'table full' ops",
        "metrics_file": "/var/lib/prometheus/node-exporter/guard.prom", "metrics_http": "9786",
        "sample_addresses": "prefix", "sample_retention": "7d", "history_retention": "30d",
    }  # fmt: skip
    assert set(given_texts) == set(BY_NAME)
    settings = read_settings(entry(key, text, line) for line, (key, text) in enumerate(given_texts.items(), 1))
    assert settings.policy == Policy(
        raise_early=False, threshold=0.7, growth_factor=2.0,
        budget=Share(bytes=256 * 2**20), min_available=Share(fraction=0.075), min_limit=500_000, max_limit=1_000_000,
        on_flood=FloodResponse(action=FloodAction.RAISE_TO, limit=900_000), cooldown_seconds=3.0, conflict_limit=0,
        buckets=Buckets.MATCH, trust_user_namespaces=True,
    )  # fmt: skip
    assert (settings.mode, settings.persist) == (Mode.DRY_RUN, False)
    assert settings.notify == ("/usr/bin/mail", "-s", "table full", "ops")
    assert (settings.metrics_file, settings.metrics_http) == (
        "/var/lib/prometheus/node-exporter/guard.prom",
        ("127.0.0.1", 9786),
    )
    assert (settings.sample_addresses, settings.sample_retention_seconds) == (Addresses.PREFIX, 7 * 86400)
    assert settings.history_retention_seconds == 30 * 86400
    assert settings.origins["mode"] == "guard.yaml:1"
    assert settings.origins["history_retention"] == f"guard.yaml:{len(KEYS)}"


def test_a_later_file_overrides_an_earlier_one() -> None:
    """The last entry for a key counts and is its origin."""
    settings = read_settings([entry("growth_factor", "2", 4), entry("growth_factor", "3", 7, "guard.d/10-x.yaml")])
    assert (settings.policy.growth_factor, settings.origins["growth_factor"]) == (3.0, "guard.d/10-x.yaml:7")


def test_an_overridden_value_is_checked_too() -> None:
    """A wrong value is a problem even if a later one overrides it."""
    assert problems(entry("growth_factor", "x", 4), entry("growth_factor", "3", 7)) == [
        "guard.yaml:4: growth_factor: found 'x', expected a number from 1.01 to 10"
    ]


def test_every_problem_is_listed_in_order() -> None:
    """Problems of files, unknown keys and wrong values are in one list."""
    assert problems(
        Problem(place="guard.yaml:1", text="found a mapping"),
        entry("treshold", "80%", 2),
        entry("zzzzzz", "1", 3),
        entry("budget", "99%", 4),
        entry("mode", "", 5),
    ) == [
        "guard.yaml:1: found a mapping",
        "guard.yaml:2: 'treshold': found an unknown key; did you mean threshold?",
        "guard.yaml:3: 'zzzzzz': found an unknown key; `guard config example` lists every key.",
        "guard.yaml:4: budget: found '99%', expected a percentage from 0.1% to 90%, or a size of 1MiB or more",
        "guard.yaml:5: mode: found nothing, expected act or dry-run",
    ]


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("settle", "is now `cooldown`"),
        (
            "kernel_line",
            "is a constant now: true, as the message proves that packets are dropped; `mode: dry-run` raises nothing",
        ),
        ("min_entries", "is a constant now: 8,192 entries, a useful step for small limits"),
        ("runway", "is a constant now: 30s, time to read a log message before the next raise"),
        ("settle_full", "is a constant now: 200ms, or `cooldown` if that is shorter"),
        ("raises_window", "is a constant now: 10min, longer than a burst"),
        ("standoff_window", "is a constant now: 1d, as configuration tools usually run daily"),
        ("sample_entries", "is a constant now: 5,000, which shows shares within 1.4 points"),
    ],
)
def test_a_former_setting_is_refused_with_its_successor(key: str, hint: str) -> None:
    """A renamed key is refused with its new name, one that became a constant with its value and reason."""
    assert problems(entry(key, "1")) == [f"guard.yaml:1: {key}: {hint}"]


def test_former_names_lead_to_present_ones() -> None:
    """Each renamed key names a key that exists; no former name is a key."""
    assert set(RENAMED.values()) <= BY_NAME.keys() | FIXED.keys()
    assert not (RENAMED.keys() | FIXED.keys()) & BY_NAME.keys()
    assert not RENAMED.keys() & FIXED.keys()


@pytest.mark.parametrize(
    ("key", "least", "most", "outside"),
    [
        ("threshold", "35%", "95%", ["34.9%", "95.1%", "0.8", "80"]),
        ("growth_factor", "1.01", "10", ["1", "1.009", "10.1", "1e1", "nan"]),
        ("budget", "0.1%", "90%", ["0%", "0.05%", "90.1%", "1000k", "0", "2000000T", "512MB"]),
        ("min_available", "1%", "90%", ["0%", "91%", "0", "none"]),
        ("max_limit", "1", str(INT_MAX), ["0", str(INT_MAX + 1), "auto", "-5"]),
        (
            "on_flood",
            "hold",
            "raise",
            ["raise_to", "raise_to 0", "raise_to x", "hold 5", f"raise_to {INT_MAX + 1}"],
        ),
        ("on_flood", "raise_to 1", f"raise_to {INT_MAX}", ["raise 5", "drop"]),
        ("cooldown", "200ms", "1h", ["61min", "-1s", "infinity"]),
        ("conflict_limit", "0", str(tuning.MOST_CONFLICTS), [str(tuning.MOST_CONFLICTS + 1), "never"]),
        ("metrics_file", "none", "/a b/ü.prom", ["guard.prom", "/x.txt", "/.prom", "/x/.prom", "/x.prom/"]),
        (
            "metrics_http",
            "1024",
            "65535",
            [
                "0",
                "80",
                "65536",
                "0.0.0.0:80",
                ":9786",
                "auto",
                "::1:9786",
                "[127.0.0.1]:9786",
                "localhost:9786",
                "1.2:9786",
            ],
        ),
        ("history_retention", "1d", "3650d", ["23h", "3651d"]),
        ("mode", "act", "dry-run", ["dry_run", "ACT", "audit"]),
        ("persist", "yes", "no", ["maybe", "1", "null", "~"]),
        ("notify", "none", "/a '' \"b  c\"", ["mail ops", "./a", "/a | b", "/a > b", '/a "b', "None", '""']),
    ],
)
def test_bounds(key: str, least: str, most: str, outside: list[str]) -> None:
    """The bounds themselves are accepted; beyond them the message has the value and the expectation."""
    for text in (least, most):
        assert read_settings([entry(key, text)]).origins[key] == "guard.yaml:1"
    for text in outside:
        (line,) = problems(entry(key, text))
        assert line == f"guard.yaml:1: {key}: found '{text}', expected {BY_NAME[key].kind.expected}"


@pytest.mark.parametrize("key", [key.name for key in KEYS])
def test_a_leading_zero_is_refused_in_every_setting(key: str) -> None:
    """`010` is 8 to some programs and 10 to others."""
    for text in ("010", "010%", "010s", "010MiB", "01.5", "raise_to 010", "1h 010min"):
        (line,) = problems(entry(key, text))
        assert f"found '{text}', expected" in line


def test_a_path_with_control_characters_is_refused() -> None:
    """The message shows them escaped."""
    (line,) = problems(entry("metrics_file", "/x\u202e.prom"))
    assert r"found '/x\u202e.prom', expected none, or an absolute path" in line


def test_the_lowest_threshold_is_above_the_gate() -> None:
    """Tables below the gate are never read, so neither a threshold nor its release may be there."""
    least = read_settings([entry("threshold", "35%")]).policy.threshold
    assert least - usage.RELEASE >= usage.GATE_USE - 1e-9


def test_the_table_of_keys_is_valid() -> None:
    """Every default and every alternative is accepted, and no text is missing."""
    for key in KEYS:
        assert key.kind.write(key.kind.read(key.default)) == key.default
        assert key.does.endswith(".")
        assert key.source
        assert len(key.instead) in (1, 2)
        for value, breaks in key.instead:
            assert key.kind.read(value) != key.kind.read(key.default)
            assert breaks


@pytest.mark.parametrize("key", ["cooldown", "sample_retention", "history_retention"])
def test_half_and_double_are_half_and_double(key: str) -> None:
    """A quantity is explained with half and double its default."""
    read, instead = BY_NAME[key].kind.read, BY_NAME[key].instead
    default = read(BY_NAME[key].default)
    assert [read(value) for value, _ in instead] == [default / 2, default * 2]


@given(st.sampled_from(KEYS), st.text(max_size=80))
def test_any_text_is_accepted_or_refused_on_one_printable_line(key: object, text: str) -> None:
    """No text raises anything but SettingsError, and no control character reaches the message."""
    name = getattr(key, "name", "")
    try:
        read_settings([entry(name, text), entry(text, text)])
    except SettingsError as error:
        for line in str(error).splitlines():
            assert re.fullmatch(r"guard\.yaml:1: [\x20-\x7e]+", line)


@given(st.lists(st.text(st.characters(blacklist_categories=("C", "Z"), whitelist_characters=" "), max_size=20)))
def test_a_printed_command_reads_back(arguments: list[str]) -> None:
    """`config show` prints a command as text that gives the same words."""
    words = ("/bin/x", *(word for word in arguments if word not in types._SHELL_ONLY))
    written = BY_NAME["notify"].kind.write(words)
    assert read_settings([entry("notify", written)]).notify == words


@given(
    st.sampled_from(["budget", "min_available"]),
    st.integers(2**20, 2**60) | st.integers(100, 9000).map(lambda n: n / 100),
)
def test_a_printed_amount_reads_back(key: str, amount: float) -> None:
    """`config show` prints a share of memory as text that gives the same value."""
    text = str(amount) if isinstance(amount, int) else f"{amount}%"
    settings = read_settings([entry(key, text)])
    assert read_settings([entry(key, BY_NAME[key].value_text(settings))]).policy == settings.policy
