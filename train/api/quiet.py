"""How training behaves inside of a process that is not its own."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout

from serve.command.failures import explain
from serve.command.folder import libraries_first
from serve.command.run import Refusal
from serve.privacy import refuse_hub_kernels, silence


@contextmanager
def as_guest(*, verbose: bool) -> Iterator[None]:
    """Train as a part of somebody's program: no telemetry, errors as exceptions of Python's own.

    verbose False: nothing is printed. Refusals become ValueErrors, and a missing extra an
    ImportError with what to install.
    """
    silence()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    transformers = logging.getLogger("transformers")
    level = transformers.level
    transformers.setLevel(logging.ERROR)  # it may be imported already, and not read the variable
    had_kernels = "kernels" in sys.modules
    refuse_hub_kernels()
    with ExitStack() as stack:
        stack.enter_context(libraries_first())
        if not verbose:
            stack.enter_context(redirect_stdout(io.StringIO()))
            stack.enter_context(redirect_stderr(io.StringIO()))
        try:
            yield
        except Refusal as refusal:
            raise ValueError(f"refused: {refusal}") from refusal
        except ModuleNotFoundError as error:
            explained = explain(error, "train")
            if explained is None:
                raise
            raise ImportError(explained[0]) from error
        finally:
            transformers.setLevel(level)
            if not had_kernels and sys.modules.get("kernels", True) is None:
                del sys.modules["kernels"]
