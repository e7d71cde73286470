"""The base of refusals: a command decides, with reasons, not to do what it was asked to do."""

from __future__ import annotations

from serve.command.run import Refusal


class Refused(Refusal):
    """A stage refused; the message states the reason. The command line exits with 1."""
