// From samples to events, as flexiast_runtime.detection does it: windows, the gate, smoothing, thresholds.

const STILL = 1e-6; // samples that differ by no more stand still
const GATE_DBFS = -80;

// The step and the smoothing that flexiast uses by default for a window; samples and seconds.
export function defaultSettings({ sample_rate_hz, window_samples, hop_samples }) {
  const hop_s = hop_samples / sample_rate_hz;
  const hops = Math.max(1, roundHalfEven(Math.min(window_samples / sample_rate_hz / 4, 0.5) / hop_s));
  const step_s = hops * hop_s;
  return { step_samples: hops * hop_samples, step_s, smoothing_s: 1.5 * step_s, gate_dbfs: GATE_DBFS };
}

// Python's round: of two equally near numbers the even one.
function roundHalfEven(value) {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 ? below + 1 : below;
}

export const framesIn = ({ taper_samples, hop_samples }, samples) =>
  samples < taper_samples ? 0 : 1 + Math.floor((samples - taper_samples) / hop_samples);

// Cuts an unbroken stream into windows of features. `compute` takes samples and gives the features of their frames.
export class Framer {
  constructor(frontend, stepSamples, compute) {
    this.spec = frontend;
    this.compute = compute;
    this.step = stepSamples;
    this.stepFrames = stepSamples / frontend.hop_samples;
    this.windowFrames = framesIn(frontend, frontend.window_samples);
    this.floor = (Math.log(1.1920928955078125e-7) - frontend.mean) / (2 * frontend.std);
    this.pending = new Float32Array(0);
    this.frames = new Float32Array(0);
    this.start = this.end = 0;
    this.first = true;
  }

  async *push(samples) {
    this.end += samples.length;
    this.pending = concatenate(this.pending, samples);
    if (this.end - this.start < this.spec.window_samples) return;
    await this.computeFrames();
    while (this.end - this.start >= this.spec.window_samples) yield this.cut(this.start + this.spec.window_samples);
  }

  // Audio that no window held yet, padded with the floor; at most one window.
  async *flush() {
    await this.computeFrames();
    if (this.frames.length / this.spec.mel_bins > this.knownFrames) yield this.cut(this.end);
  }

  get knownFrames() {
    return this.first ? 0 : this.windowFrames - this.stepFrames;
  }

  async computeFrames() {
    const count = framesIn(this.spec, this.pending.length);
    if (!count) return;
    this.frames = concatenate(this.frames, await this.compute(this.pending));
    this.pending = this.pending.slice(count * this.spec.hop_samples);
  }

  cut(end) {
    const bins = this.spec.mel_bins, size = this.windowFrames * bins;
    const real = this.frames.subarray(0, size);
    const window = {
      start: this.start, end, first: this.first, features: this.finish(real, size),
      added: real.slice(this.knownFrames * bins),
    };
    this.frames = this.frames.slice(this.stepFrames * bins);
    this.start += this.step;
    this.first = false;
    return window;
  }

  // Without the mean of each bin, where the model wants that; padded with the floor.
  finish(real, size) {
    const bins = this.spec.mel_bins, features = new Float32Array(size).fill(this.floor);
    features.set(real);
    if (this.spec.remove_bin_means) {
      for (let bin = 0; bin < bins; bin++) {
        let sum = 0;
        for (let i = bin; i < real.length; i += bins) sum += real[i];
        for (let i = bin; i < real.length; i += bins) features[i] = real[i] - (sum * bins) / real.length;
      }
    }
    return features;
  }
}

// A silent window has no label, whatever a model would answer.
export class Gate {
  constructor(levelDbfs) {
    this.level = Math.fround(10 ** (levelDbfs / 20));
    this.loud = [-1]; // the last loud sample before the newest block, then those in it
    this.last = null;
  }

  update(start, samples) {
    const loud = this.loud.slice(-1);
    let before = this.last ?? samples[0];
    samples.forEach((value, index) => {
      const still = Math.abs(Math.fround(value - before)) <= STILL; // NaN is not silence
      if (!still && !(Math.abs(value) < this.level)) loud.push(start + index);
      before = value;
    });
    this.loud = loud;
    if (samples.length) this.last = before;
  }

  isSilent(start, end) {
    return this.loud.findLast((index) => index < end) < start;
  }
}

// An exponential mean with a time constant in seconds.
export class Smoother {
  constructor(seconds, step_s) {
    this.weight = seconds <= 0 ? 1 : -Math.expm1(-step_s / seconds);
    this.mean = null;
  }

  get delaySteps() {
    return (1 - this.weight) / this.weight;
  }

  push(scores) {
    const before = this.mean ?? scores, weight = Math.fround(this.weight);
    this.mean = scores.map((score, index) => before[index] + Math.fround(weight * Math.fround(score - before[index])));
    return this.mean;
  }

  reset() {
    this.mean = null;
  }
}

// Smoothed scores → events {label, start, end, score, patch}; samples, one past the last.
export class Detector {
  // `thresholds(patch)` gives the score of each label at which its events begin; `lead` is that of `slot`.
  constructor(labels, thresholds, lead, { release = 0.6, confirm = 0, merge = 0, shortest = 0 } = {}) {
    Object.assign(this, { labels, thresholds, lead, release: Math.fround(release), confirm, merge, shortest });
    this.tracks = labels.map(() => ({ run: null, past: null }));
  }

  get active() {
    return this.labels.filter((_, index) => this.tracks[index].run?.confirmed);
  }

  push(window, scores, patch) {
    const slot = window.first ? window.start : window.start + this.lead, on = this.thresholds(patch), events = [];
    this.on = on;
    this.tracks.forEach((track, index) => {
      this.endIfBelow(track, index, scores[index], slot);
      if (!track.run) this.emitSettled(track, slot, events);
      this.rise(track, index, scores[index], slot, patch);
    });
    return events;
  }

  // End all events where the stream ends.
  flush(end) {
    const events = [];
    this.tracks.forEach((track, index) => {
      this.endIfBelow(track, index, -Infinity, end);
      this.emitSettled(track, Infinity, events);
    });
    this.tracks = this.labels.map(() => ({ run: null, past: null }));
    return events;
  }

  endIfBelow(track, index, score, slot) {
    this.confirmRun(track, slot);
    const { run } = track;
    if (!run) return;
    const on = this.on[index], least = run.confirmed ? Math.fround(this.release * on) : on;
    if (score >= least) return;
    if (run.confirmed) track.past = { label: this.labels[index], start: run.start, end: slot, score: run.score, patch: run.patch };
    track.run = null;
  }

  rise(track, index, score, slot, patch) {
    if (!track.run && score >= this.on[index]) track.run = { start: slot, score, patch, confirmed: false };
    if (track.run && score > track.run.score) Object.assign(track.run, { score, patch });
    this.confirmRun(track, slot);
  }

  confirmRun(track, slot) {
    const { run, past } = track;
    if (!run || run.confirmed || slot - run.start < this.confirm) return;
    run.confirmed = true;
    if (past) {
      run.start = past.start;
      track.past = null;
      if (past.score >= run.score) Object.assign(run, { score: past.score, patch: past.patch });
    }
  }

  emitSettled(track, slot, events) {
    const { past } = track;
    if (!past || slot - past.end < this.merge) return;
    track.past = null;
    if (past.end - past.start >= this.shortest) events.push(past);
  }
}

export function concatenate(first, second) {
  const whole = new Float32Array(first.length + second.length);
  whole.set(first);
  whole.set(second, first.length);
  return whole;
}
