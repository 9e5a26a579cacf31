// How often each label was right, with intervals.

const percent = share => `${Math.round(100 * share)} %`;

export function showPrecision({ total, labels, hours }, element) {
  fill(element('by-label'), labels.map(one => [one.label, one]));
  fill(element('by-hour'), hours.map(one => [`${String(one.hour).padStart(2, '0')}:00`, one]));
  element('caution').hidden = !total;
}

function fill(list, rows) {
  list.replaceChildren(...rows.map(([name, one]) => line(name, one)));
  if (!rows.length) list.append(part('li', 'no verdict yet', 'none'));
}

function line(name, { right, reviewed, precision, interval: [low, high] }) {
  const row = part('li'), bar = part('span', '', 'interval'), range = part('i'), mark = part('b');
  range.style.left = `${100 * low}%`;
  range.style.width = `${100 * (high - low)}%`;
  mark.style.left = `${100 * precision}%`;
  bar.append(range, mark);
  bar.title = `${percent(low)} to ${percent(high)}`;
  row.append(part('span', name), bar, part('output', percent(precision)), part('span', `${right} of ${reviewed}`, 'more'));
  return row;
}

function part(tag, text = '', name = '') {
  const made = document.createElement(tag);
  made.textContent = text;
  if (name) made.className = name;
  return made;
}
