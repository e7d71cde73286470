"""How a model process begins: beside live traffic it loads at the lowest priority.

Imports included; its main thread, which later starts the forward threads, keeps the usual one, and
imports nothing heavy before.
"""

from __future__ import annotations

from serve.processes.order import Order
from serve.processes.priority import aside


def run_model_process(order: Order) -> None:
    """Run a model process until its parent is gone: what the process is started with."""
    if order.is_beside:
        aside(_import)
    from serve.processes.model import run_model

    run_model(order)


def _import() -> None:
    import serve.processes.model  # noqa: F401
