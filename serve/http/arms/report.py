"""What a server says of its releases: for `/info` and `/metrics`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from serve.http.arms.roles import Arms


def describe_arms(arms: Arms) -> dict[str, Any]:
    """The fields of `/info` on the generation, its arms, and the last refusal."""
    return {
        "generation": arms.generation,
        "arms": {role.name: role.arm.version for role in arms.roles},
        "refused": arms.refused.model_dump() if arms.refused else None,
    }


class ArmMetrics(Collector):
    """Metrics of the arms with which an HTTP process answers, made when they are asked for."""

    def __init__(self, arms: Arms, model: str) -> None:
        self.arms = arms
        self.model = model

    def collect(self) -> Iterator[Metric]:
        """Yield the models and the generation, and how many releases were refused."""
        info = GaugeMetricFamily(
            "textloop_model_info",
            "The models that answer; the value is always 1",
            labels=["arm", "model", "version", "backend"],
        )
        for role in self.arms.roles:
            info.add_metric([role.name, self.model, role.arm.version, role.arm.backend], 1)
        yield info
        yield GaugeMetricFamily(
            "textloop_generation",
            "Generation of the deployment directory that answers; 0 without one",
            value=self.arms.generation,
        )
        yield CounterMetricFamily(
            "textloop_releases_refused",
            "Promoted versions that this server refused since its start",
            value=self.arms.num_refused,
        )
