"""What Prometheus reads, parsed by its own parser."""

from __future__ import annotations

import math
import socket
import urllib.request
from collections.abc import Iterator

import pytest

from flexiast.errors import SinkError
from flexiast.spec import PatchSize
from flexiast_runtime.audio.signal import Signal
from flexiast_runtime.detection.records import EngineFailure, Overload, SourceNotice, Switch
from flexiast_runtime.hardware.battery import Battery
from flexiast_runtime.sinks.metrics import Metrics
from flexiast_runtime.sinks.sink import Counts, RunContext
from tests.runtime.sinks.conftest import event, status

parser = pytest.importorskip("prometheus_client.parser", reason="prometheus-client is not installed")
COUNTS = [Counts("sqlite:a.db", waiting=2, delivered=7, dropped=1), Counts("https://b", retried=3)]


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    metrics = Metrics(port=0)
    metrics.open(
        RunContext(("dog", "cat"), ("kitchen", "yard"), counts=lambda: COUNTS, patch_sizes=("16x16", "32x32")),
    )
    yield metrics
    metrics.close()


def scraped(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Value by name and the values of the labels, which stand in the order of their names."""
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics.port}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_records_become_figures(metrics: Metrics) -> None:
    small, large = PatchSize(16, 16), PatchSize(32, 32)
    for record in (
        event(0),
        event(1),
        event(2, 'a "cat"\n', source="yard"),
        status(latency_s=0.015, dropped_s=1.5, battery=Battery(0.5, True)),
        status(latency_s=0.4, dropped_s=2.0, backlog_s=0.25, signal=Signal(-20.0, -3.0, 0.25, 0.0, 5, 2, 1, 0.5)),
        status(latency_s=0.4, dropped_s=2.0, backlog_s=0.25, signal=Signal(-30.0, -3.0, 0.125, 0.0, 7, 2, 1, 0.5)),
        status(patch=large, source="yard", latency_s=0.003),
        Switch("kitchen", 1.0, small, large, "it took too long"),
        SourceNotice("kitchen", 2.0, "lost", "unplugged"),
        SourceNotice("yard", 2.0, "no signal", "silence"),
        SourceNotice("kitchen", 2.5, "channels", "they cancel; one of them is heard"),
    ):
        metrics.deliver(record)
    figures = scraped(metrics)
    assert figures["flexiast_events_total", "dog", "kitchen"] == 2
    assert figures["flexiast_events_total", 'a "cat"\n', "yard"] == 1
    assert figures["flexiast_windows_total", "16x16", "kitchen"] == 3
    assert figures["flexiast_deadline_misses_total", "16x16", "kitchen"] == 2
    assert figures["flexiast_latency_seconds_bucket", "0.02", "16x16"] == 1
    assert figures["flexiast_latency_seconds_bucket", "0.5", "16x16"] == 3
    assert figures["flexiast_latency_seconds_count", "32x32"] == 1
    assert figures["flexiast_switches_total", "kitchen"] == 1
    assert figures["flexiast_lost_seconds_total", "kitchen"] == 2.0
    assert figures["flexiast_backlog_seconds", "kitchen"] == 0.25
    for name, value in (("clipped_samples", 7), ("invalid_samples", 2), ("gaps", 1)):
        assert figures[f"flexiast_{name}_total", "kitchen"] == value
    assert figures["flexiast_offset_ratio", "kitchen"] == 0.125
    assert figures["flexiast_level_dbfs", "kitchen"] == -30.0
    assert ("flexiast_level_dbfs", "yard") not in figures  # not measured is not silent
    assert figures["flexiast_battery_ratio",] == 0.5
    assert [figures["flexiast_source_up", name] for name in ("kitchen", "yard")] == [0, 1]
    assert [figures["flexiast_source_signal", name] for name in ("kitchen", "yard")] == [1, 0]
    metrics.deliver(SourceNotice("kitchen", 3.0, "found", "plugged in"))
    assert scraped(metrics)["flexiast_source_up", "kitchen"] == 1


def test_the_sinks_of_the_run_are_among_them_and_no_battery_is_none(metrics: Metrics) -> None:
    figures = scraped(metrics)
    assert math.isnan(figures["flexiast_battery_ratio",])  # not 0, which would be an empty one
    assert figures["flexiast_sink_records_total", "delivered", "sqlite:a.db"] == 7
    assert figures["flexiast_sink_records_total", "dropped", "sqlite:a.db"] == 1
    assert figures["flexiast_sink_records_total", "retried", "https://b"] == 3
    assert figures["flexiast_sink_waiting", "sqlite:a.db"] == 2


def test_it_serves_this_machine_only_and_says_when_the_port_is_taken(metrics: Metrics) -> None:
    assert metrics._server.server_address[0] == "127.0.0.1"
    said = "cannot be served: Address already in use; name another port"
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SinkError, match=said):
        Metrics(port=taken.getsockname()[1]).open(RunContext())


def test_every_counter_is_there_before_the_first_event(metrics: Metrics) -> None:
    """Else `increase()` sees no first one: what records count later was 0 before, but for labels that no model has."""
    before = scraped(metrics)
    for record in (
        event(0),
        event(1, "cat", source="yard"),
        status(dropped_s=1.0, latency_s=9.0, signal=Signal(-20.0, -3.0, 0.25, 0.0, 5, 2, 1, 0.5)),
        Switch("yard", 1.0, PatchSize(16, 16), PatchSize(32, 32), "it took too long"),
    ):
        metrics.deliver(record)
    raised = {key: value for key, value in scraped(metrics).items() if key[0].endswith(("_total", "_count", "_bucket"))}
    assert {key: before.get(key) for key in raised if before.get(key) != raised[key]} == {
        key: 0 for key in raised if raised[key] != before.get(key)
    }
    assert len([key for key in raised if raised[key] != before[key]]) > 8


def test_what_has_no_figure_is_not_wanted(metrics: Metrics) -> None:
    patch = PatchSize(16, 16)
    assert not metrics.wants(EngineFailure("kitchen", 1.0, patch, "out of memory"))
    assert not metrics.wants(Overload("kitchen", 1.0, patch, 0.2, 0.1))
    assert metrics.wants(status())
