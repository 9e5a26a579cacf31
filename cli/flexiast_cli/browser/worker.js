// Loads the bundle, runs it on the samples it is sent, and lets the governor choose the patch size.

import * as ort from "./ort/ort.wasm.min.mjs";
import { initState, step } from "./governor.js";
import { Bundle, Model } from "./model.js";
import { BALANCED } from "./presets.js";
import { Stream } from "./stream.js";
import { frontier } from "./worth.js";

const REPEATS = 5, TOP_LABELS = 5, BINS = 64;

ort.env.wasm.numThreads = 1; // more need headers that a static host does not send
ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;

let model, options, stream, state, conditions, queue = [], isBusy = false;

const handlers = {
  async load() {
    const read = async (name) => {
      const answer = await fetch(new URL(`./model/${name}`, import.meta.url));
      if (!answer.ok) throw new Error(`model/${name} is missing (${answer.status}). Copy the whole page again.`);
      return answer.arrayBuffer();
    };
    const bundle = await Bundle.open(read);
    model = await Model.load(ort, bundle, (name) => postMessage({ type: "loading", name }));
    options = frontier(await measure());
    const { frontend } = model.spec;
    postMessage({ type: "ready", frontend, labels: model.labels, options });
  },
  start(message) {
    conditions = message.conditions;
    stream = new Stream(model);
    queue = [];
    state = initState(BALANCED, options, { time_s: 0, ...conditions });
  },
  conditions(message) {
    conditions = message.conditions;
  },
  samples(message) {
    queue.push(message.samples);
  },
  finish() {
    queue.push(null);
  },
};

onmessage = async ({ data }) => {
  try {
    await handlers[data.type](data);
    if (!isBusy && queue.length) await pump();
  } catch (error) {
    isBusy = false;
    postMessage({ type: "error", text: error.message });
  }
};

// The median time of each size on silence, after a warm-up. In rounds, so that a busy moment slows every size, not one.
async function measure() {
  const features = new Float32Array(new Stream(model).framer.windowFrames * model.spec.frontend.mel_bins);
  const times = new Map([...model.variants.keys()].map((patch) => [patch, []]));
  postMessage({ type: "loading", name: "measuring the patch sizes" });
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

function report(result) {
  for (const event of result.events) {
    const { label, score, patch } = event;
    const [start_s, end_s] = [event.start / stream.rate, event.end / stream.rate];
    postMessage({ type: "event", id: `${label} ${event.start}`, label, start_s, end_s, score, patch_size: patch });
  }
  if (result.last) return postMessage({ type: "end", time_s: result.time_s });
  const { time_s, patch, latency_s, engine_s } = result, waiting = queue.reduce((sum, block) => sum + (block?.length ?? 0), 0);
  const top = Array.from(result.smoothed, (score, index) => ({ label: model.labels[index], score }));
  top.sort((a, b) => b.score - a.score);
  const shades = shadesOf(result.added, model.spec.frontend.mel_bins);
  postMessage({
    type: "status", time_s, patch_size: patch, top: top.slice(0, TOP_LABELS), active: result.active, shades,
    frames: shades.length / Math.min(BINS, model.spec.frontend.mel_bins), latency_ms: 1000 * latency_s,
    deadline_ms: 1000 * conditions.deadline_s, backlog_s: waiting / stream.rate, ran: result.ran,
  });
  const observation = {
    time_s, ...conditions, latency_s: engine_s, overhead_s: latency_s - (engine_s ?? 0),
    backlog_steps: waiting / stream.settings.step_samples,
  };
  const decision = step(BALANCED, options, state, observation);
  state = decision.state;
  if (decision.reason) postMessage({ type: "switch", time_s, from: patch, to: choose(), reason: decision.reason });
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
