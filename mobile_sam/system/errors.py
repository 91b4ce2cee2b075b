"""Errors that a user can correct, each shown as a sentence without a traceback."""


class UserError(ValueError):
    """Error that the user can correct; the message names the cause and the remedy."""


class ConfigError(UserError):
    """Wrong setting or argument; the message names file, key and value."""
