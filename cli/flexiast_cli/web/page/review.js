// One event after the other: listen, and say what it was. Names are set as text, never as HTML.

import { drawClip } from './clip.js';
import { offerMissed } from './missed.js';
import { showPrecision } from './precision.js';

const element = id => document.getElementById(id);
const FILTERS = ['order', 'label', 'day', 'min', 'max', 'reviewed'];
const SAID = { right: 'right', wrong: 'wrong', nothing: 'nothing' };
const player = new Audio();

let queue = null, events = [], place = 0, shown = null, shades = null, line = Promise.resolve();
let seen = null; // the event and its verdict as they are on the screen, null until they are drawn

// -------------------------------------------------------------------------------------------------------- the server

// The answer as JSON; throws an error in words, with the status.
async function ask(address, options = {}) {
  let answer;
  try {
    answer = await fetch(`review/${address}`, { cache: 'no-store', ...options });
  } catch {
    throw Object.assign(new Error('nothing answers: flexiast does not run, or the network is down'), { status: 0 });
  }
  if (answer.ok) return answer;
  const text = await answer.text();
  let reason = text.trim().slice(0, 500);
  try { reason = JSON.parse(text).error; } catch { /* plain text, as of the guard or of a proxy */ }
  throw Object.assign(new Error(reason || `the server answers ${answer.status}`), { status: answer.status });
}

const change = (method, id, body) => ask(`verdicts/${id}`, { method, headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) });

// Keys come faster than answers: each action waits for the one before, none is lost.
function run(action) {
  line = line.then(action).catch(error => complain(error.message));
  return line;
}

// What is said counts for what was on the screen then, never for the event that comes after it.
function decide(action) {
  const view = seen;
  return run(() => view && view.event === shown ? action(view) : undefined);
}

function complain(text = '') {
  element('message').hidden = !text;
  element('message').textContent = text;
}

// --------------------------------------------------------------------------------------------------------- the queue

async function load() {
  const filters = new URLSearchParams(FILTERS.map(id => [id, element(id).value]).filter(([, value]) => value));
  try {
    queue = await (await ask(`queue?${filters}`)).json();
    complain();
  } catch (error) {
    events = [];
    clear();
    return complain(error.message);
  }
  events = queue.events;
  place = 0;
  offer('label', ['', ...queue.detected], value => value || 'all');
  offer('labels', queue.labels);
  show();
  measure();
}

function offer(id, values, name = value => value) {
  const list = element(id), before = list.value;
  list.replaceChildren(...values.map(value => {
    const option = document.createElement('option');
    option.value = value;
    if (id === 'label') option.textContent = name(value);
    return option;
  }));
  if (id === 'label') list.value = before;
}

function count() {
  const listen = queue.unreviewed === 1 ? '1 event' : `${queue.unreviewed.toLocaleString()} events`;
  element('count').textContent = `${listen} to listen to · ${queue.reviewed.toLocaleString()} reviewed`;
}

const measure = () => ask('precision').then(answer => answer.json()).then(report => showPrecision(report, element), () => {});

// --------------------------------------------------------------------------------------------------------- the event

function clear() {
  player.pause();
  shown = seen = shades = null;
  element('card').hidden = element('done').hidden = true;
}

function show() {
  count();
  const event = events[place];
  clear();
  element('card').hidden = !event;
  element('done').hidden = Boolean(event);
  if (!event) {
    const filtered = ['label', 'day', 'min', 'max'].some(id => element(id).value);
    const none = filtered ? 'No event with a clip matches these filters.' : 'No event here has a clip yet.';
    element('done').textContent = queue.unreviewed + queue.reviewed ? 'Nothing is left here. Another filter shows more.' : none;
    return;
  }
  shown = event;
  describe(event);
  element('gone').hidden = true;
  draw();
  player.src = new URL(`clips/${event.id}`, location.href).href;
  if (element('at-once').checked) play();
  fetchMore(event);
}

