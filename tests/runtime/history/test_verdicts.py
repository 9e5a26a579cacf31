"""Verdicts: stored in a transaction, changed only by one who saw what he changes, with the model that was judged."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flexiast.errors import ChangedError, DataError, FlexiastError, LockedError, UsageError
from flexiast_runtime.history import database as database_module
from flexiast_runtime.history.clips import Span, read_span
from flexiast_runtime.history.events import Query, read_events
from flexiast_runtime.history.marks import Mark, mark_sound, marks_folder, read_marks, remove_mark
from flexiast_runtime.history.stored_audio import Stretch
from flexiast_runtime.history.verdicts import (
    Judgement,
    Verdict,
    find_last_bundle,
    find_reviewed,
    give_verdict,
    read_bundles,
    read_reviewed,
    read_verdicts,
    withdraw_verdict,
)
from tests.runtime.history.conftest import BUNDLE, LABELS, NEWER, Fill
from tests.runtime.sinks.conftest import BEGAN_AT_S, RATE_HZ, event

EVENTS = [event(number, threshold=0.5, bundle_sha256=BUNDLE) for number in range(4)]


@pytest.mark.parametrize(
    ("verdict", "label", "stored"),
    [
        (Verdict.RIGHT, None, "dog"),
        (Verdict.WRONG, None, None),
        (Verdict.OTHER, "owl", "owl"),
        (Verdict.NOTHING, None, None),
    ],
)
def test_a_verdict_is_stored_with_who_when_and_which_model(
    fill: Fill, verdict: Verdict, label: str | None, stored: str | None
) -> None:
    path = fill(EVENTS)
    given = give_verdict(path, EVENTS[1].id, verdict, label, reviewer="ann", instead_of=None, now_s=1.5)
    assert given == Judgement(verdict, stored, 1.5, "ann")
    assert read_verdicts(path) == {EVENTS[1].id: given}
    (reviewed,) = read_reviewed(path)
    assert (reviewed.event, reviewed.judgement) == (EVENTS[1].document(), given)
    assert (reviewed.model, reviewed.bundle_sha256) == ("home", BUNDLE)
    assert read_bundles(path)[BUNDLE].labels == LABELS
    assert find_reviewed(path, [one.id for one in EVENTS]) == {EVENTS[1].id}


def test_an_event_keeps_the_hash_of_its_bundle_and_the_threshold_it_reached(fill: Fill) -> None:
    newer = event(9, threshold=0.25, bundle_sha256=NEWER)
    path = fill([*EVENTS, newer, event(10)])
    hashes = [(one["bundle_sha256"], one["threshold"]) for one in read_events(path)]
    assert hashes == [(BUNDLE, 0.5)] * 4 + [(NEWER, 0.25), (None, None)]
    assert {bundle.model for bundle in read_bundles(path).values()} == {"home", "newer"}
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT bundle_sha256, threshold FROM events ORDER BY started_at_s").fetchall()
    assert rows == hashes


def test_the_last_bundle_is_the_one_that_gave_the_last_event(fill: Fill) -> None:
    """Also after `swap --back`, and where the last event has no hash."""
    for number, (hashed, model) in enumerate([(BUNDLE, "home"), (NEWER, "newer"), (None, "newer"), (BUNDLE, "home")]):
        found = find_last_bundle(fill([event(number, bundle_sha256=hashed)]))
        assert found is not None and (found.model, len(found.labels)) == (model, 3 + (model == "newer"))


def test_a_verdict_can_be_changed_and_withdrawn_by_one_who_saw_it(fill: Fill) -> None:
    path, name = fill(EVENTS), EVENTS[0].id
    first = give_verdict(path, name, Verdict.WRONG, reviewer="ann", instead_of=None)
    with pytest.raises(ChangedError, match="meanwhile has the verdict wrong, said by ann"):
        give_verdict(path, name, Verdict.RIGHT, reviewer="bob", instead_of=None)
    with pytest.raises(ChangedError):
        withdraw_verdict(path, name, instead_of=None)
    assert read_verdicts(path) == {name: first}
    second = give_verdict(path, name, Verdict.OTHER, "cat", reviewer="bob", instead_of=first)
    assert read_verdicts(path) == {name: second}
    withdraw_verdict(path, name, instead_of=second)
    assert read_verdicts(path) == {}
    with pytest.raises(ChangedError, match="has no verdict any more"):
        withdraw_verdict(path, name, instead_of=second)


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.sampled_from(["ann", "bob"]),
            st.sampled_from([*Verdict, None]),
            st.booleans(),
        ),
        max_size=12,
    )
)
def test_two_reviewers_never_overwrite_what_they_did_not_see(
    fill: Fill, steps: list[tuple[int, str, Verdict | None, bool]]
) -> None:
    """Compared with a dictionary; each reviewer's view is refreshed only now and then."""
    path = fill(EVENTS)
    for name in read_verdicts(path):
        withdraw_verdict(path, name, instead_of=read_verdicts(path)[name])
    truth: dict[str, Judgement] = {}
    seen: dict[str, dict[str, Judgement]] = {"ann": {}, "bob": {}}
    for number, (place, who, verdict, looks) in enumerate(steps):
        if looks:
            seen[who] = read_verdicts(path)
        name, label = EVENTS[place].id, "cat" if verdict is Verdict.OTHER else None
        view = seen[who].get(name)
        try:
            if verdict is None:
                withdraw_verdict(path, name, instead_of=view)
            else:
                give_verdict(path, name, verdict, label, reviewer=who, instead_of=view, now_s=float(number))
        except ChangedError:
            assert truth.get(name) != view
            continue
        assert truth.get(name) == view
        truth.pop(name, None)
        if verdict is not None:
            truth[name] = Judgement(verdict, "dog" if verdict is Verdict.RIGHT else label, float(number), who)
    assert read_verdicts(path) == truth


