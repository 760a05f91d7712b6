"""The exceptions of this package: each subclass tells its caller what to do about it."""


class SupervisorError(Exception):
    """The root; its text is fit for a user to read."""


class UnknownModel(SupervisorError):
    """No model of that name or alias is configured: answer 404 on the control plane, 400 on the data plane."""


class Refused(SupervisorError):
    """What was asked for is not possible now, for the reason given: answer 409."""


class NotInTime(SupervisorError):
    """The outcome did not come in the time allowed: answer 504."""


class WorkerError(SupervisorError):
    """A worker could not be brought into the state asked for; the text has its last words."""


class StartError(SupervisorError):
    """The daemon cannot start: print the text, one line, and exit."""
