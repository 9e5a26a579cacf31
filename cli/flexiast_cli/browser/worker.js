// Loads the bundle, runs it on the samples it is sent, and lets the governor choose the patch size.

import * as ort from "./ort/ort.wasm.min.mjs";
import { download } from "./download.js";
import { initState, step } from "./governor.js";
import { Bundle, Model } from "./model.js";
import { BALANCED } from "./presets.js";
import { Stream } from "./stream.js";
import { frontier } from "./worth.js";

const REPEATS = 5, TOP_LABELS = 5, BINS = 64, ENGINE = "ort-wasm-simd-threaded.wasm";

ort.env.wasm.numThreads = 1; // more need headers that a static host does not send
ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;

let model, options, stream, run, state, conditions, queue = [], isBusy = false;

const handlers = {
  // `engineBytes` is the size of the runtime's file.
  async load({ engineBytes }) {
    let loaded = 0, total = 0;
    const fetchPart = (path, part) => download(path, (bytes) => {
      loaded += bytes;
      postMessage({ type: "loading", part, loaded, total });
    });
    const bundle = await Bundle.open((name) => fetchPart(`model/${name}`, "the model"));
    const { spec, files, golden } = bundle.manifest;
    postMessage({ type: "about", labels: spec.labels, frontend: spec.frontend });
    total = loaded + engineBytes + files.reduce((sum, { name, size }) => sum + (name === golden ? 0 : size), 0);
    ort.env.wasm.wasmBinary = await fetchPart(`ort/${ENGINE}`, "ONNX Runtime, which runs the model");
    model = await Model.load(ort, bundle);
    postMessage({ type: "measuring" });
    options = frontier(await measure());
    postMessage({ type: "ready", options });
  },
  // What is said of a run carries its number: words of the last one may be on their way when the next begins.
  start(message) {
    ({ run, conditions } = message);
    stream = new Stream(model);
    queue = [];
    state = initState(BALANCED, options, { time_s: 0, ...conditions });
  },
  conditions(message) {
    conditions = message.conditions;
  },
  samples(message) {
    if (stream) queue.push(message.samples);
  },
  finish() {
    if (stream) queue.push(null);
  },
};

onmessage = async ({ data }) => {
  try {
    await handlers[data.type](data);
    if (!isBusy && queue.length) await pump();
  } catch (error) {
    isBusy = false;
    fail(error);
  }
};

// A stream that breaks ends its events where it broke.
function fail(error) {
  if (stream) reportEvents(stream.detector.flush(stream.framer.end));
  postMessage({ type: "error", run, text: error.message });
  [stream, queue] = [null, []];
}

// The median time of each size on silence, after a warm-up. In rounds, so that a busy moment slows every size, not one.
async function measure() {
  const features = new Float32Array(new Stream(model).framer.windowFrames * model.spec.frontend.mel_bins);
  const times = new Map([...model.variants.keys()].map((patch) => [patch, []]));
  for (let round = 0; round <= REPEATS; round++) {
    for (const patch of times.keys()) {
      const began = performance.now();
      await model.logits(features, patch);
      if (round > 0) times.get(patch).push(performance.now() - began);
    }
  }
  return [...model.variants].map(([patch, { metric }]) => {
    const median_ms = times.get(patch).sort((a, b) => a - b)[REPEATS >> 1];
    return { patch, latency_s: Math.max(median_ms, 0.01) / 1000, metric }; // clocks of pages are coarse
  });
}

const choose = () => options[state.index].patch;

async function pump() {
  isBusy = true;
  while (queue.length) {
    const samples = queue.shift(), current = stream;
    for await (const result of samples ? stream.push(samples, choose) : stream.finish(choose)) {
      if (stream === current) report(result); // else another one was started meanwhile
    }
    await new Promise((resolve) => setTimeout(resolve)); // what waits outside comes into the queue
  }
  isBusy = false;
}

function reportEvents(events) {
  const { rate } = stream;
  for (const { label, start, end, score, patch } of events) {
    const [start_s, end_s] = [start / rate, end / rate];
    postMessage({ type: "event", run, id: `${label} ${start}`, label, start_s, end_s, score, patch_size: patch });
  }
}

function report(result) {
  reportEvents(result.events);
  if (result.last) return postMessage({ type: "end", run, time_s: result.time_s });
  const { time_s, patch, latency_s, engine_s } = result, waiting = queue.reduce((sum, block) => sum + (block?.length ?? 0), 0);
  const top = Array.from(result.smoothed, (score, index) => ({ label: model.labels[index], score }));
  top.sort((a, b) => b.score - a.score);
  const shades = shadesOf(result.added, model.spec.frontend.mel_bins);
  postMessage({
    type: "status", run, time_s, patch_size: patch, top: top.slice(0, TOP_LABELS), active: result.active, shades,
    frames: shades.length / Math.min(BINS, model.spec.frontend.mel_bins), latency_ms: 1000 * latency_s,
    deadline_ms: 1000 * conditions.deadline_s, backlog_s: waiting / stream.rate, ran: result.ran,
  });
  const observation = {
    time_s, ...conditions, latency_s: engine_s, overhead_s: latency_s - (engine_s ?? 0),
    backlog_steps: waiting / stream.settings.step_samples,
  };
  const decision = step(BALANCED, options, state, observation);
  state = decision.state;
  if (decision.reason) postMessage({ type: "switch", run, time_s, from: patch, to: choose(), reason: decision.reason });
}

// Features → 0 … 255, two mels in one row; two standard deviations below the mean are black.
function shadesOf(features, mels) {
  const bins = Math.min(BINS, mels), frames = features.length / mels, shades = new Uint8Array(frames * bins);
  for (let frame = 0; frame < frames; frame++) {
    for (let bin = 0; bin < bins; bin++) {
      const from = Math.floor((bin * mels) / bins), to = Math.floor(((bin + 1) * mels) / bins);
      let loudest = -Infinity;
      for (let mel = from; mel < to; mel++) loudest = Math.max(loudest, features[frame * mels + mel]);
      shades[frame * bins + bin] = Math.min(255, Math.max(0, 110 * (loudest + 1)));
    }
  }
  return shades;
}