def test_of_two_threads_that_judge_one_event_at_once_one_is_refused(fill: Fill) -> None:
    path, refused = fill(EVENTS), []

    def judge(reviewer: str) -> None:
        try:
            give_verdict(path, EVENTS[0].id, Verdict.WRONG, reviewer=reviewer, instead_of=None)
        except ChangedError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=judge, args=(name,)) for name in ("ann", "bob", "eve")]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    (stored,) = read_verdicts(path).values()
    assert len(refused) == 2
    assert all(stored.reviewer in text for text in refused)


def test_what_cannot_be_said_is_refused_and_changes_nothing(fill: Fill, tmp_path: Path) -> None:
    path = fill(EVENTS)
    cases: list[tuple[type[FlexiastError], str, str, Verdict, str | None]] = [
        (DataError, "holds no event", "0" * 16, Verdict.WRONG, None),
        (UsageError, "do not fit", EVENTS[0].id, Verdict.OTHER, None),
        (UsageError, "do not fit", EVENTS[0].id, Verdict.WRONG, "cat"),
        (UsageError, "what the model said", EVENTS[0].id, Verdict.OTHER, "dog"),
        (UsageError, "label", EVENTS[0].id, Verdict.OTHER, "a\nb"),
    ]
    for kind, text, name, verdict, label in cases:
        with pytest.raises(kind, match=text):
            give_verdict(path, name, verdict, label, reviewer="ann", instead_of=None)
    assert read_verdicts(path) == {}
    with pytest.raises(DataError, match="does not exist"):
        give_verdict(tmp_path / "none.db", EVENTS[0].id, Verdict.WRONG, reviewer="ann", instead_of=None)
    assert not (tmp_path / "none.db").exists()


def test_a_locked_database_says_so_and_a_later_version_is_left_alone(
    fill: Fill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "LOCKED_S", 0.05)
    path = fill(EVENTS)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LockedError, match="another program is writing"):
            give_verdict(path, EVENTS[0].id, Verdict.WRONG, reviewer="ann", instead_of=None)
        assert read_verdicts(path) == {}  # reading goes on
        other.execute("COMMIT")
        other.execute("UPDATE schema_version SET version = 9")
    with pytest.raises(DataError, match="has schema 9"):
        give_verdict(path, EVENTS[0].id, Verdict.WRONG, reviewer="ann", instead_of=None)


def test_reviewed_events_are_chosen_by_the_same_query_as_events(fill: Fill) -> None:
    path = fill([*EVENTS, event(7, "cat")])
    for one in (EVENTS[0], EVENTS[2], event(7, "cat")):
        give_verdict(path, one.id, Verdict.RIGHT, reviewer="ann", instead_of=None)
    assert [one.event["id"] for one in read_reviewed(path)] == [EVENTS[0].id, EVENTS[2].id, event(7, "cat").id]
    chosen = read_reviewed(path, Query(labels=("dog",), since_s=BEGAN_AT_S + 1))
    assert [one.event["id"] for one in chosen] == [EVENTS[2].id]


def test_marks_are_stored_and_forgotten_with_their_audio(fill: Fill) -> None:
    path, second = fill(EVENTS), np.zeros(RATE_HZ, np.float32)
    stretch = Stretch("kitchen", second, RATE_HZ, BEGAN_AT_S, 0.25, 0.75)
    mark = mark_sound(path, "owl", stretch, reviewer="ann", now_s=BEGAN_AT_S + 60)
    audio = marks_folder(path) / mark.audio
    assert (
        read_marks(path)
        == [mark]
        == [Mark(mark.id, "kitchen", "owl", BEGAN_AT_S, audio.name, 0.25, 0.75, BEGAN_AT_S + 60, "ann")]
    )
    assert soundfile.info(audio).frames == RATE_HZ and read_span(audio) == Span(0.25, 0.75)
    with pytest.raises(UsageError):
        mark_sound(path, "", stretch, reviewer="ann")
    assert list(marks_folder(path).iterdir()) == [audio]
    remove_mark(path, mark.id)
    assert read_marks(path) == []
    assert not audio.exists()
    with pytest.raises(DataError, match="holds no mark"):
        remove_mark(path, mark.id)
