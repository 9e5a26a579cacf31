// What the worker hears, as it hears it.

import { Chart } from "./chart.js";
import { playFile } from "./file.js";
import { element, lookOf, showLegend, showScale } from "./labels.js";
import {
  clearPanels, say, showAbout, showBattery, showEvents, showLevel, showLoading, showNothing, showRefusal, showSizes,
  showStage, showStatus, showSwitches,
} from "./panels.js";
import { Source, VIEW_S, paletteOf, pruneSwitches } from "./source.js";
import { MissingError, checkBrowser, measureLevel, openMicrophone } from "./sound.js";
import { explain, milliseconds, nameOf } from "./words.js";

const MAGMA = ["#000004", "#1d1147", "#51127c", "#832681", "#b73779", "#e75263", "#fc8961", "#fec488", "#fcfdbf"];

const palette = paletteOf(MAGMA), chart = new Chart(element("chart"), lookOf);

let worker, frontend, windowS, sizes, hello, source, switches = [], input = null, run = 0;
let battery = null, level = null, isStale = false, edge = 0, drawn = 0;

// ------------------------------------------------------------------------------------------------- the worker and sound

function begin() {
  showScale(palette);
  showDeadline();
  try {
    checkBrowser();
  } catch (error) {
    return refuse("Cannot start", error);
  }
  worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  worker.onerror = (event) => {
    refuse("Cannot start", new MissingError(`${event.message || "A file of the page is missing"}. Copy the whole page again.`));
  };
  worker.onmessage = ({ data }) => {
    if (data.run === undefined || data.run === run) receivers[data.type](data);
  };
  worker.postMessage({ type: "load", engineBytes: Number(document.body.dataset.engineBytes) });
  watchBattery();
}

const receivers = {
  loading: ({ part, loaded, total }) => showLoading(part, loaded, total),
  about(message) {
    ({ frontend } = message);
    windowS = frontend.window_samples / frontend.sample_rate_hz;
    hello = { low_hz: frontend.low_hz, high_hz: frontend.high_hz, hop_s: frontend.hop_samples / frontend.sample_rate_hz };
    showAbout(message.labels, windowS);
  },
  measuring: () => showLoading("measuring how fast this machine is …", 0, 0),
  ready({ options }) {
    sizes = options.map(({ patch }) => patch);
    showSizes(options);
    for (const id of ["microphone", "file"]) element(id).disabled = false;
    say("ready", "ready");
    reset();
  },
  status(status) {
    const top = status.top.map(({ label, score }) => ({ label: nameOf(label), score }));
    source.addStatus({ ...status, top, active: status.active.map(nameOf) });
    source.addShades(status.shades, status.frames);
    isStale = true;
  },
  event(event) {
    source.addEvent({ ...event, label: nameOf(event.label), given: event.label });
    showEvents(source.events.values());
    isStale = true;
  },
  switch(change) {
    const { word, sentence } = explain(change.reason);
    switches.push({ ...change, given: change.reason, reason: word, sentence }); // the chart draws the reason
    pruneSwitches(switches, source.end);
    showSwitches(switches);
    isStale = true;
  },
  end() {
    if (!source.latest) showNothing();
    if (document.body.dataset.state !== "lost") stop("ended", "the sound has ended");
  },
  error: ({ text }) => refuse(sizes ? "Stopped" : "Cannot start", new Error(text)),
};

const conditions = () => ({ deadline_s: wantedMs() / 1000, battery });
const wantedMs = () => 10 ** (Number(element("wanted").value) / 100); // 1 … 1,000 ms

function reset() {
  switches = [];
  source = new Source("page", hello, palette, switches);
  [edge, level] = [0, null];
  showStage("ready");
  clearPanels(windowS);
  isStale = true;
}

async function start(open, name, failure) {
  const mine = ++run;
  await stop("ready", "ready");
  element("refusal").hidden = true;
  reset();
  worker.postMessage({ type: "start", run, conditions: conditions() });
  const take = (samples) => {
    if (mine !== run) return;
    level = measureLevel(samples);
    worker.postMessage({ type: "samples", samples }, [samples.buffer]);
  };
  try {
    const opened = await open(frontend, take);
    if (mine !== run) return opened.stop(); // another one was started meanwhile
    input = opened;
    input.lost(() => {
      refuse("Stopped", new MissingError("The microphone was lost. Plug it in and listen again."));
      worker.postMessage({ type: "finish" });
    });
    showStage("heard");
    showButtons(true);
    say("live", name);
  } catch (error) {
    if (mine === run) refuse(failure, error);
  }
}

async function stop(state, text) {
  showButtons(false);
  const stopped = input;
  input = null;
  if (state) say(state, text);
  await stopped?.stop();
}

function refuse(title, error) {
  stop("lost", "stopped");
  showRefusal(title, error.message);
}

async function watchBattery() {
  if (!navigator.getBattery) return showBattery(null, "not told by this browser");
  const manager = await navigator.getBattery();
  const update = () => {
    battery = { fraction: manager.level, discharging: !manager.charging };
    showBattery(battery);
    sendConditions();
  };
  for (const change of ["levelchange", "chargingchange"]) manager.addEventListener(change, update);
  update();
}

const sendConditions = () => worker?.postMessage({ type: "conditions", conditions: conditions() });

// ------------------------------------------------------------------------------------------------- buttons and drawing

// Stop stands where the microphone's button is, and keeps the focus that this one had.
function showButtons(isLive) {
  const [shown, hidden] = isLive ? ["stop", "microphone"] : ["microphone", "stop"];
  const hadFocus = document.activeElement === element(hidden);
  element(shown).hidden = false;
  element(hidden).hidden = true;
  if (hadFocus) element(shown).focus();
}

function showDeadline() {
  element("wanted-value").textContent = milliseconds(wantedMs());
}

// The edge glides over the last step while the next one is on its way. The first minute stands still.
function draw(now) {
  requestAnimationFrame(draw);
  const passed = (now - drawn) / 1000, before = edge, behind = source ? source.end - edge : 0;
  drawn = now;
  if (document.body.dataset.stage !== "heard") return;
  if (level) showLevel(level);
  level = null;
  edge = behind > 3 || behind < 0 ? source.end : Math.min(edge + passed * Math.max(1, behind), source.end);
  if ((edge === before || edge < VIEW_S) && !isStale) return;
  if (source.latest) showStatus(source.latest, switches.at(-1), sizes);
  chart.draw(source, hello, Math.max(edge, VIEW_S), null);
  showLegend(chart.labels);
  isStale = false;
}

element("microphone").onclick = () => start(openMicrophone, "listening", "Cannot listen");
element("file").onchange = ({ target }) => {
  const [file] = target.files;
  target.value = "";
  if (!file) return;
  const open = (spec, take) => playFile(file, spec, take, () => worker.postMessage({ type: "finish" }));
  start(open, `playing ${file.name}`, "Cannot play this file");
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
