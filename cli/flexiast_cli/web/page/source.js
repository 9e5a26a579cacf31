// One source's last minutes: its shades in a ring of columns, and what was said of each window.

export const VIEW_S = 60;
const KEPT_S = 70;
const HOLD_S = 2;
export const KEPT_RECORDS = 100;

export class Source {
  constructor(name, hello, palette, switches) {
    Object.assign(this, { name, hop: hello.hop_s, palette, statuses: [], events: new Map(), switches, notice: null, troubles: new Map(), until: null });
    this.columns = Math.ceil(KEPT_S / this.hop);
    this.bins = 0;
  }

  get latest() { return this.statuses.at(-1); }

  get end() { return this.latest?.time_s ?? 0; }

  addStatus(status) {
    this.statuses.push(status);
    const first = this.statuses.findIndex(old => old.time_s >= status.time_s - KEPT_S);
    this.statuses.splice(0, first);
  }

  // Failures and overloads are told once, so each is shown for as long as the chart is. True if one went.
  forgetTroubles() {
    const past = [...this.troubles.values()].filter(trouble => trouble.time_s < this.end - VIEW_S);
    for (const trouble of past) this.troubles.delete(trouble.type);
    return past.length > 0;
  }

  // An event, or one again, now with its clip; the newest stay, and all that are in sight.
  addEvent(event) {
    this.events.set(event.id, event);
    const gone = [...this.events.values()].filter(old => old.end_s < this.end - KEPT_S).sort((a, b) => b.start_s - a.start_s);
    for (const old of gone.slice(KEPT_RECORDS)) this.events.delete(old.id);
  }

  // Shades [frames, bins] that end at the last status.
  addShades(shades, frames) {
    if (!this.bins) this.begin(shades.length / frames);
    const last = Math.round(this.end / this.hop), first = last - frames;
    if (this.until !== null) this.blank(this.until, first);
    for (let frame = 0; frame < frames; frame++) {
      const place = (((first + frame) % this.columns) + this.columns) % this.columns;
      this.shades.set(shades.subarray(frame * this.bins, (frame + 1) * this.bins), place * this.bins);
    }
    this.paint(first, last);
    this.until = last;
  }

  begin(bins) {
    this.bins = bins;
    this.shades = new Uint8Array(this.columns * bins);
    this.canvas = document.createElement('canvas');
    this.canvas.width = this.columns;
    this.canvas.height = bins;
    this.context = this.canvas.getContext('2d');
  }

  blank(first, last) {
    for (let column = Math.max(first, last - this.columns); column < last; column++) {
      this.context.clearRect(column % this.columns, 0, 1, this.bins);
    }
  }

  paint(first, last) {
    const width = last - first, image = new ImageData(width, this.bins), pixels = new Uint32Array(image.data.buffer);
    for (let x = 0; x < width; x++) {
      const place = ((((first + x) % this.columns) + this.columns) % this.columns) * this.bins;
      for (let y = 0; y < this.bins; y++) pixels[(this.bins - 1 - y) * width + x] = this.palette[this.shades[place + y]];
    }
    const place = ((first % this.columns) + this.columns) % this.columns;
    this.context.putImageData(image, place, 0);
    if (place + width > this.columns) this.context.putImageData(image, place - this.columns, 0);
  }

  // Highest peak of the last seconds.
  get heldPeak() {
    const recent = this.statuses.filter(status => status.signal && status.time_s > this.end - HOLD_S);
    return recent.length ? Math.max(...recent.map(status => status.signal.peak_dbfs)) : null;
  }

  at(time) {
    return this.statuses.findLast(status => status.time_s <= time) ?? this.statuses[0];
  }
}

// The newest switches, and all that are in sight.
export function pruneSwitches(switches, end) {
  const gone = switches.findIndex(change => change.time_s >= end - KEPT_S);
  switches.splice(0, Math.max((gone < 0 ? switches.length : gone) - KEPT_RECORDS, 0));
}

// Colours from silent to loud as 256 pixels; the same on a light page, where the legend tells that dark is silent.
export function paletteOf(colours) {
  const anchors = colours.map(colour => [1, 3, 5].map(at => parseInt(colour.slice(at, at + 2), 16)));
  return Uint32Array.from({ length: 256 }, (_, shade) => {
    const place = shade / 255 * (anchors.length - 1), below = Math.min(Math.floor(place), anchors.length - 2);
    const [red, green, blue] = anchors[below].map((value, channel) => value + (anchors[below + 1][channel] - value) * (place - below));
    return (255 << 24 | Math.round(blue) << 16 | Math.round(green) << 8 | Math.round(red)) >>> 0;
  });
}
