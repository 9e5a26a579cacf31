// Spectrogram, events, scores and patch sizes over one time axis.

import { VIEW_S } from './source.js';

const SHOWN_SCORE = 0.15;
const SMALL_SCORE = 0.5;
const TICKS_HZ = [250, 500, 1000, 2000, 4000, 8000, 16000];

const mel = hz => 1127 * Math.log1p(hz / 700);

export const clock = seconds => {
  const whole = Math.floor(seconds), pad = number => String(number).padStart(2, '0');
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${pad(minutes)}:${pad(whole % 60)}` : `${minutes}:${pad(whole % 60)}`;
};

export class Chart {
  // `lookOf` gives a label its colour and dashes; `labels` are those that have a curve.
  constructor(canvas, lookOf) {
    this.canvas = canvas;
    this.lookOf = lookOf;
    this.labels = [];
    this.context = canvas.getContext('2d');
  }

  // `end` is the time at the right edge; `cursor` a time to mark, or null.
  draw(source, hello, end, cursor) {
    Object.assign(this, { source, end, start: end - VIEW_S });
    this.statuses = source.statuses.filter(status => status.time_s > this.start - 2 && status.time_s <= end + 2);
    this.sizes = [...new Set(this.statuses.map(status => status.patch_size))].sort((a, b) => area(a) - area(b));
    this.measure();
    const { context, width } = this;
    context.clearRect(0, 0, width, this.canvas.clientHeight);
    context.font = this.font;
    this.switches = source.switches.filter(change => change.time_s > this.start && change.time_s <= end);
    this.drawSpectrogram(hello);
    this.drawEvents();
    this.drawScores();
    this.drawPatches();
    this.drawTimes();
    if (cursor !== null) this.drawCursor(cursor);
  }

  measure() {
    const { canvas, context } = this, phone = canvas.clientWidth < 600, ratio = window.devicePixelRatio || 1;
    const patches = Math.min(Math.max(26 * this.sizes.length, 40), 104);
    const heights = { spectrogram: phone ? 140 : 210, events: 42, scores: phone ? 110 : 140, patches };
    this.isSmall = phone;
    this.left = 56;
    this.width = canvas.clientWidth;
    this.right = this.width - 8;
    let y = 2;
    this.panels = {};
    for (const [name, height] of Object.entries(heights)) {
      this.panels[name] = { top: y, height, bottom: y + height };
      y += height + (name === 'spectrogram' ? 6 : 14);
    }
    const height = y + 10;
    if (canvas.width !== Math.round(this.width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.style.height = `${height}px`;
      canvas.width = Math.round(this.width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const style = getComputedStyle(document.body);
    this.font = `12px ${style.fontFamily}`;
    this.tone = name => style.getPropertyValue(`--${name}`);
  }

  x(time) { return this.left + (time - this.start) / VIEW_S * (this.right - this.left); }

  time(x) { return this.start + (x - this.left) / (this.right - this.left) * VIEW_S; }

  text(text, x, y, colour, align = 'left', baseline = 'middle') {
    Object.assign(this.context, { fillStyle: colour, textAlign: align, textBaseline: baseline });
    this.context.fillText(text, x, y);
  }

  // The text's beginning that fits; nothing, if that would be too short to be understood.
  fitted(text, room, shortest) {
    if (this.context.measureText(text).width <= room) return text;
    let length = text.length;
    while (length >= shortest && this.context.measureText(`${text.slice(0, length)}…`).width > room) length--;
    return length >= shortest ? `${text.slice(0, length)}…` : '';
  }

  clipped(panel, draw) {
    this.context.save();
    this.context.beginPath();
    this.context.rect(this.left, panel.top, this.right - this.left, panel.height);
    this.context.clip();
    draw();
    this.context.restore();
  }

  drawSpectrogram(hello) {
    const { context, source } = this, panel = this.panels.spectrogram;
    context.fillStyle = this.tone('blank');
    context.fillRect(this.left, panel.top, this.right - this.left, panel.height);
    if (source.bins) {
      context.imageSmoothingQuality = 'high';
      this.clipped(panel, () => {
        let column = Math.max(Math.floor(this.start / source.hop), source.until - source.columns, -source.columns);
        while (column < source.until) {
          const place = ((column % source.columns) + source.columns) % source.columns;
          const count = Math.min(source.columns - place, source.until - column);
          const from = this.x(column * source.hop), to = this.x((column + count) * source.hop);
          context.drawImage(source.canvas, place, 0, count, source.bins, from, panel.top, to - from, panel.height);
          column += count;
        }
      });
    }
    const [low, high] = [mel(hello.low_hz), mel(hello.high_hz)];
    for (const hz of TICKS_HZ) {
      if (hz < hello.low_hz || hz > hello.high_hz) continue;
      const y = panel.bottom - (mel(hz) - low) / (high - low) * panel.height;
      this.text(hz < 1000 ? `${hz} Hz` : `${hz / 1000} kHz`, this.left - 8, Math.max(y, panel.top + 7), this.tone('dim'), 'right');
    }
  }

  // Spans with their labels in two lanes; those that go on end at the edge.
  drawEvents() {
    const { context } = this, panel = this.panels.events, lane = panel.height / 2;
    const free = [-Infinity, -Infinity];
    this.text('events', this.left - 8, panel.top + lane / 2, this.tone('dim'), 'right');
    const shown = [...this.source.events.values()].filter(event => event.end_s > this.start && event.start_s < this.end);
    this.clipped(panel, () => {
      for (const event of shown.sort((a, b) => a.start_s - b.start_s)) {
        const place = free[0] <= event.start_s ? 0 : free[1] <= event.start_s ? 1 : free[0] <= free[1] ? 0 : 1;
        free[place] = event.end_s;
        const from = Math.max(this.x(event.start_s), this.left), to = this.x(event.end_s), y = panel.top + place * lane;
        const { colour } = this.lookOf(event.label);
        context.fillStyle = colour;
        context.globalAlpha = 0.22;
        context.fillRect(from, y + 1, Math.max(to - from - 1, 2), lane - 3);
        context.globalAlpha = 1;
        context.fillRect(from, y + 1, 2, lane - 3);
        this.text(this.fitted(event.label, to - from - 12, 3), from + 7, y + lane / 2, this.tone('text'));
      }
    });
  }

  drawScores() {
    const { context, statuses } = this, panel = this.panels.scores, y = score => panel.bottom - score * panel.height;
    for (const score of [0, 0.5, 1]) {
      this.rule(y(score));
      this.text(String(score), this.left - 8, y(score), this.tone('dim'), 'right');
    }
    const best = new Map();
    for (const status of statuses) {
      for (const { label, score } of status.top) {
        if (score >= SHOWN_SCORE && score > (best.get(label)?.score ?? 0)) best.set(label, { score, time: status.time_s });
      }
    }
    const shown = [...best].sort((a, b) => b[1].score - a[1].score);
    this.labels = shown.map(([label]) => label);
    this.clipped({ ...panel, top: panel.top - 3, height: panel.height + 4 }, () => {
      for (const label of this.labels) this.line(statuses.map(status => [this.x(status.time_s), y(scoreOf(status, label))]), this.lookOf(label), y(0));
    });
    const taken = [];
    for (const [label, { score, time }] of shown) {
      if (this.isSmall && score < SMALL_SCORE) continue; // the legend names it
      const name = this.fitted(label, (this.right - this.left) / 3, 3), half = context.measureText(name).width / 2, x = Math.min(Math.max(this.x(time), this.left + half + 2), this.right - half - 2);
      const box = [x - half - 3, x + half + 3, Math.max(y(score) - 9, panel.top + 6)];
      if (taken.some(other => box[0] < other[1] && other[0] < box[1] && Math.abs(box[2] - other[2]) < 14)) continue;
      taken.push(box);
      context.lineJoin = 'round';
      context.lineWidth = 3;
      context.strokeStyle = this.tone('ground');
      Object.assign(context, { textAlign: 'center', textBaseline: 'middle' });
      context.strokeText(name, x, box[2]);
      this.text(name, x, box[2], this.lookOf(label).colour, 'center');
    }
  }

  line(points, { colour, dashes }, base) {
    const { context } = this;
    if (points.length < 2) return;
    context.beginPath();
    const isNothing = index => points[index][1] > base - 1.5; // lines along the bottom would hide each other
    points.forEach(([x, y], index) => index && !(isNothing(index) && isNothing(index - 1)) ? context.lineTo(x, y) : context.moveTo(x, y));
    Object.assign(context, { strokeStyle: colour, lineWidth: 1.75, lineJoin: 'round' });
    context.setLineDash(dashes);
    context.stroke();
    context.setLineDash([]);
    context.beginPath();
    for (const [x, y] of [[points[0][0], base], ...points, [points.at(-1)[0], base]]) context.lineTo(x, y);
    context.globalAlpha = 0.1;
    context.fillStyle = colour;
    context.fill();
    context.globalAlpha = 1;
  }

  // A step line; the finest size, which costs most, at the top, and the reason beside each step where there is room.
  drawPatches() {
    const { context, source, statuses, sizes } = this, panel = this.panels.patches;
    const y = size => panel.top + (sizes.indexOf(size) + 0.5) * panel.height / Math.max(sizes.length, 1);
    for (const size of sizes) {
      this.rule(y(size));
      this.text(size, this.left - 8, y(size), this.tone('dim'), 'right');
    }
    this.clipped(panel, () => {
      context.beginPath();
      let before = null;
      for (const status of statuses) {
        const begun = before ?? status.time_s - status.frames * source.hop;
        context.lineTo(this.x(begun), y(status.patch_size));
        context.lineTo(this.x(status.time_s), y(status.patch_size));
        before = status.time_s;
      }
      Object.assign(context, { strokeStyle: this.tone('accent'), lineWidth: 2.5, lineJoin: 'round' });
      context.stroke();
      this.switches.forEach((change, index) => {
        if (!sizes.includes(change.to)) return;
        const x = this.x(change.time_s), next = this.switches[index + 1]?.time_s ?? this.end;
        context.fillStyle = this.tone('accent');
        context.beginPath();
        context.arc(x, y(change.to), 4, 0, 7);
        context.fill();
        const above = y(change.to) - 17 > panel.top ? -10 : 11;
        this.text(this.fitted(change.reason, this.x(next) - x - 14, 12), x + 8, y(change.to) + above, this.tone('text'));
      });
    });
  }

  drawTimes() {
    const y = this.panels.patches.bottom + 12;
    for (let time = Math.ceil(Math.max(this.start, 0) / 10) * 10; time <= this.end; time += 10) {
      if (this.x(time) > this.right - 12 || this.x(time) < this.left + 8) continue;
      this.text(clock(time), this.x(time), y, this.tone('dim'), 'center');
    }
  }

  drawCursor(time) {
    const { context } = this, x = Math.round(this.x(time)) + 0.5;
    if (x < this.left || x > this.right) return;
    Object.assign(context, { strokeStyle: this.tone('text'), lineWidth: 1 });
    context.beginPath();
    context.moveTo(x, this.panels.spectrogram.top);
    context.lineTo(x, this.panels.patches.bottom);
    context.stroke();
  }

  rule(y) {
    this.context.fillStyle = this.tone('line');
    this.context.fillRect(this.left, Math.round(y), this.right - this.left, 1);
  }
}

const area = size => size.split('x').reduce((product, side) => product * Number(side), 1);

// A label that is not among the best has at most the score of the last of these: near nothing.
export const scoreOf = (status, label) => status.top.find(entry => entry.label === label)?.score ?? 0;
