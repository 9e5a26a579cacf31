// How labels look, and what both pages show of them. Names of labels are set as text, never as HTML.

const COLOURS = 8, LINES = [['solid', []], ['dashed', [7, 4]], ['dotted', [2, 3]]];
const looks = Array.from({ length: COLOURS * LINES.length }, () => ({ label: null, seen: -Infinity }));

export const element = id => document.getElementById(id);

export function create(tag, text = '', name = '') {
  const part = document.createElement(tag);
  part.textContent = text;
  if (name) part.className = name;
  return part;
}

// A label keeps its colour and dashes while it is in sight; the one not seen for longest gives its own to the next.
export function lookOf(label) {
  let slot = looks.findIndex(look => look.label === label);
  if (slot < 0) {
    slot = looks.reduce((oldest, look, index) => look.seen < looks[oldest].seen ? index : oldest, 0);
    looks[slot].label = label;
  }
  looks[slot].seen = performance.now();
  const [line, dashes] = LINES[Math.floor(slot / COLOURS)];
  return { colour: getComputedStyle(document.body).getPropertyValue(`--c${slot % COLOURS}`), line, dashes };
}

export function showNow(status) {
  element('now').replaceChildren(...status.top.map(({ label, score }) => {
    const line = create('li'), bar = create('span', '', 'bar'), filled = create('i');
    line.dataset.active = status.active.includes(label);
    filled.style.width = `${100 * score}%`;
    if (status.active.includes(label)) filled.style.background = lookOf(label).colour;
    bar.append(filled);
    line.append(create('span', label), create('output', score.toFixed(2)), bar);
    return line;
  }));
}

// What each line of the picture is; drawn anew only when that changes.
export function showLegend(labels) {
  const key = JSON.stringify(labels.map(label => [label, lookOf(label)]));
  if (element('legend').dataset.key === key) return;
  element('legend').dataset.key = key;
  element('legend').replaceChildren(...labels.map(label => {
    const item = create('li', label), look = lookOf(label), sample = create('i');
    sample.style.borderTop = `3px ${look.line} ${look.colour}`;
    item.prepend(sample);
    return item;
  }));
}

// What the colours of the picture mean.
export function showScale(palette) {
  const canvas = element('scale'), image = new ImageData(palette.length, 1);
  new Uint32Array(image.data.buffer).set(palette);
  [canvas.width, canvas.height] = [palette.length, 1];
  canvas.getContext('2d').putImageData(image, 0, 0);
}
