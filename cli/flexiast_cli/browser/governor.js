// Which patch size runs next: the core rules of flexiast_runtime.governor in plain JavaScript.
// Here: latency against the deadline, backlog, dwell and hysteresis, the battery's charge and its filter.
// Not here: heat, power limits, a time to last until, engines that fail; budgets of switches and misses.

export const BALANCED = {
  dwell_s: 20, max_dwell_s: 60, relapse_s: 10, headroom: 0.8, limit: 0.97, min_battery: 0.2,
  max_charge_per_min: 0.05, battery_timeout_s: 60, charge_margin: 0.02,
};
const P95 = 1.645, MISS_DECAY = 0.8, MANY_MISSES = 1.5, FEW_MISSES = 0.1;
const WEIGHT_SLOWER = 0.5, WEIGHT_FASTER = 0.2, WEIGHT_VARIANCE = 0.1;
const OUTLIER_SIGMAS = 4, FAST_SIGMAS = 3, MAX_DEVIATION = 2, MIN_SLOWDOWN = 0.05, MIN_VARIANCE = 1e-4;
const TAPER_FROM = 0.5, BAND = 0.1, JUMP = 0.26, STEP = 0.02;
const NO_BATTERY = { battery: null, read_at_s: 0, reading: 0, suspect: null };
const START = {
  slowdown: 1, variance: 0.02, misses: 0, overloaded: false, backlog_steps: 0,
  fits_since_s: null, raised_at_s: null, dwell_s: null, estimate: NO_BATTERY,
};

// Options {patch, latency_s, metric} by cost, without those that are no better than a cheaper one.
export function frontier(options) {
  const ordered = [...options].sort((a, b) => a.latency_s - b.latency_s);
  const measured = ordered.filter((option) => option.metric != null);
  if (!measured.length) return ordered;
  let best = -1;
  return ordered.filter((option) => {
    const metric = option.metric ?? interpolate(measured, option.latency_s);
    if (!(metric > best)) return false;
    best = metric;
    return true;
  });
}

function interpolate(measured, latency_s) {
  const after = measured.findIndex((option) => option.latency_s >= latency_s);
  if (after === 0) return 0;
  if (after < 0) return measured.at(-1).metric;
  const [low, high] = [measured[after - 1], measured[after]];
  const share = Math.log(latency_s / low.latency_s) / Math.log(high.latency_s / low.latency_s);
  return low.metric + share * (high.metric - low.metric);
}

export function initState(policy, options, seen) {
  const state = { ...START, estimate: filterBattery(policy, NO_BATTERY, seen), index: 0 };
  return { ...state, index: Math.min(bestFitting(policy, options, state, seen), limit(policy, options, state).option) };
}

// An observation {time_s, deadline_s, latency_s, overhead_s, backlog_steps, battery, option} → {state, index, reason}.
export function step(policy, options, before, seen) {
  const state = updateSlowdown(options, { ...before, estimate: filterBattery(policy, before.estimate, seen) }, seen);
  const allowed = limit(policy, options, state);
  if (state.index > allowed.option) {
    const target = Math.min(allowed.option, bestFitting(policy, options, state, seen));
    return downshift(policy, { ...state, raised_at_s: null }, seen, target, allowed.reason);
  }
  const reason = describeSlowness(policy, options, state, seen);
  state.backlog_steps = seen.backlog_steps ?? 0;
  if (reason && state.index > 0) {
    const target = Math.min(bestFitting(policy, options, state, seen), state.index - 1);
    return downshift(policy, state, seen, target, reason);
  }
  return maybeUpshift(policy, options, state, seen);
}

const budget = (seen) => seen.deadline_s - (seen.overhead_s ?? 0);
export const predictP95 = (option, state) => option.latency_s * (state.slowdown + P95 * Math.sqrt(state.variance));

function updateSlowdown(options, state, seen) {
  if (seen.latency_s == null || !Number.isFinite(seen.latency_s)) return state;
  let surprise = seen.latency_s / options[seen.option ?? state.index].latency_s - state.slowdown;
  const sigma = Math.sqrt(state.variance), missed = seen.latency_s > budget(seen);
  if (surprise > OUTLIER_SIGMAS * sigma && !missed && state.misses < FEW_MISSES) surprise = OUTLIER_SIGMAS * sigma;
  const weight = surprise > 0 ? WEIGHT_SLOWER : WEIGHT_FASTER;
  const deviation = Math.max(-FAST_SIGMAS * sigma, Math.min(surprise, MAX_DEVIATION));
  const misses = MISS_DECAY * state.misses + Number(missed);
  return {
    ...state, misses,
    slowdown: Math.max(state.slowdown + weight * surprise, MIN_SLOWDOWN),
    variance: Math.max((1 - WEIGHT_VARIANCE) * state.variance + WEIGHT_VARIANCE * deviation ** 2, MIN_VARIANCE),
    overloaded: state.overloaded ? misses > FEW_MISSES : misses > MANY_MISSES && state.index === 0,
  };
}

