// Labels, numbers and the governor's reasons, for people who know nothing of it.

export const nameOf = (label) => label.replaceAll("_", " ");
export const milliseconds = (value) => `${Number(value.toFixed(value < 10 ? 1 : 0))} ms`;
export const decibels = (value) => `${value.toFixed(0).replace("-", "−")} dBFS`;
export const seconds = (value) => `${Number(value.toFixed(value < 1 ? 3 : 1))} s`;
export const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

const time = (text) => milliseconds(Number(text));

// What governor.js says → a word for the chart and a sentence for the list.
const RULES = [
  [/^predicted p95 of ([\d.]+) ms does not fit the deadline of ([\d.]+) ms$/, "too slow",
    (p95, most) => `95 of 100 results would take the model up to ${time(p95)}, ` +
      (Number(p95) > Number(most) ? `longer than the ${time(most)} allowed` : `too much of the ${time(most)} allowed`)],
  [/^the deadline of ([\d.]+) ms was missed repeatedly$/, "too slow",
    (most) => `results took longer than the ${time(most)} allowed again and again`],
  [/^([\d.]+) steps of audio are waiting$/, "behind",
    (steps) => `the sound came faster than results: ${Number(steps)} steps of it were waiting`],
  [/^predicted p95 of ([\d.]+) ms has fit the deadline of ([\d.]+) ms for ([\d.]+) s$/, "time to spare",
    (p95, most, held) => `for ${held} s, 95 of 100 results would have taken the model at most ${time(p95)} of the ${time(most)} allowed`],
  [/^(\S+) has been worth more on average$/, "better on average", (size) => `${size} has recognised more on average`],
  [/^the deadline of ([\d.]+) ms is missed so seldom that (\S+) has been worth more$/, "better on average",
    (most, size) => `${size} recognises more, and seldom takes longer than the ${time(most)} allowed`],
  [/^battery at (\d+)%(?: \(the sensor reads (\d+)%\))? and discharging$/, "battery",
    (charge, read) => `the battery is draining and has ${charge} % left${read ? ` (its sensor says ${read} %)` : ""}`],
  [/^([+-][\d.]+) points on clean sounds$/, "", (points) => describeGain(Number(points))],
];

function describeGain(points) {
  if (points === 0) return "as accurate as before on clean sounds";
  return `${Math.abs(points)} points of 100 ${points > 0 ? "more" : "less"} accurate on clean sounds`;
}

// The parts that no rule knows stay as they are.
export function explain(reason) {
  const parts = reason.split("; ").map((part) => {
    for (const [pattern, word, say] of RULES) {
      const found = part.match(pattern);
      if (found) return { word, sentence: say(...found.slice(1)) };
    }
    return { word: part, sentence: part };
  });
  return { word: parts[0].word, sentence: parts.map(({ sentence }) => sentence).join("; ") };
}
