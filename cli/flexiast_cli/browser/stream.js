// One stream of sound through a model: chunks of samples in, windows and events out.

import { Detector, Framer, Gate, Smoother, defaultSettings } from "./detection.js";

export class Stream {
  // `settings` may replace the defaults: step, smoothing, gate, and the rules of events in samples.
  constructor(model, settings = {}, thresholds = (patch) => model.thresholds(patch)) {
    const { frontend } = model.spec;
    const used = { ...defaultSettings(frontend), ...settings };
    this.model = model;
    this.rate = frontend.sample_rate_hz;
    this.settings = used;
    this.framer = new Framer(frontend, used.step_samples, (samples) => model.features(samples));
    this.smoother = new Smoother(used.smoothing_s, used.step_s);
    this.gate = new Gate(used.gate_dbfs);
    const delay = Math.round(this.smoother.delaySteps * used.step_samples);
    const lead = Math.max(0, Math.floor((frontend.window_samples - used.step_samples) / 2) - delay);
    this.detector = new Detector(model.labels, thresholds, lead, used.rules);
  }

  // `choose()` names the patch size of each window. Yields {time_s, patch, ran, logits, scores, smoothed, events, …}.
  async *push(samples, choose) {
    this.gate.update(this.framer.end, samples);
    yield* this.run(this.framer.push(samples), choose);
  }

  async *finish(choose) {
    yield* this.run(this.framer.flush(), choose);
    yield { time_s: this.framer.end / this.rate, last: true, events: this.detector.flush(this.framer.end) };
  }

  async *run(windows, choose) {
    let began = performance.now();
    for await (const window of windows) {
      const patch = choose(), result = await this.classify(window, patch);
      const smoothed = this.smoother.push(result.scores);
      const latency_s = (performance.now() - began) / 1000;
      const events = this.detector.push(window, smoothed, patch);
      const { start, end, features, added } = window, active = this.detector.active;
      yield { time_s: end / this.rate, start, patch, features, added, ...result, smoothed, latency_s, events, active };
      began = performance.now();
    }
  }

  async classify(window, patch) {
    if (this.gate.isSilent(window.start, window.end)) {
      this.smoother.reset();
      return { ran: false, logits: null, scores: new Float32Array(this.model.labels.length), engine_s: null };
    }
    const began = performance.now();
    const logits = await this.model.logits(window.features, patch), scores = this.model.scores(logits, patch);
    if (!scores.every(Number.isFinite)) {
      throw new RangeError(`The model gives no numbers for the sound before ${(window.end / this.rate).toFixed(1)} s. ` +
        "Is it far too loud, or damaged?");
    }
    return { ran: true, logits, scores, engine_s: (performance.now() - began) / 1000 };
  }
}