function describeSlowness(policy, options, state, seen) {
  const predicted = predictP95(options[state.index], state), backlog = seen.backlog_steps ?? 0;
  const deadline = `the deadline of ${ms(seen.deadline_s)} ms`;
  if (predicted > policy.limit * budget(seen)) return `predicted p95 of ${ms(predicted)} ms does not fit ${deadline}`;
  if (state.misses > MANY_MISSES) return `${deadline} was missed repeatedly`;
  if (backlog > 1 && backlog >= state.backlog_steps) return `${backlog.toFixed(1)} steps of audio are waiting`;
  return null;
}

function downshift(policy, state, seen, target, reason) {
  const relapse = state.raised_at_s !== null && seen.time_s - state.raised_at_s < policy.relapse_s;
  const dwell = isSettled(policy, state, seen) ? policy.dwell_s : state.dwell_s ?? policy.dwell_s;
  const dwell_s = relapse ? Math.min(2 * dwell, policy.max_dwell_s) : dwell;
  return { state: { ...state, index: target, misses: 0, fits_since_s: null, raised_at_s: null, dwell_s }, index: target, reason };
}

function maybeUpshift(policy, options, state, seen) {
  const { battery } = state.estimate;
  const less = battery && { ...battery, fraction: Math.max(battery.fraction - policy.charge_margin, 0) };
  const sustainable = limit(policy, options, { estimate: { ...state.estimate, battery: less } }).option;
  const target = Math.min(bestFitting(policy, options, state, seen), sustainable);
  if (target <= state.index) return { state: { ...state, fits_since_s: null }, index: state.index, reason: null };
  const since = state.fits_since_s ?? seen.time_s, dwell = state.dwell_s ?? policy.dwell_s;
  if (seen.time_s - since < dwell) return { state: { ...state, fits_since_s: since }, index: state.index, reason: null };
  const dwell_s = isSettled(policy, state, seen) ? null : state.dwell_s, p95 = ms(predictP95(options[target], state));
  const reason = `predicted p95 of ${p95} ms has fit the deadline of ${ms(seen.deadline_s)} ms for ${dwell} s`;
  return { state: { ...state, index: target, fits_since_s: null, raised_at_s: seen.time_s, dwell_s }, index: target, reason };
}

const isSettled = (policy, state, seen) =>
  state.raised_at_s !== null && seen.time_s - state.raised_at_s > policy.max_dwell_s;

const bestFitting = (policy, options, state, seen) =>
  Math.max(0, options.findLastIndex((option) => predictP95(option, state) <= policy.headroom * budget(seen)));

function limit(policy, options, { estimate }) {
  const { battery } = estimate, costliest = options.length - 1;
  if (!battery?.discharging) return { option: costliest, reason: "" };
  const share = (battery.fraction - policy.min_battery) / (Math.max(TAPER_FROM, policy.min_battery + BAND) - policy.min_battery);
  const [low, high] = [options[0].latency_s, options[costliest].latency_s];
  const allowed = share >= 1 ? Infinity : low * (high / low) ** Math.max(share, 0);
  const reading = Math.abs(estimate.reading - battery.fraction) >= STEP ? ` (the sensor reads ${percent(estimate.reading)})` : "";
  const reason = `battery at ${percent(battery.fraction)}${reading} and discharging`;
  return { option: Math.max(0, options.findLastIndex((option) => option.latency_s <= allowed)), reason };
}

// The charge from readings that may vanish, stick or drop to zero, no faster than a battery discharges.
function filterBattery(policy, estimate, seen) {
  const now = seen.battery, elapsed = Math.max(seen.time_s - estimate.read_at_s, 0);
  if (now == null || !Number.isFinite(now.fraction)) return elapsed <= policy.battery_timeout_s ? estimate : NO_BATTERY;
  const reach = (policy.max_charge_per_min * elapsed) / 60, known = estimate.battery;
  const suspect = known && now.discharging ? suspectCharge(estimate, now, reach) : null;
  let battery = now;
  if (suspect !== null) battery = { ...known, discharging: true };
  else if (known && now.discharging) {
    battery = { ...now, fraction: Math.min(Math.max(now.fraction, known.fraction - reach), known.fraction + reach) };
  }
  return { battery, read_at_s: seen.time_s, reading: now.fraction, suspect };
}

function suspectCharge({ battery, reading, suspect }, now, elapsedReach) {
  const reach = elapsedReach + (now.fraction < STEP ? STEP : JUMP), change = now.fraction - reading;
  if (Math.abs(now.fraction - battery.fraction) <= reach) return null;
  if (change > reach || (suspect === null && change < -reach)) return now.fraction;
  return suspect === null || suspect - now.fraction >= STEP ? null : suspect;
}

const ms = (seconds) => (1000 * seconds).toFixed(1), percent = (share) => `${(100 * share).toFixed(0)}%`;
