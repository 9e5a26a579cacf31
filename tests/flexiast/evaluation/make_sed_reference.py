"""Writes `sed_reference.json`: random streams, and what sed_eval and sed_scores_eval say of them.

They are no dependencies of the tests: dcase_util, which both need, wants setuptools < 81, and sed_scores_eval 0.0.4
fails with pandas 3. In an environment of its own:

    pip install sed_eval==0.2.1 sed_scores_eval==0.0.4 "setuptools<81" "pandas<3"
    python tests/flexiast/evaluation/make_sed_reference.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

LABELS = ("dog", "rain")
STEP_S = 0.25


def make_streams() -> list[dict[str, Any]]:
    """Scores at every quarter of a second, better than chance, and true events; none in the last stream."""
    rng = np.random.default_rng(0)
    streams = []
    for number in range(4):
        events, columns = [], []
        middles = (np.arange(60) + 0.5) * STEP_S
        for label in LABELS:
            edges = np.sort(rng.choice(np.arange(1, 150), 6, replace=False)) / 10
            own = list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)) if number < 3 else []
            on = np.array([any(start <= middle < end for start, end in own) for middle in middles])
            columns.append(np.round(1 / (1 + np.exp(-(1.2 * on + rng.normal(-0.5, 0.8, 60)))), 2))
            events += [[label, start, end] for start, end in own]
        streams.append({"scores": np.stack(columns, axis=1).tolist(), "events": events})
    return streams


def score_by_overlap(streams: list[dict[str, Any]]) -> dict[str, Any]:
    import pandas as pd
    from sed_scores_eval import intersection_based

    edges = np.arange(61) * STEP_S
    inputs = {
        "scores": {
            str(number): pd.DataFrame(
                {"onset": edges[:-1], "offset": edges[1:]}
                | dict(zip(LABELS, zip(*one["scores"], strict=True), strict=True))
            )
            for number, one in enumerate(streams)
        },
        "ground_truth": {
            str(number): [(start, end, label) for label, start, end in one["events"]]
            for number, one in enumerate(streams)
        },
    }
    durations = {str(number): float(edges[-1]) for number in range(len(streams))}
    scores, counts = [], []
    for share in (0.1, 0.5, 0.7):
        tolerance = {"dtc_threshold": share, "gtc_threshold": share}
        for spread_cost in (0.0, 1.0):
            for most_per_hour in (100.0, 2_000.0):
                value, *_ = intersection_based.psds(
                    **inputs, audio_durations=durations, **tolerance, alpha_st=spread_cost, max_efpr=most_per_hour
                )
                given = {"share": share, "spread_cost": spread_cost, "most_per_hour": most_per_hour}
                scores.append(given | {"psds": float(value)})
        for threshold in (0.305, 0.505, 0.705):
            f1, precision, recall, stats = intersection_based.fscore(**inputs, threshold=threshold, **tolerance)
            for label in LABELS:
                figures = {"f1": f1[label], "precision": precision[label], "recall": recall[label]}
                figures = {name: float(value) for name, value in figures.items()} | {"false": int(stats[label]["fps"])}
                counts.append({"share": share, "threshold": threshold, "label": label} | figures)
    return {"psds": scores, "overlap": counts}


def score_by_onset(streams: list[dict[str, Any]]) -> list[dict[str, Any]]:
    import sed_eval
    from dcase_util.containers import MetaDataContainer

    def list_events(events: list[list[Any]]) -> Any:
        return MetaDataContainer(
            [{"event_label": label, "event_onset": start, "event_offset": end} for label, start, end in events]
        )

    found = []
    for collar_s in (0.25, 0.5):
        for threshold in (0.505, 0.705):
            metrics = sed_eval.sound_event.EventBasedMetrics(list(LABELS), t_collar=collar_s, evaluate_offset=False)
            for one in streams:
                detections = []
                for column, label in enumerate(LABELS):
                    on = np.array(one["scores"])[:, column] >= threshold
                    edges = np.flatnonzero(np.diff(np.concatenate(([0], on.astype(int), [0])))) * STEP_S
                    detections += [
                        [label, *pair] for pair in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
                    ]
                metrics.evaluate(list_events(one["events"]), list_events(detections))
            counts = {name: int(metrics.overall[key]) for name, key in (("right", "Ntp"), ("detections", "Nsys"))}
            f1 = float(metrics.overall_f_measure()["f_measure"])
            found.append({"collar_s": collar_s, "threshold": threshold} | counts | {"f1": f1})
    return found


if __name__ == "__main__":
    streams = make_streams()
    document = {"streams": streams} | score_by_overlap(streams) | {"onset": score_by_onset(streams)}
    Path(__file__).with_name("sed_reference.json").write_text(json.dumps(document) + "\n")
