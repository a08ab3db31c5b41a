"""The exits that are not a crash, and their codes."""

DONE, CRASHED, WRONG_INPUT, PREEMPTED = 0, 1, 2, 3


class UserError(Exception):
    """The user's input is wrong. The message is one line: what, where, what to do. Exit code 2."""


class Preempted(Exception):
    """Work was interrupted after saving; running the same command again continues it. Exit code 3."""


class StageFailed(Exception):
    """A child process of a stage failed; the message holds its last lines and where the log is. Exit code 1."""
