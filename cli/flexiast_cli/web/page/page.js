// What `flexiast listen` hears, as it hears it. Names of labels and sources are set as text, never as HTML.

import { Chart, clock } from './chart.js';
import { create, element, lookOf, showLegend, showNow, showScale } from './labels.js';
import { offerModels } from './model.js';
import { KEPT_RECORDS, Source, VIEW_S, paletteOf, pruneSwitches } from './source.js';

const HELD_MESSAGES = 2000;
const FLOOR_DBFS = -60;

const light = matchMedia('(prefers-color-scheme: light)');
const still = matchMedia('(prefers-reduced-motion: reduce)');
const player = new Audio();
const showModels = offerModels(element);

let hello = null, palette = null, sources = new Map(), shown = null, paused = false, held = [], expected = null;
let edge = 0, drawn = 0, cursor = null, wait = 500, switches = [], dirty = true;
let today = '', legend = [];
const stale = new Set();

// ------------------------------------------------------------------------------------------------------- connection

function connect() {
  const socket = new WebSocket(new URL('records', location.href.replace(/^http/, 'ws')));
  socket.binaryType = 'arraybuffer';
  let opened = false;
  socket.onopen = () => { opened = true; wait = 500; say('live', 'live'); };
  socket.onmessage = ({ data }) => take(data);
  socket.onclose = async ({ code }) => {
    if (code === 1000) return say('ended', 'the stream has ended');
    say('lost', 'trying again …', opened ? '' : await refusal());
    setTimeout(connect, wait);
    wait = Math.min(2 * wait, 8000);
  };
}

// Why the WebSocket does not open: a browser keeps that to itself, but a POST is refused for the same reasons.
async function refusal() {
  try {
    const answer = await fetch('records', { method: 'POST', cache: 'no-store' });
    const text = answer.headers.get('content-type')?.startsWith('text/plain') ? (await answer.text()).trim().slice(0, 500) : '';
    return text || `a proxy in between answers ${answer.status}: it does not reach flexiast at the address that it was given`;
  } catch {
    return 'nothing answers: flexiast does not run, or the network is down';
  }
}

function say(state, text, reason = '') {
  element('connection').dataset.state = document.body.dataset.state = state;
  element('connection').textContent = text;
  element('refusal').hidden = !reason;
  if (element('reason').textContent !== reason) element('reason').textContent = reason; // which is read out anew
}

// While paused, messages wait, the oldest go first.
function take(data) {
  if (!paused) return hear(data);
  held.push(data);
  if (held.length > HELD_MESSAGES) held.splice(0, typeof held[1] === 'string' ? 1 : 2);
}

function hear(data) {
  dirty = true;
  if (typeof data !== 'string') return expected?.source.addShades(new Uint8Array(data), expected.frames);
  const message = JSON.parse(data);
  if (message.type === 'hello') return begin(message);
  if (message.type === 'title') return showTitle(message.title);
  if (message.type === 'summary') return;
  const source = sourceOf(message.source);
  if (message.type === 'status') {
    source.addStatus(message);
    if (source.forgetTroubles()) stale.add(showNotice);
    expected = { source, frames: message.frames };
    stale.add(showStatus);
  } else if (message.type === 'event') {
    source.addEvent(message);
    stale.add(showEvents);
  } else if (message.type === 'switch') {
    switches.push(message);
    pruneSwitches(switches, source.end);
    stale.add(showSwitches).add(showStatus);
  } else if (message.type === 'source') {
    source.notice = message;
    stale.add(showNotice);
  } else if (message.type === 'failure' || message.type === 'overload') {
    source.troubles.set(message.type, message);
    stale.add(showNotice);
  }
}

function begin(message) {
  hello = message;
  palette = paletteOf(hello.colours);
  showScale(palette);
  [sources, shown, expected, edge, cursor, switches] = [new Map(), null, null, 0, null, []];
  showTitle(message.title);
  showModels();
  element('now').replaceChildren();
  for (const id of ['events', 'switches']) element(id).replaceChildren(create('li', 'none yet', 'none'));
  showSources();
  showNotice();
}

function showTitle(title) {
  element('title').textContent = document.title = title;
}

function sourceOf(name) {
  if (!sources.has(name)) {
    sources.set(name, new Source(name, hello, palette, switches));
    shown ??= sources.get(name);
    showSources();
  }
  return sources.get(name);
}

// ------------------------------------------------------------------------------------------------------------- parts

