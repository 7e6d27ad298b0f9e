"""The one exception that stands for a user's mistake; the command prints it as a single line."""


class UserError(Exception):
    """Something the user can mend: the message names the file or field, what is wrong, and the fix."""
