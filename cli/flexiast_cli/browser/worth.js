// What a window of each option is worth, as in flexiast_runtime.governor.worth: its metric on clean sounds.

// Options {patch, latency_s, metric} by cost, without those that are no better than a cheaper one.
export function frontier(options) {
  const ordered = [...options].sort((a, b) => a.latency_s - b.latency_s);
  if (ordered.every((option) => option.metric == null)) return ordered;
  let best = -1;
  return ordered.filter((option) => {
    const metric = option.metric ?? interpolate(ordered, option, 0);
    if (!(metric > best)) return false;
    best = metric;
    return true;
  });
}

function interpolate(ordered, { latency_s }, below) {
  const measured = ordered.filter((option) => option.metric != null);
  const after = measured.findIndex((option) => option.latency_s >= latency_s);
  if (after === 0) return below ?? measured[0].metric;
  if (after < 0) return measured.at(-1).metric;
  const [low, high] = [measured[after - 1], measured[after]];
  const share = Math.log(latency_s / low.latency_s) / Math.log(high.latency_s / low.latency_s);
  return low.metric + share * (high.metric - low.metric);
}

export function weighOptions(options) {
  if (options.every((option) => option.metric == null)) return options.map((_, rank) => (rank + 1) / options.length);
  return options.map((option) => option.metric ?? interpolate(options, option));
}

// What a switch changes, in points; empty where it was not measured.
export function describeGain({ metric: before }, { metric: after }) {
  if (before == null || after == null) return "";
  const points = 100 * (after - before);
  return `${points < 0 ? "" : "+"}${points.toFixed(1)} points on clean sounds`;
}
