"""Make untrusted text safe to print."""

LONGEST_NAME = 64
"""Length of a container's id."""

LONGEST_REASON = 200
"""Of an override (judgement): it stands in every log message while raising is paused."""


def printable(text: str) -> str:
    r"""Return `text` on one line, with control characters, terminal escapes and bidi overrides escaped.

    Kernel messages, names of namespaces and processes, and reasons of overrides may come from an attacker: `\x1b[2J`
    clears the reader's screen, U+202E reverses a calculation.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def short(text: str) -> str:
    """Return `text` safe to print, cut to LONGEST_NAME: the name of a namespace may be a path of 4 KB."""
    shown = printable(text)
    return shown if len(shown) <= LONGEST_NAME else shown[: LONGEST_NAME - 1] + "…"


def capitalized(text: str) -> str:
    """Return `text`, which is not empty, as the beginning of a sentence; the rest stays as it is."""
    return f"{text[0].upper()}{text[1:]}"


def printable_lines(text: str) -> str:
    """Return `text` safe to print, with its line ends."""
    return "\n".join(map(printable, text.split("\n")))
