// What the worker hears, as it hears it. Names of labels are set as text, never as HTML.

import { Chart, clock } from "./chart.js";
import { KEPT_RECORDS, Source, paletteOf, pruneSwitches } from "./source.js";
import { MissingError, checkBrowser, measureLevel, openMicrophone, playFile } from "./sound.js";

const MAGMA = ["#000004", "#1d1147", "#51127c", "#832681", "#b73779", "#e75263", "#fc8961", "#fec488", "#fcfdbf"];
const COLOURS = 8, LINES = [["solid", []], ["dashed", [7, 4]], ["dotted", [2, 3]]];
const FLOOR_DBFS = -60;

const element = (id) => document.getElementById(id);
const palette = paletteOf(MAGMA);
const looks = Array.from({ length: COLOURS * LINES.length }, () => ({ label: null, seen: -Infinity }));

let worker, ready, hello, source, switches = [], input = null, battery = null, level = null, isStale = false, edge = 0, drawn = 0;

// ------------------------------------------------------------------------------------------------- the worker and sound

function begin() {
  showScale();
  showDeadline();
  try {
    checkBrowser();
  } catch (error) {
    return refuse(error);
  }
  worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  worker.onerror = (event) => refuse(new MissingError(`The page cannot start: ${event.message || "a file of it is missing"}. Copy it again.`));
  worker.onmessage = ({ data }) => receivers[data.type](data);
  worker.postMessage({ type: "load" });
  watchBattery();
}

const receivers = {
  loading: ({ name }) => say("connecting", `loading ${name} …`),
  ready(message) {
    ready = message;
    const { frontend, options, labels } = ready;
    hello = { low_hz: frontend.low_hz, high_hz: frontend.high_hz, hop_s: frontend.hop_samples / frontend.sample_rate_hz };
    element("title").textContent = `${labels.length} labels · window of ${frontend.window_samples / frontend.sample_rate_hz} s`;
    const times = options.map(({ patch, latency_s }) => `${patch} ${milliseconds(1000 * latency_s)} ms`);
    element("sizes").textContent = `Measured here: ${times.join(", ")}.`;
    for (const id of ["microphone", "file"]) element(id).disabled = false;
    say("ready", "ready");
    reset();
  },
  status(status) {
    source.addStatus({ ...status, battery: battery && battery.fraction });
    source.addShades(status.shades, status.frames);
    isStale = true;
  },
  event(event) {
    source.addEvent(event);
    showEvents();
    isStale = true;
  },
  switch(change) {
    switches.push(change);
    pruneSwitches(switches, source.end);
    showSwitches();
    isStale = true;
  },
  end: () => stop("ended", "the sound has ended"),
  error: ({ text }) => refuse(new Error(text)),
};

const conditions = () => ({ deadline_s: wantedMs() / 1000, battery });
const wantedMs = () => 10 ** (Number(element("wanted").value) / 100); // 1 … 1,000 ms

function reset() {
  switches = [];
  source = new Source("page", hello, palette, switches);
  [edge, level] = [0, null];
  for (const id of ["events", "switches"]) element(id).replaceChildren(create("li", "none yet", "none"));
  element("now").replaceChildren();
  isStale = true;
}

async function start(open, name) {
  await stop("ready", "ready");
  element("refusal").hidden = true;
  reset();
  worker.postMessage({ type: "start", conditions: conditions() });
  const take = (samples) => {
    level = measureLevel(samples);
    worker.postMessage({ type: "samples", samples }, [samples.buffer]);
  };
  try {
    input = await open(ready.frontend.sample_rate_hz, take);
    input.lost(() => refuse(new MissingError("The microphone was lost. Plug it in and listen again.")));
    element("stop").hidden = false;
    say("live", name);
  } catch (error) {
    refuse(error);
  }
}

async function stop(state, text) {
  element("stop").hidden = true;
  const stopped = input;
  input = null;
  if (state) say(state, text);
  await stopped?.stop();
}

function refuse(error) {
  stop();
  element("refusal").hidden = false;
  element("reason").textContent = error.message;
  say("lost", "stopped");
}

async function watchBattery() {
  if (!navigator.getBattery) return showBattery("this browser does not tell");
  const manager = await navigator.getBattery();
  const update = () => {
    battery = { fraction: manager.level, discharging: !manager.charging };
    showBattery();
    sendConditions();
  };
  for (const change of ["levelchange", "chargingchange"]) manager.addEventListener(change, update);
  update();
}

const sendConditions = () => worker?.postMessage({ type: "conditions", conditions: conditions() });

// ------------------------------------------------------------------------------------------------------------- parts

function create(tag, text = "", name = "") {
  const part = document.createElement(tag);
  part.textContent = text;
  if (name) part.className = name;
  return part;
}

function lookOf(label) {
  let slot = looks.findIndex((look) => look.label === label);
  if (slot < 0) {
    slot = looks.reduce((oldest, look, index) => (look.seen < looks[oldest].seen ? index : oldest), 0);
    looks[slot].label = label;
  }
  looks[slot].seen = performance.now();
  const [line, dashes] = LINES[Math.floor(slot / COLOURS)];
  return { colour: getComputedStyle(document.body).getPropertyValue(`--c${slot % COLOURS}`), line, dashes };
}

