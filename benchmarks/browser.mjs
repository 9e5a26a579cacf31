// node browser.mjs SITE → CPU milliseconds of one window, by size, and of the front end on a window's samples; as JSON.

import { readFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";

const [site] = process.argv.slice(2), WARM_UP = 150, ROUNDS = 31; // until V8 has optimised all that it compiled in haste
const load = (name) => import(pathToFileURL(`${site}/${name}`).href);
const [ort, { Bundle, Model }] = await Promise.all(["ort/ort.wasm.min.mjs", "model.js"].map(load));
ort.env.wasm.numThreads = 1;
ort.env.wasm.wasmPaths = pathToFileURL(`${site}/ort/`).href;
const model = await Model.load(ort, await Bundle.open((name) => readFile(`${site}/model/${name}`)));

const samples = Float32Array.from({ length: model.spec.frontend.window_samples }, (_, index) => 0.1 * Math.sin(index * index));
const features = await model.features(samples), calls = { frontend: () => model.features(samples) };
for (const patch of model.variants.keys()) calls[patch] = () => model.logits(features, patch);
const times = Object.fromEntries(Object.keys(calls).map((name) => [name, []]));
for (let round = -WARM_UP; round < ROUNDS; round++) {
  for (const [name, call] of Object.entries(calls)) {
    const began = process.cpuUsage();
    await call();
    const { user, system } = process.cpuUsage(began);
    if (round >= 0) times[name].push((user + system) / 1000);
  }
}
console.log(JSON.stringify(Object.fromEntries(Object.entries(times).map(([name, values]) => [name, values.sort((a, b) => a - b)[ROUNDS >> 1]]))));
