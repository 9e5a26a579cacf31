// The spectrogram of one clip, with the event's bounds and where it is being played.

import { paletteOf } from './source.js';

const TICKS_HZ = [100, 200, 500, 1000, 2000, 5000, 10000, 20000];

const mel = hz => 1127 * Math.log(1 + hz / 700);

// `shades` are uint8 [frames, bins], the lowest frequency first; `played` is the part of the clip that was played.
export function drawClip(canvas, shades, { colours, bins, hop_s, low_hz, high_hz }, event, played) {
  const ratio = devicePixelRatio || 1, width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
  if (!width) return;
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext('2d');
  context.fillStyle = colours[0];
  context.fillRect(0, 0, width, height);
  const frames = shades ? shades.length / bins : 0;
  if (!frames) return;
  context.imageSmoothingEnabled = true;
  context.drawImage(paint(shades, frames, bins, paletteOf(colours)), 0, 0, width, height);
  const seconds = frames * hop_s, x = time_s => time_s / seconds * width;
  if (event.span) {
    context.fillStyle = 'rgb(0 0 4 / 45%)';
    context.fillRect(0, 0, x(event.span.start_s), height);
    context.fillRect(x(event.span.end_s), 0, width, height);
    context.fillStyle = '#fec488';
    for (const edge of [event.span.start_s, event.span.end_s]) context.fillRect(Math.min(x(edge), width - ratio), 0, ratio, height);
  }
  context.font = `${11 * ratio}px system-ui, sans-serif`;
  context.fillStyle = 'rgb(255 255 255 / 65%)';
  context.textBaseline = 'middle';
  let free = height; // a label too near to the one below is left out
  for (const hz of TICKS_HZ.filter(hz => hz > low_hz * 2 && hz < high_hz * 0.95)) {
    const y = height * (1 - (mel(hz) - mel(low_hz)) / (mel(high_hz) - mel(low_hz)));
    if (y > free - 9 * ratio) continue;
    free = y - 9 * ratio;
    context.fillText(hz < 1000 ? `${hz} Hz` : `${hz / 1000} kHz`, 8 * ratio, y);
  }
  context.textBaseline = 'bottom';
  context.textAlign = 'right';
  context.fillText(`${seconds.toFixed(1)} s`, width - 8 * ratio, height - 6 * ratio);
  if (played > 0) {
    context.fillStyle = '#fff';
    context.fillRect(played * width - ratio, 0, 2 * ratio, height);
  }
}

function paint(shades, frames, bins, palette) {
  const image = new ImageData(frames, bins), pixels = new Uint32Array(image.data.buffer), canvas = new OffscreenCanvas(frames, bins);
  for (let frame = 0; frame < frames; frame++) {
    for (let bin = 0; bin < bins; bin++) pixels[(bins - 1 - bin) * frames + frame] = palette[shades[frame * bins + bin]];
  }
  canvas.getContext('2d').putImageData(image, 0, 0);
  return canvas;
}
