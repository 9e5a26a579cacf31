"""The order in which events are reviewed, compared with a second implementation; and precision by verdicts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexiast.evaluation.per_label import wilson_interval
from flexiast_runtime.detection.records import Event
from flexiast_runtime.history.events import Query
from flexiast_runtime.history.precision import measure_precision
from flexiast_runtime.history.queue import Order, QueueQuery, Reviewed, read_neighbours, read_queue
from flexiast_runtime.history.verdicts import Verdict, give_verdict, read_reviewed
from tests.runtime.history.conftest import BUNDLE, NEWER, Fill, fill_history
from tests.runtime.sinks.conftest import BEGAN_AT_S, event

THRESHOLDS = {"dog": 0.5, "cat": 0.25, "rain": 0.75}


def listen(rows: Sequence[tuple[str, float]]) -> list[Event]:
    return [
        event(number, label, score=score, threshold=THRESHOLDS[label], bundle_sha256=BUNDLE)
        for number, (label, score) in enumerate(rows)
    ]


def least_sure_first(events: Sequence[Event], given_to: Sequence[Event]) -> list[str]:
    """Labels take turns; each begins as many turns later as it has verdicts. At odd turns the surest is shown."""
    queues, turn = defaultdict(list), Counter(one.label for one in given_to)
    for one in events:
        if one not in given_to:
            margin = (one.score - THRESHOLDS[one.label]) / (1 - THRESHOLDS[one.label])
            queues[one.label].append((margin, one))
    ranked = []
    for label, queue in queues.items():
        waiting = sorted(queue, key=lambda item: item[0])
        for place in range(turn[label], turn[label] + len(queue)):
            margin, one = waiting.pop(-1 if place % 2 else 0)
            ranked.append((place, margin, one.id))
    return [name for *_, name in sorted(ranked)]


@given(
    st.lists(st.tuples(st.sampled_from(sorted(THRESHOLDS)), st.integers(0, 999)), unique=True, max_size=14),
    st.sets(st.integers(0, 13)),
)
def test_the_least_sure_event_of_each_label_in_turn_then_its_surest(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int]], judged: set[int]
) -> None:
    events = listen([(label, THRESHOLDS[label] + (1 - THRESHOLDS[label]) * part / 1009) for label, part in rows])
    path = fill_history(tmp_path_factory.mktemp("queue"), events)
    given_to = [one for number, one in enumerate(events) if number in judged]
    for one in given_to:
        give_verdict(path, one.id, Verdict.WRONG, reviewer="ann", instead_of=None)
    queue = read_queue(path)
    assert (queue.unreviewed, queue.reviewed) == (len(events) - len(given_to), len(given_to))
    found = [one.event["id"] for one in queue.events]
    margins = {one.id: (one.score - THRESHOLDS[one.label]) / (1 - THRESHOLDS[one.label]) for one in events}
    expected = least_sure_first(events, given_to)
    assert sorted(found) == sorted(expected)
    # Equal turns and margins up to rounding may stand in either order.
    assert [margins[name] for name in found] == pytest.approx([margins[name] for name in expected])


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (QueueQuery(order=Order.NEWEST), [4, 3, 2, 0]),
        (QueueQuery(order=Order.OLDEST, reviewed=Reviewed.ANY), [0, 1, 2, 3, 4]),
        (QueueQuery(order=Order.OLDEST, reviewed=Reviewed.YES), [1]),
        (QueueQuery(order=Order.OLDEST, min_score=0.6, max_score=0.8), [2, 4]),
        (QueueQuery(Query(labels=("dog",)), order=Order.OLDEST, reviewed=Reviewed.ANY), [0, 1, 4]),
        (QueueQuery(Query(limit=2), order=Order.NEWEST), [4, 3]),
        (QueueQuery(Query(since_s=BEGAN_AT_S + 2, until_s=BEGAN_AT_S + 4), order=Order.OLDEST), [2, 3]),
        (QueueQuery(Query(labels=("dog", "it's", "?")), order=Order.OLDEST), [0, 4]),
    ],
)
def test_filters_choose_what_is_shown(fill: Fill, wanted: QueueQuery, numbers: list[int]) -> None:
    events = listen([("dog", 0.55), ("dog", 0.95), ("cat", 0.7), ("rain", 0.9), ("dog", 0.65)])
    path = fill(events)
    give_verdict(path, events[1].id, Verdict.RIGHT, reviewer="ann", instead_of=None)
    assert [one.event["id"] for one in read_queue(path, wanted).events] == [events[number].id for number in numbers]


def test_only_events_whose_clips_are_there_are_counted(fill: Fill) -> None:
    events = listen([("dog", 0.55), ("dog", 0.95), ("cat", 0.7)])
    path = fill(events)
    give_verdict(path, events[1].id, Verdict.RIGHT, reviewer="ann", instead_of=None)
    queue = read_queue(path, QueueQuery(with_clip={events[0].id, events[1].id, "f" * 16}))
    assert ([one.event["id"] for one in queue.events], queue.unreviewed, queue.reviewed) == ([events[0].id], 1, 1)
    assert read_queue(path, QueueQuery(with_clip=())).events == ()


def test_neighbours_are_those_of_the_same_source_near_in_time(fill: Fill) -> None:
    events = [event(0), event(20, "cat"), event(29, source="yard"), event(40, "rain"), event(5, started_at_s=None)]
    path = fill(events)
    assert [one.event["label"] for one in read_neighbours(path, events[1].document())] == ["dog", "rain"]
    assert [one.event["label"] for one in read_neighbours(path, events[0].document())] == ["cat"]
    assert read_neighbours(path, events[4].document()) == []


def test_precision_by_label_hour_and_model(fill: Fill) -> None:
    verdicts = ["right", "right", "wrong", "nothing", "other"]
    events = [
        event(3600 * number, "dog" if number < 3 else "cat", bundle_sha256=BUNDLE if number else NEWER)
        for number in range(5)
    ]
    path = fill([*events, event(9, "rain")])
    for one, verdict in zip(events, verdicts, strict=True):
        label = "owl" if verdict == "other" else None
        give_verdict(path, one.id, Verdict(verdict), label, reviewer="ann", instead_of=None)
    report = measure_precision(read_reviewed(path))
    document = report.document()
    assert (document["total"]["right"], document["total"]["reviewed"]) == (2, 5)
    assert [(one["label"], one["right"], one["reviewed"]) for one in document["labels"]] == [
        ("dog", 2, 3),
        ("cat", 0, 2),
    ]
    low, high = wilson_interval(2 / 3, 3)
    assert document["labels"][0]["interval"] == [round(low, 4), round(high, 4)]
    assert sum(one["reviewed"] for one in document["hours"]) == 5
    assert len(document["hours"]) == 5
    assert [(one["model"], one["reviewed"]) for one in document["bundles"]] == [("newer", 1), ("home", 4)]
    assert document["mistaken_for"] == [{"label": "cat", "true_label": "owl", "events": 1}]
    assert measure_precision([]).document()["total"] is None