// A day as people say it; nothing for recordings, whose times count from their start.
const dayOf = event => event.started_at ? new Date(event.started_at).toLocaleDateString([], { weekday: 'long', day: 'numeric', month: 'long', year: 'numeric' }) : '';
const timeOf = event => event.started_at ? new Date(event.started_at).toLocaleTimeString([], { hour12: false }) : clock(event.start_s);
const tone = (id, value) => { element(id).dataset.tone = value; };
const fill = (id, share) => { element(id).style.width = `${100 * Math.min(Math.max(share, 0), 1)}%`; };
const ms = value => value < 100 ? value.toFixed(1) : value.toFixed(0);

function showSources() {
  element('sources').hidden = sources.size < 2;
  element('sources').replaceChildren(...[...sources.values()].map(source => {
    const button = create('button', source.name);
    button.type = 'button';
    button.setAttribute('aria-pressed', source === shown);
    button.onclick = () => { shown = source; edge = 0; dirty = true; stale.add(showSources).add(showStatus); };
    return button;
  }));
}

function showNotice() {
  const wrong = [...sources.values()].flatMap(source => [...noticesOf(source)].map(([what, why]) => [create('b', what), `${source.name}: ${why} `]));
  element('notice').hidden = !wrong.length;
  element('notice').replaceChildren(...wrong.flat());
}

function* noticesOf(source) {
  if (['lost', 'no signal'].includes(source.notice?.state)) yield [source.notice.state, source.notice.reason];
  const { failure, overload } = Object.fromEntries(source.troubles);
  if (failure) yield ['engine failed', `${failure.patch_size} is not used for now: ${failure.reason}`];
  if (overload) yield ['too slow', `even ${overload.patch_size} takes ${overload.latency_ms.toFixed(0)} ms of ${overload.deadline_ms.toFixed(0)} ms`];
}

function showStatus() {
  const status = shown?.latest;
  if (!status) return;
  const now = dayOf({ started_at: Date.now() });
  if (now !== today) {
    today = now;
    stale.add(showEvents);
  }
  const change = switches.at(-1), late = status.latency_ms / status.deadline_ms;
  element('patch').textContent = status.patch_size;
  element('why').textContent = change ? `since ${clock(change.time_s)}: ${change.reason}` : 'from the start';
  element('latency').textContent = `${ms(status.latency_ms)} ms`;
  element('deadline').textContent = `${late > 1 ? 'over' : 'of'} ${ms(status.deadline_ms)} ms`;
  fill('latency-bar', late);
  for (const id of ['latency', 'latency-bar']) tone(id, late > 1 ? 'bad' : late > 0.8 ? 'warn' : '');
  showLevel(status.signal);
  element('faults').textContent = status.faults.join(' · ');
  const charge = status.battery;
  element('battery-bar').parentElement.hidden = charge === null;
  element('battery').textContent = charge === null ? 'none' : `${Math.round(100 * charge)} %`;
  element('charging').textContent = charge === null ? '' : status.discharging ? 'draining' : 'plugged in';
  fill('battery-bar', charge ?? 0);
  tone('battery-bar', status.discharging && charge < 0.2 ? 'bad' : '');
  element('lost').textContent = `${status.dropped_s.toFixed(1)} s`;
  tone('lost', status.dropped_s > 0 ? 'warn' : '');
  showNow(status);
}

function showLevel(signal) {
  const over = dbfs => 1 - Math.max(dbfs, FLOOR_DBFS) / FLOOR_DBFS, peak = shown.heldPeak;
  element('level').textContent = signal ? `${signal.level_dbfs.toFixed(0).replace('-', '−')} dBFS` : 'not measured';
  element('peak').textContent = signal ? `peak ${peak.toFixed(0).replace('-', '−')} dBFS` : 'for recordings';
  fill('level-bar', signal ? over(signal.level_dbfs) : 0);
  element('level-peak').style.left = `${signal ? 100 * over(peak) : 0}%`;
  tone('level-bar', signal && peak > -0.1 ? 'bad' : signal && peak > -6 ? 'warn' : '');
}

function showEvents() {
  const events = [...sources.values()].flatMap(source => [...source.events.values()].slice(-KEPT_RECORDS));
  events.sort((a, b) => (b.started_at ?? '').localeCompare(a.started_at ?? '') || b.start_s - a.start_s);
  const focused = document.activeElement?.dataset.id;
  let day = today;
  element('events').replaceChildren(...events.slice(0, KEPT_RECORDS).flatMap(event => {
    const before = day;
    day = dayOf(event);
    return day && day !== before ? [create('li', day, 'day'), eventLine(event)] : [eventLine(event)];
  }));
  if (focused) element('events').querySelector(`[data-id="${focused}"]`)?.focus();
}