// What is near the event, and the picture of its clip.
async function fetchMore(event) {
  const before = event.judgement;
  try {
    const [more, picture] = await Promise.all([ask(`events/${event.id}`), ask(`pictures/${event.id}`)]);
    const [facts, bytes] = [await more.json(), new Uint8Array(await picture.arrayBuffer())];
    if (shown !== event) return; // walked on meanwhile
    Object.assign(event, facts, event.judgement === before ? {} : { judgement: event.judgement });
    shades = bytes;
    describe(event);
    draw();
  } catch (error) {
    if (shown !== event) return;
    element('gone').hidden = false;
    element('gone').textContent = `${error.message}. A verdict can still be given.`;
  }
}

const timeOf = event => event.started_at
  ? new Date(event.started_at).toLocaleString([], { weekday: 'short', day: 'numeric', month: 'short', year: 'numeric', hour: '2-digit', minute: '2-digit', second: '2-digit', hour12: false })
  : `at ${event.start_s.toFixed(1)} s`;

function describe(event) {
  element('card').setAttribute('aria-busy', 'true');
  requestAnimationFrame(() => {
    if (shown !== event) return;
    seen = { event, judgement: event.judgement };
    element('card').setAttribute('aria-busy', 'false');
  });
  const said = event.judgement, length = `${(event.end_s - event.start_s).toFixed(1)} s`;
  element('what').textContent = event.label;
  element('score').textContent = event.score.toFixed(2);
  element('score-bar').style.width = `${100 * event.score}%`;
  element('threshold').hidden = event.threshold === null;
  element('threshold').style.left = `${100 * (event.threshold ?? 0)}%`;
  element('needed').textContent = event.threshold === null ? '' : `needs ${event.threshold.toFixed(2)}`;
  element('facts').textContent = [timeOf(event), length, event.source, `patch ${event.patch_size}`, event.model, event.bundle_sha256?.slice(0, 8)].filter(Boolean).join(' · ');
  element('verdict').dataset.verdict = said?.verdict ?? '';
  element('verdict').textContent = said ? `${SAID[said.verdict] ?? `it was ${said.label}`}, said by ${said.reviewer}` : '';
  for (const button of element('verdicts').querySelectorAll('[data-verdict]')) button.setAttribute('aria-pressed', button.dataset.verdict === said?.verdict);
  element('withdraw').disabled = !said;
  element('previous').disabled = place === 0;
  element('place').textContent = `${place + 1} of ${events.length}${events.length < queue.unreviewed && element('reviewed').value === 'no' ? '+' : ''}`;
  const near = event.neighbours ?? [];
  element('near').hidden = !near.length;
  element('neighbours').replaceChildren(...near.map(other => {
    const line = document.createElement('li'), name = document.createElement('span'), more = document.createElement('span');
    name.textContent = other.label;
    more.className = 'more';
    const distance = Math.round(other.start_s - event.start_s);
    more.textContent = [`${distance < 0 ? '−' : '+'}${Math.abs(distance)} s`, other.score.toFixed(2), other.judgement?.verdict].filter(Boolean).join(' · ');
    line.append(name, more);
    return line;
  }));
}

function draw() {
  drawClip(element('picture'), shades, queue, shown, player.duration ? player.currentTime / player.duration : 0);
  if (!player.paused) requestAnimationFrame(draw);
}

// ------------------------------------------------------------------------------------------------------------ sound

async function play() {
  try {
    await player.play();
  } catch (error) {
    if (error.name === 'NotAllowedError') complain('the browser plays no sound before you touch the page: press Space');
  }
}

const toggle = () => player.paused ? play() : player.pause();

for (const change of ['play', 'pause', 'ended']) {
  player.addEventListener(change, () => {
    element('play').textContent = player.paused ? '▶ Play' : '■ Stop';
    draw();
  });
}
player.onerror = () => {
  if (!shown || !player.src) return;
  element('gone').hidden = false;
  element('gone').textContent ||= 'The clip is gone or cannot be played. A verdict can still be given.';
};
element('picture').onpointerdown = event => {
  if (!player.duration) return;
  player.currentTime = event.offsetX / element('picture').clientWidth * player.duration;
  play();
};

// ---------------------------------------------------------------------------------------------------------- verdicts

async function judge({ event, judgement }, verdict, label = null) {
  try {
    const body = { verdict, label, reviewer: element('reviewer').value.trim(), instead_of: judgement };
    const given = await (await change('PUT', event.id, body)).json();
    if (!event.judgement) { queue.unreviewed--; queue.reviewed++; }
    event.judgement = given;
    complain();
    measure();
  } catch (error) {
    return refresh(event, error);
  }
  await walk(1);
}

