"""How a model process begins: beside live traffic it loads at the lowest priority.

Imports included: until its thread of that priority runs, it imports the standard library only, and
the order is bytes. Its main thread, which later starts the forward threads, keeps the usual
priority.
"""

from __future__ import annotations

import pickle

from serve.command.priority import aside


def run_model_process(order: bytes, is_beside: bool) -> None:
    """Run a model process until its parent is gone: what the process is started with.

    order: a pickled `serve.processes.order.Order`. is_beside: whether others answer meanwhile.
    """
    if is_beside:
        aside(_import)
    from serve.processes.model import run_model

    run_model(pickle.loads(order))


def _import() -> None:
    import serve.processes.model  # noqa: F401