function eventLine(event) {
  const time = create('time', timeOf(event));
  if (event.started_at) time.title = `${dayOf(event)}, ${timeOf(event)}`;
  const line = create('li'), more = create('span', `${(event.end_s - event.start_s).toFixed(1)} s  ·  ${event.score.toFixed(2)}`, 'more');
  if (event.clip) more.append(playButton(event));
  line.append(time, create('span', event.label), more);
  if (sources.size > 1) line.append(create('span', event.source, 'source'));
  return line;
}

function playButton(event) {
  const button = create('button');
  button.type = 'button';
  button.dataset.id = event.id;
  button.dataset.what = `${event.label}, ${timeOf(event)}`;
  button.dataset.address = new URL(event.clip, location.href).href;
  button.onclick = () => {
    if (isPlaying(button)) return player.pause();
    player.src = button.dataset.address;
    player.play();
  };
  showPlaying(button);
  return button;
}

const isPlaying = button => player.src === button.dataset.address && !player.paused;

function showPlaying(button) {
  button.textContent = isPlaying(button) ? '■' : '▶';
  button.setAttribute('aria-label', `${isPlaying(button) ? 'Stop' : 'Play'} ${button.dataset.what}`);
}

function showSwitches() {
  element('switches').replaceChildren(...switches.slice(-KEPT_RECORDS).reverse().map(change => {
    const line = create('li');
    line.append(create('time', clock(change.time_s)), create('span', `${change.from} → ${change.to}`), create('span', change.reason, 'more'));
    return line;
  }));
}

// ---------------------------------------------------------------------------------------------------------- picture

const chart = new Chart(element('chart'), lookOf);

// A label keeps its place in the legend while it has a curve.
function keepLegend() {
  legend = [...legend.filter(label => chart.labels.includes(label)), ...chart.labels.filter(label => !legend.includes(label))];
  showLegend(legend);
}

// The edge glides over the last step while the next one is on its way; without motion it jumps.
function frame(now) {
  requestAnimationFrame(frame);
  const passed = (now - drawn) / 1000;
  drawn = now;
  for (const show of stale) show();
  stale.clear();
  if (!shown?.latest || (paused && !dirty)) return;
  const before = edge, behind = shown.end - edge;
  if (!paused) edge = still.matches || behind > 3 || behind < 0 ? shown.end : Math.min(edge + passed * Math.max(1, behind), shown.end);
  if (edge === before && !dirty) return;
  chart.draw(shown, hello, edge, cursor);
  keepLegend();
  dirty = false;
}

function point(time) {
  cursor = time;
  dirty = true;
  const status = time === null ? null : shown?.at(time);
  element('readout').textContent = !status ? '' : [clock(status.time_s), `patch ${status.patch_size}`, ...status.top.slice(0, 3).map(({ label, score }) => `${label} ${score.toFixed(2)}`)].join(' · ');
}

function pause(wanted) {
  paused = wanted;
  element('pause').setAttribute('aria-pressed', paused);
  element('pause').textContent = paused ? 'Resume' : 'Pause';
  if (!paused) held.splice(0).forEach(hear);
}

for (const change of ['play', 'pause', 'ended']) {
  player.addEventListener(change, () => element('events').querySelectorAll('button').forEach(showPlaying));
}
element('pause').onclick = () => pause(!paused);
element('chart').onpointermove = event => point(Math.min(chart.time(event.offsetX), edge));
element('chart').onpointerleave = () => point(null);
element('chart').onblur = () => point(null);
element('chart').onkeydown = event => {
  const step = { ArrowLeft: -0.5, ArrowRight: 0.5 }[event.key];
  if (event.key === 'Escape') point(null);
  if (!step || !shown?.latest) return;
  event.preventDefault();
  point(Math.min(Math.max((cursor ?? edge) + step, edge - VIEW_S), edge));
};
document.onkeydown = event => {
  if (event.key !== ' ' || event.target.closest('button, dialog')) return;
  event.preventDefault();
  pause(!paused);
};
light.onchange = () => { dirty = true; };
window.onresize = () => { dirty = true; };

if (location.search) history.replaceState(null, '', location.pathname); // the token is in a cookie now
connect();
requestAnimationFrame(frame);