async function withdraw({ event, judgement }) {
  if (!judgement) return;
  try {
    await change('DELETE', event.id, { instead_of: judgement });
    event.judgement = null;
    queue.unreviewed++;
    queue.reviewed--;
    complain();
    count();
    describe(event);
    measure();
  } catch (error) {
    await refresh(event, error);
  }
}

// Somebody else was faster, or the database is busy: say it, and show what is stored now.
async function refresh(event, error) {
  complain(error.message);
  if (error.status !== 409) return;
  const now = await (await ask(`events/${event.id}`)).json();
  const change = Number(Boolean(now.judgement)) - Number(Boolean(event.judgement));
  queue.reviewed += change;
  queue.unreviewed -= change;
  Object.assign(event, now);
  count();
  if (event === shown) describe(event);
}

async function walk(steps) {
  if (place + steps < 0) return;
  place += steps;
  if (place >= events.length) return load(); // what is left, in an order that knows the new verdicts
  show();
}

let asked = null; // what was on the screen, and the label that is to be confirmed

function askLabel(view) {
  asked = { view, label: null };
  element('other').value = '';
  element('hint').textContent = '';
  element('ask').showModal();
}

// A label that no model here knows may be a typo: it is taken when it is confirmed.
element('ask').querySelector('form').onsubmit = event => {
  const label = element('other').value.trim();
  event.preventDefault();
  if (!label) return void (element('hint').textContent = 'Type a label, or cancel.');
  if (!queue.labels.includes(label) && asked.label !== label) {
    asked.label = label;
    element('hint').textContent = `No model here knows “${label}”. Press Enter again to use it.`;
    return;
  }
  element('ask').close();
  if (!queue.labels.includes(label)) queue.labels.push(label);
  const { view } = asked;
  run(() => label === view.event.label ? judge(view, 'right') : judge(view, 'other', label));
};
element('cancel').onclick = () => element('ask').close();

const say = verdict => decide(verdict === 'other' ? askLabel : view => judge(view, verdict));
const step = steps => run(() => walk(steps));

for (const button of element('verdicts').querySelectorAll('[data-verdict]')) button.onclick = () => say(button.dataset.verdict);
element('withdraw').onclick = () => decide(withdraw);
element('play').onclick = toggle;
element('previous').onclick = () => step(-1);
element('next').onclick = () => step(1);

// A pointer leaves no focus behind: the next Space would press again what was clicked. A label focuses its box late.
element('card').addEventListener('click', event => {
  const release = () => { if (element('card').contains(document.activeElement)) document.activeElement.blur(); };
  if (!event.detail) return; // pressed with a key
  release();
  setTimeout(release);
}, true);

const KEYS = {
  ' ': toggle, ArrowLeft: () => step(-1), ArrowRight: () => step(1), u: () => decide(withdraw),
  1: () => say('right'), 2: () => say('wrong'), 3: () => say('other'), 0: () => say('nothing'),
};
document.onkeydown = event => {
  const typing = event.target.closest('input:not([type="checkbox"]), select, dialog, #missed');
  if (typing || element('ask').open || event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
  if (event.key === ' ' && event.target.closest('button, input')) return; // it presses what has the focus
  event.preventDefault();
  if (!event.repeat) KEYS[event.key]();
};

// ------------------------------------------------------------------------------------------------------------- start

for (const id of FILTERS) element(id).onchange = () => run(load);
element('filters').onsubmit = event => event.preventDefault();
for (const [id, key] of [['reviewer', 'value'], ['at-once', 'checked']]) {
  const held = localStorage.getItem(`flexiast ${id}`);
  if (held !== null) element(id)[key] = key === 'checked' ? held === 'true' : held;
  element(id).onchange = () => localStorage.setItem(`flexiast ${id}`, element(id)[key]);
}
const loadMissed = offerMissed(element, ask, () => queue, () => queue.labels);
window.onresize = draw;
if (location.search) history.replaceState(null, '', location.pathname); // the token is in a cookie now
run(load).then(() => queue && loadMissed());
