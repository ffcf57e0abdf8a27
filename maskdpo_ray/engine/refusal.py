"""The one error of an engine that concerns a single request."""


class RequestRefused(Exception):
    """The engine would not take, or could not finish, this one request; the others go on."""