const milliseconds = (value) => (value < 10 ? value.toFixed(1) : value.toFixed(0));
const tone = (id, value) => { element(id).dataset.tone = value; };
const fill = (id, share) => { element(id).style.width = `${100 * Math.min(Math.max(share, 0), 1)}%`; };

function say(state, text) {
  element("connection").dataset.state = document.body.dataset.state = state;
  element("connection").textContent = text;
}

function showDeadline() {
  element("wanted-value").textContent = `${milliseconds(wantedMs())} ms`;
}

function showStatus() {
  const status = source?.latest;
  if (!status) return;
  const change = switches.at(-1), late = status.latency_ms / status.deadline_ms;
  element("patch").textContent = status.patch_size;
  element("why").textContent = change ? `since ${clock(change.time_s)}: ${change.reason}` : "from the start";
  element("latency").textContent = `${milliseconds(status.latency_ms)} ms`;
  element("deadline").textContent = `${late > 1 ? "over" : "of"} ${milliseconds(status.deadline_ms)} ms`;
  fill("latency-bar", late);
  for (const id of ["latency", "latency-bar"]) tone(id, late > 1 ? "bad" : late > 0.8 ? "warn" : "");
  if (level) {
    const share = (dbfs) => 1 - Math.max(dbfs, FLOOR_DBFS) / FLOOR_DBFS;
    element("level").textContent = `${level.level_dbfs.toFixed(0).replace("-", "−")} dBFS`;
    element("peak").textContent = `peak ${level.peak_dbfs.toFixed(0).replace("-", "−")} dBFS`;
    fill("level-bar", share(level.level_dbfs));
    element("level-peak").style.left = `${100 * share(level.peak_dbfs)}%`;
  }
  element("now").replaceChildren(...status.top.map(({ label, score }) => {
    const line = create("li"), bar = create("span", "", "bar"), filled = create("i");
    line.dataset.active = status.active.includes(label);
    filled.style.width = `${100 * score}%`;
    if (status.active.includes(label)) filled.style.background = lookOf(label).colour;
    bar.append(filled);
    line.append(create("span", label), create("output", score.toFixed(2)), bar);
    return line;
  }));
}

function showBattery(text) {
  element("battery-bar").parentElement.hidden = !battery;
  element("battery").textContent = battery ? `${Math.round(100 * battery.fraction)} %` : "unknown";
  element("charging").textContent = text ?? (battery.discharging ? "draining" : "plugged in");
  fill("battery-bar", battery?.fraction ?? 0);
}

function showEvents() {
  const events = [...source.events.values()].sort((a, b) => b.start_s - a.start_s).slice(0, KEPT_RECORDS);
  element("events").replaceChildren(...events.map((event) => {
    const line = create("li");
    const more = `${(event.end_s - event.start_s).toFixed(1)} s  ·  ${event.score.toFixed(2)}`;
    line.append(create("time", clock(event.start_s)), create("span", event.label), create("span", more, "more"));
    Object.assign(line.dataset, { label: event.label, start: event.start_s, end: event.end_s });
    return line;
  }));
}

function showSwitches() {
  element("switches").replaceChildren(...switches.slice(-KEPT_RECORDS).reverse().map((change) => {
    const line = create("li"), sizes = `${change.from} → ${change.to}`;
    line.append(create("time", clock(change.time_s)), create("span", sizes), create("span", change.reason, "more"));
    return line;
  }));
}

const chart = new Chart(element("chart"), lookOf);

function showLegend() {
  const key = JSON.stringify(chart.labels.map((label) => [label, lookOf(label)]));
  if (element("legend").dataset.key === key) return;
  element("legend").dataset.key = key;
  element("legend").replaceChildren(...chart.labels.map((label) => {
    const item = create("li", label), look = lookOf(label), sample = create("i");
    sample.style.borderTop = `3px ${look.line} ${look.colour}`;
    item.prepend(sample);
    return item;
  }));
}

function showScale() {
  const canvas = element("scale"), image = new ImageData(palette.length, 1);
  new Uint32Array(image.data.buffer).set(palette);
  [canvas.width, canvas.height] = [palette.length, 1];
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// The edge glides over the last step while the next one is on its way.
function draw(now) {
  requestAnimationFrame(draw);
  const passed = (now - drawn) / 1000, before = edge, behind = source ? source.end - edge : 0;
  drawn = now;
  if (!source) return;
  edge = behind > 3 || behind < 0 ? source.end : Math.min(edge + passed * Math.max(1, behind), source.end);
  if (edge === before && !isStale) return;
  showStatus();
  chart.draw(source, hello, edge, null);
  showLegend();
  isStale = false;
}

element("microphone").onclick = () => start(openMicrophone, "listening");
element("file").onchange = ({ target }) => {
  const [file] = target.files;
  target.value = "";
  if (file) start((rate, take) => playFile(file, rate, take, () => worker.postMessage({ type: "finish" })), `playing ${file.name}`);
};
element("stop").onclick = async () => {
  await stop("ended", "stopping …");
  worker.postMessage({ type: "finish" });
};
element("wanted").oninput = () => {
  showDeadline();
  sendConditions();
};
window.onresize = () => { isStale = true; };

begin();
requestAnimationFrame(draw);
