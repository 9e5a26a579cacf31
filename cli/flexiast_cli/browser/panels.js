// What the page says in words and bars. Names of labels are set as text, never as HTML.

import { clock } from "./chart.js";
import { create, element, showNow } from "./labels.js";
import { KEPT_RECORDS } from "./source.js";
import { decibels, megabytes, milliseconds, nameOf, seconds } from "./words.js";

const FLOOR_DBFS = -60, EXAMPLES = 3;

const write = (id, text) => { element(id).textContent = text; };
const tone = (id, value) => { element(id).dataset.tone = value; };
const fill = (id, share) => { element(id).style.width = `${100 * Math.min(Math.max(share, 0), 1)}%`; };

// loading, ready, heard: what of the page there is to see.
export const showStage = (stage) => { document.body.dataset.stage = stage; };

export function say(state, text) {
  element("connection").dataset.state = document.body.dataset.state = state;
  write("connection", text);
}

export function showRefusal(title, text) {
  write("refused", title);
  write("reason", text);
  element("refusal").hidden = false;
}

export function showAbout(labels, windowS) {
  const names = labels.map(nameOf), isFew = names.length <= 2 * EXAMPLES;
  const shown = isFew ? names : Array.from({ length: EXAMPLES }, (_, at) => names[Math.floor(((at + 0.5) * names.length) / EXAMPLES)]);
  const more = isFew ? "" : ` and ${names.length - EXAMPLES} more`;
  write("examples", `: ${shown.join(", ")}${more}`);
  write("count", `All ${names.length} labels`);
  write("labels", names.join(", "));
  element("all").hidden = isFew;
  element("about").title = `Each result is of the last ${seconds(windowS)} of sound.`;
}

export function showLoading(part, loaded, total) {
  const isKnown = total > 0 && loaded <= total;
  if (isKnown) Object.assign(element("progress"), { max: total, value: loaded });
  else element("progress").removeAttribute("value");
  write("part", `${part}${loaded ? `: ${megabytes(loaded)}${isKnown ? ` of ${megabytes(total)}` : ""}` : ""}`);
}

// As before the first result, which needs a window of sound.
export function clearPanels(windowS) {
  for (const id of ["patch", "latency", "level"]) write(id, "–");
  for (const id of ["why", "deadline", "peak"]) write(id, "");
  for (const id of ["latency-bar", "level-bar"]) fill(id, 0);
  for (const id of ["latency", "latency-bar"]) tone(id, "");
  element("level-peak").style.left = 0;
  const waiting = `first result after ${seconds(windowS)} of sound, or at its end`;
  write("waiting", waiting);
  for (const id of ["now", "events"]) element(id).replaceChildren(create("li", waiting, "none"));
  element("switches").replaceChildren(create("li", "none yet", "none"));
}

// The end of a sound that gave no result at all.
export function showNothing() {
  const short = "it was too short for a result";
  write("waiting", short);
  for (const id of ["now", "events"]) element(id).replaceChildren(create("li", short, "none"));
}

export function showLevel({ level_dbfs, peak_dbfs }) {
  const share = (dbfs) => 1 - Math.max(dbfs, FLOOR_DBFS) / FLOOR_DBFS;
  write("level", decibels(level_dbfs));
  write("peak", `peak ${decibels(peak_dbfs)}`);
  fill("level-bar", share(level_dbfs));
  element("level-peak").style.left = `${100 * share(peak_dbfs)}%`;
}

// `sizes` are those that may run, from fast to accurate.
export function showStatus(status, change, sizes) {
  const place = sizes.indexOf(status.patch_size) + 1, late = status.latency_ms / status.deadline_ms;
  write("waiting", "");
  write("patch", status.patch_size);
  write("why", `${change ? `since ${clock(change.time_s)}` : "from the start"} · ${place} of ${sizes.length}, from fast to accurate`);
  write("latency", milliseconds(status.latency_ms));
  write("deadline", `${late > 1 ? "over the" : "of"} ${milliseconds(status.deadline_ms)} allowed`);
  fill("latency-bar", late);
  for (const id of ["latency", "latency-bar"]) tone(id, late > 1 ? "bad" : late > 0.8 ? "warn" : "");
  showNow(status);
  if (!element("events").querySelector("time")) element("events").replaceChildren(create("li", "none yet", "none"));
}

export function showBattery(battery, text) {
  element("battery-bar").parentElement.hidden = !battery;
  write("battery", battery ? `${Math.round(100 * battery.fraction)} %` : "–");
  write("charging", text ?? (battery.discharging ? "draining" : "plugged in"));
  fill("battery-bar", battery?.fraction ?? 0);
}

export function showEvents(records) {
  const events = [...records].sort((a, b) => b.start_s - a.start_s).slice(0, KEPT_RECORDS);
  element("events").replaceChildren(...events.map((event) => {
    const line = create("li");
    const more = `${(event.end_s - event.start_s).toFixed(1)} s · ${event.score.toFixed(2)}`;
    line.append(create("time", clock(event.start_s)), create("span", event.label), create("span", more, "more"));
    line.title = `${event.label}, score ${event.score.toFixed(2)} of 1, from ${event.start_s.toFixed(1)} s to ${event.end_s.toFixed(1)} s`;
    Object.assign(line.dataset, { label: event.given, start: event.start_s, end: event.end_s });
    return line;
  }));
}

// The sentence for everybody; the governor's own words as a title.
export function showSwitches(switches) {
  element("switches").replaceChildren(...switches.slice(-KEPT_RECORDS).reverse().map((change) => {
    const line = create("li"), sizes = `${change.from} → ${change.to}`;
    line.append(create("time", clock(change.time_s)), create("span", sizes), create("span", change.sentence, "more"));
    line.title = change.given;
    return line;
  }));
}

export function showSizes(options) {
  const times = options.map(({ patch, latency_s }) => `${patch} ${milliseconds(1000 * latency_s)}`);
  write("sizes", `Patch sizes, from fast to accurate, with the time of a result as measured here: ${times.join(", ")}.`);
}
