"""Figures for Prometheus, served over HTTP."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from flexiast.errors import SinkError
from flexiast.extras import require
from flexiast_runtime.audio.signal import Signal
from flexiast_runtime.detection.records import Event, Record, SourceNotice, Status, Switch
from flexiast_runtime.sinks.sink import RunContext

if TYPE_CHECKING:
    from prometheus_client.core import Metric

PORT = 9464
LATENCIES_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Metrics:
    """Serves /metrics from a registry of its own, on this machine only unless another host is given."""

    def __init__(self, host: str = "127.0.0.1", port: int = PORT) -> None:
        self.name = f"metrics://{host}:{port}"
        self._host, self._port = host, port

    def open(self, context: RunContext) -> None:
        prometheus = require("prometheus_client", "service")
        registry = prometheus.CollectorRegistry()
        self._meters = _Meters(prometheus, registry, context)
        registry.register(_SinkMeters(context))
        try:
            self._server, self._thread = prometheus.start_http_server(self._port, self._host, registry)
        except OSError as error:
            raise SinkError(f"{self.name} cannot be served: {error.strerror}; name another port") from error

    @property
    def port(self) -> int:
        """The port in use, also where 0 requested any."""
        return self._server.server_port

    def wants(self, record: Record) -> bool:
        return isinstance(record, Event | Switch | Status | SourceNotice)

    def deliver(self, record: Event | Switch | Status | SourceNotice) -> None:
        self._meters.count(record)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Meters:
    """Records as Prometheus's counters, gauges and histograms."""

    def __init__(self, prometheus: Any, registry: Any, context: RunContext) -> None:
        def meter(kind: Any, name: str, text: str, *labels: str, **more: Any) -> Any:
            return kind(f"flexiast_{name}", text, labels, registry=registry, **more)

        counter, gauge, histogram = prometheus.Counter, prometheus.Gauge, prometheus.Histogram
        self._events = meter(counter, "events", "Events detected", "source", "label")
        self._windows = meter(counter, "windows", "Windows classified", "source", "patch_size")
        self._misses = meter(counter, "deadline_misses", "Windows that took too long", "source", "patch_size")
        self._latency = meter(
            histogram, "latency_seconds", "Compute time of a window", "patch_size", buckets=LATENCIES_S
        )
        self._switches = meter(counter, "switches", "Changes of the patch size", "source")
        self._lost = meter(counter, "lost_seconds", "Audio that was not classified", "source")
        self._backlog = meter(gauge, "backlog_seconds", "Audio that waits", "source")
        self._battery = meter(gauge, "battery_ratio", "Charge of the battery, 0 to 1")
        self._battery.set(math.nan)  # until one is seen
        self._up = meter(gauge, "source_up", "1 while the source delivers, 0 while it is lost", "source")
        self._signal = meter(gauge, "source_signal", "0 while the source delivers silence only", "source")
        self._clipped = meter(counter, "clipped_samples", "Samples at full scale", "source")
        self._invalid = meter(counter, "invalid_samples", "Samples that were no numbers", "source")
        self._gaps = meter(counter, "gaps", "Times that the device left out audio", "source")
        self._offset = meter(gauge, "offset_ratio", "Mean of the signal, full scale is 1", "source")
        self._level = meter(gauge, "level_dbfs", "Level of the last block", "source")
        self._totals: defaultdict[tuple[Any, str], float] = defaultdict(float)
        for source in context.sources:
            self._up.labels(source).set(1)
            self._signal.labels(source).set(1)
            self._begin_at_zero(source, context)

    def _begin_at_zero(self, source: str, context: RunContext) -> None:
        """A counter that appears with its first event hides that one from Prometheus's `increase()`."""
        for counter in (self._switches, self._lost, self._clipped, self._invalid, self._gaps):
            counter.labels(source)
        for label in context.labels:
            self._events.labels(source, label)
        for patch in context.patch_sizes:
            self._windows.labels(source, patch)
            self._misses.labels(source, patch)
            self._latency.labels(patch)

    def count(self, record: Event | Switch | Status | SourceNotice) -> None:
        if isinstance(record, Event):
            self._events.labels(record.source, record.label).inc()
        elif isinstance(record, Switch):
            self._switches.labels(record.source).inc()
        elif isinstance(record, SourceNotice):
            gauge = {"lost": self._up, "found": self._up, "signal": self._signal, "no signal": self._signal}
            if record.state in gauge:
                gauge[record.state].labels(record.source).set(record.state in {"found", "signal"})
        else:
            self._window(record)

    def _window(self, status: Status) -> None:
        patch = str(status.patch)
        self._windows.labels(status.source, patch).inc()
        self._misses.labels(status.source, patch).inc(status.latency_s > status.deadline_s)
        self._latency.labels(patch).observe(status.latency_s)
        self._raise(self._lost, status.source, status.dropped_s)
        self._backlog.labels(status.source).set(status.backlog_s)
        if status.battery is not None:
            self._battery.set(status.battery.fraction)
        if status.signal is not None:
            self._health(status.source, status.signal)

    def _health(self, source: str, signal: Signal) -> None:
        self._raise(self._clipped, source, signal.clipped)
        self._raise(self._invalid, source, signal.invalid)
        self._raise(self._gaps, source, signal.gaps)
        self._offset.labels(source).set(signal.dc_offset)
        self._level.labels(source).set(signal.level_dbfs)

    def _raise(self, counter: Any, source: str, total: float) -> None:
        """Raise a counter, which takes differences only, to a total."""
        counter.labels(source).inc(total - self._totals[counter, source])
        self._totals[counter, source] = total


class _SinkMeters:
    """Counts of the sinks, read at every scrape."""

    def __init__(self, context: RunContext) -> None:
        self._counts = context.counts

    def collect(self) -> Iterator[Metric]:
        core = require("prometheus_client.core", "service")
        records = core.CounterMetricFamily("flexiast_sink_records", "Records by outcome", labels=("sink", "outcome"))
        waiting = core.GaugeMetricFamily("flexiast_sink_waiting", "Records that wait", labels=("sink",))
        for counts in self._counts():
            for outcome in ("delivered", "retried", "dropped", "refused"):
                records.add_metric((counts.name, outcome), getattr(counts, outcome))
            waiting.add_metric((counts.name,), counts.waiting)
        return iter((records, waiting))
