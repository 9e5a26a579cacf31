// Tests the JavaScript of a page against what flexiast itself makes of a sound.
//
//   flexiast export commands --web site
//   flexiast export commands --conformance answers
//   node conformance.mjs site answers

import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [site, answers] = process.argv.slice(2).map((folder) => resolve(folder));
const load = (name) => import(pathToFileURL(`${site}/${name}`).href);
const [ort, { Bundle, Model }, { Stream }] = await Promise.all(["ort/ort.wasm.min.mjs", "model.js", "stream.js"].map(load));
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = pathToFileURL(`${site}/ort/`).href;

const model = await Model.load(ort, await Bundle.open((name) => readFile(`${site}/model/${name}`)));
const expected = JSON.parse(await readFile(`${answers}/conformance.json`, "utf8"));
const { frontend } = model.spec, { tolerances } = expected;
const sound = await readWav(`${answers}/sound.wav`);

const report = { features: largestDifference(await model.features(sound), await readNpy("features")), sizes: {} };
for (const patch of Object.keys(tolerances.logits)) {
  const [logits, scores, smoothed] = await Promise.all(["logits", "scores", "smoothed"].map((name) => readNpy(`${name}-${patch}`)));
  const found = { logits: 0, scores: 0, smoothed: 0, windows: 0, events: {} };
  for (const rules of expected.rules) {
    let row = 0;
    found.events[rules.name] = [];
    for await (const result of run(patch, rules)) {
      for (const event of result.events) {
        found.events[rules.name].push({ label: event.label, start_sample: event.start, end_sample: event.end });
      }
      if (result.last) continue;
      const at = (values, size) => values.subarray(row * size, (row + 1) * size);
      const { silent } = expected.windows[row];
      if (result.ran === silent) throw new Error(`window ${row} is${silent ? "" : " not"} silent`);
      if (result.ran) found.logits = Math.max(found.logits, largestDifference(result.logits, at(logits, model.classes)));
      found.scores = Math.max(found.scores, largestDifference(result.scores, at(scores, model.labels.length)));
      found.smoothed = Math.max(found.smoothed, largestDifference(result.smoothed, at(smoothed, model.labels.length)));
      row++;
    }
    found.windows = row;
    found.same = (found.same ?? true) && isSame(found.events[rules.name], rules.events[patch]);
  }
  report.sizes[patch] = found;
}
console.log(JSON.stringify(report));
const passed = report.features <= tolerances.features && Object.entries(report.sizes).every(([patch, found]) =>
  found.logits <= tolerances.logits[patch] && Math.max(found.scores, found.smoothed) <= tolerances.scores &&
  found.windows === expected.windows.length && found.same);
process.exitCode = passed ? 0 : 1;

// The sound in blocks of uneven length, as a microphone may give them.
async function* run(patch, rules) {
  const own = rules.size_thresholds[patch] ?? {};
  const on = Float32Array.from(model.labels, (label) => own[label] ?? rules.label_thresholds[label] ?? rules.threshold);
  const samples = (seconds) => Math.round(seconds * frontend.sample_rate_hz);
  const times = { confirm: samples(rules.confirm_s), merge: samples(rules.merge_s), shortest: samples(rules.min_duration_s) };
  const stream = new Stream(model, { rules: { release: rules.release, ...times } }, () => on);
  for (let start = 0, size = 700; start < sound.length; start += size, size = 1 + ((size * 7) % 3001)) {
    yield* stream.push(sound.slice(start, start + size), () => patch);
  }
  yield* stream.finish(() => patch);
}

function isSame(found, wanted) {
  return JSON.stringify(found) === JSON.stringify(wanted.map(({ label, start_sample, end_sample }) => ({ label, start_sample, end_sample })));
}

function largestDifference(found, wanted) {
  if (found.length !== wanted.length) return Infinity;
  return found.reduce((largest, value, index) => Math.max(largest, Math.abs(value - wanted[index])), 0);
}

async function readWav(path) {
  const { buffer, byteOffset, length } = await readFile(path);
  const bytes = new Int16Array(buffer.slice(byteOffset + 44, byteOffset + length));
  return Float32Array.from(bytes, (value) => value / 32768);
}

async function readNpy(name) {
  const content = await readFile(`${answers}/${name}.npy`), start = 10 + content.readUInt16LE(8);
  return new Float32Array(content.buffer.slice(content.byteOffset + start, content.byteOffset + content.length));
}
