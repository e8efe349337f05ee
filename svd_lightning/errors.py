"""The one exception that means: the user's input is wrong, and the message says how to mend it."""


class InputError(ValueError):
    """Bad input from a user; the command line prints its message as one line, without a traceback."""
