"""What stops a run, or one measurement of it, with what to do next."""


class Problem(Exception):
    pass


def tail(path, lines=8):
    """The end of a log, indented, to show under an error."""
    try:
        text = path.read_text(errors="replace").strip().splitlines()[-lines:]
    except OSError:
        return ""
    return "".join(f"\n    | {line}" for line in text)
