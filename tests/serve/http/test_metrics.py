"""Metrics are exact whichever process responds, and readable by Prometheus.

Real servers and real sockets. What is only in a log or in metrics is waited for: it is written
when the last byte of the response is sent.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from guarded import TEXTS, Guarded, gained, http, http_processes, only, scrape
from prometheus_client.parser import text_string_to_metric_families


def test_metrics_are_exact_whichever_process_answers(guarded: Guarded) -> None:
    server = guarded.server
    before = scrape(server)
    first, second = http_processes(server)
    answers = []
    for pid in (first, second):
        with only(server, pid), ThreadPoolExecutor(8) as pool:
            answers += pool.map(guarded.predict, (TEXTS[n : n + 4] for n in range(50)))
            for _ in range(3):
                guarded.predict("x", authorization="Bearer no")
            for _ in range(4):
                guarded.predict("")
            guarded.ask("GET", "/nothing")
            scrape(server)  # answered by this process, after it has counted the rest
    labels = Counter(each[0]["label"] for answer in answers for each in answer.json())
    texts = labels.total()
    tokens = sum(int(answer.headers["x-compute-tokens"]) for answer in answers)
    assert (len(answers), texts) == (100, 400)

    for pid in (first, second, first):
        with only(server, pid):
            grown = partial(gained, before, scrape(server))
        seconds = "textloop_request_duration_seconds_count"
        assert grown(seconds, route="/predict", status="200") == 100
        assert grown(seconds, route="/predict", status="401") == 6
        assert grown(seconds, route="/predict", status="422") == 8
        assert grown(seconds, route="other", status="404") == 2
        assert grown(seconds) == 116
        assert grown("textloop_request_errors_total", reason="unauthorized") == 6
        assert grown("textloop_request_errors_total", reason="invalid") == 8
        assert grown("textloop_request_errors_total") == 14
        assert grown("textloop_texts_total") == texts
        assert {each: grown("textloop_labels_total", label=each) for each in labels} == labels
        assert grown("textloop_labels_total") == texts
        assert grown("textloop_tokenize_duration_seconds_count") == 100
        # No health check was asked for, whose test inference would be in these.
        assert grown("textloop_batch_texts_sum") == texts
        assert grown("textloop_queue_duration_seconds_count") == texts
        assert grown("textloop_tokens_total") == tokens
        padding = grown("textloop_padding_tokens_total")
        assert grown("textloop_batch_tokens_sum") == tokens + padding
        passes = grown("textloop_batch_texts_count")
        assert 0 < passes <= texts
        assert grown("textloop_batch_tokens_count") == passes
        assert grown("textloop_forward_duration_seconds_count", device="cpu") == passes
        assert grown("textloop_forward_duration_seconds_bucket", le="+Inf") == passes
        assert grown("textloop_failed_texts_total") == 0


def test_gauges_tell_the_state_of_now(guarded: Guarded) -> None:
    version = http().get(f"{guarded.server.url}/health/live").headers["x-model-version"]
    values = scrape(guarded.server)
    about = {"arm": "champion", "model": "textloop", "version": version, "backend": "onnx"}

    assert values["textloop_model_processes_ready", frozenset()] == 2
    assert values["textloop_inflight_tokens", frozenset()] == 0
    assert values["textloop_model_info", frozenset(about.items())] == 1
    assert values["textloop_generation", frozenset()] == 0
    keys = {"valid": 3, "invalid": 0, "unreadable": 0}
    assert {
        state: values["textloop_api_keys", frozenset({("state", state)})] for state in keys
    } == keys


def test_exposition_is_what_prometheus_reads(guarded: Guarded) -> None:
    response = http().get(f"{guarded.server.url}/metrics")
    families = list(text_string_to_metric_families(response.text))

    assert response.headers["content-type"].startswith("text/plain; version=")
    assert {family.type for family in families} == {"counter", "gauge", "histogram"}
    assert all(family.name.startswith("textloop_") for family in families)
    assert all(family.documentation for family in families)
    assert len({family.name for family in families}) == len(families)
    names = {name for family in families for sample in family.samples for name in sample.labels}
    assert names == set(
        "arm backend device label le model reason route state status version".split()
    )
