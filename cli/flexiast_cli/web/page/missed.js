// Sounds that no event reported: look for one in the audio that is kept, draw its bounds, and say what it was.

import { drawClip } from './clip.js';

const SHORTEST_S = 0.1;
const DRAG_PIXELS = 4;

// `ask` gets an answer of the server, `scale` what a picture needs to be drawn, `labels` those that are known.
export function offerMissed(element, ask, scale, labels) {
  const player = new Audio();
  let found = null, shades = null, dragged = null, asked = '', marked = null;

  const say = (text, tone = '') => {
    element('missed-message').textContent = text;
    element('missed-message').dataset.tone = tone;
  };
  const bounds = () => ({ start_s: Number(element('from').value), end_s: Number(element('to').value) });
  const json = (method, body) => ({ method, headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) });

  async function load() {
    const { sources } = await (await ask('missed')).json();
    element('missed').hidden = !sources.length;
    element('where').hidden = sources.length < 2;
    const before = element('source').value;
    element('source').replaceChildren(...sources.map(({ name }) => new Option(name, name)));
    if (sources.some(({ name }) => name === before)) element('source').value = before;
    if (sources.length && !element('moment').value) element('moment').value = localTime(Math.max(...sources.map(source => source.end_s)) - 10);
  }

  async function look() {
    const query = new URLSearchParams({ source: element('source').value, at: new Date(element('moment').value).getTime() / 1000 });
    element('stretch').hidden = true;
    asked = '';
    player.pause();
    found = await (await ask(`missed/look?${query}`)).json();
    found.source = element('source').value;
    shades = Uint8Array.from(atob(found.shades), letter => letter.charCodeAt(0));
    say('Draw the bounds of the sound in the picture, closely: all between them is learnt as its label.');
    element('stretch').hidden = false;
    element('unmark').hidden = true;
    choose(found.at_s, found.at_s + 2);
  }

  function choose(one, other) {
    const within = second => Math.min(Math.max(second, 0), found.seconds);
    const [from, to] = [within(Math.min(one, other)), within(Math.max(one, other))];
    element('from').value = from.toFixed(1);
    element('to').value = Math.max(to, from + SHORTEST_S).toFixed(1);
    draw();
  }

  function draw() {
    if (!found || element('stretch').hidden) return;
    const { start_s, end_s } = bounds(), played = (start_s + player.currentTime) / found.seconds;
    drawClip(element('minute'), shades, scale(), { span: { start_s, end_s } }, player.paused ? 0 : played);
    if (!player.paused) requestAnimationFrame(draw);
  }

  async function mark() {
    const label = element('missed-label').value.trim(), { start_s, end_s } = bounds();
    if (!labels().includes(label) && asked !== label) {
      asked = label;
      return say(`No model here knows “${label}”. Press Mark again to use it.`, 'warn');
    }
    const times = { start_s: found.started_at_s + start_s, end_s: found.started_at_s + end_s };
    marked = await (await ask('missed', json('POST', { source: found.source, label, ...times, reviewer: element('reviewer').value }))).json();
    say(`Marked as ${label}, ${(end_s - start_s).toFixed(1)} s.`);
    element('unmark').hidden = false;
  }

  async function unmark() {
    await ask(`missed/${marked.id}`, { method: 'DELETE' });
    element('unmark').hidden = true;
    say('The mark is taken back.');
  }

  function play() {
    if (!player.paused) return player.pause();
    const { start_s, end_s } = bounds();
    const query = new URLSearchParams({ source: found.source, start: found.started_at_s + start_s, end: found.started_at_s + end_s });
    player.src = new URL(`review/missed/sound?${query}`, location.href).href;
    player.play().catch(() => say('this stretch cannot be played', 'bad'));
  }

  const attempt = action => event => {
    event?.preventDefault();
    return action().catch(error => say(error.message, 'bad'));
  };
  element('look').onsubmit = attempt(look);
  element('stretch').onsubmit = attempt(mark);
  element('unmark').onclick = attempt(unmark);
  element('play-missed').onclick = play;
  for (const id of ['from', 'to']) element(id).oninput = draw;
  for (const change of ['play', 'pause', 'ended']) {
    player.addEventListener(change, () => {
      element('play-missed').textContent = player.paused ? '▶ Play' : '■ Stop';
      draw();
    });
  }
  const second = event => event.offsetX / element('minute').clientWidth * found.seconds;
  element('minute').onpointerdown = event => {
    element('minute').setPointerCapture(event.pointerId);
    dragged = event.offsetX;
  };
  element('minute').onpointermove = event => {
    if (dragged === null || Math.abs(event.offsetX - dragged) < DRAG_PIXELS) return;
    choose(dragged / element('minute').clientWidth * found.seconds, second(event));
  };
  element('minute').onpointerup = element('minute').onpointercancel = () => { dragged = null; };
  window.addEventListener('resize', draw);
  return attempt(load);
}

// As the field for a time wants it.
function localTime(seconds) {
  const moment = new Date(1000 * seconds);
  return new Date(moment.getTime() - 60_000 * moment.getTimezoneOffset()).toISOString().slice(0, 19);
}
