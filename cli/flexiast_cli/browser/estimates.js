// What the governor learns from windows, as in flexiast_runtime.governor: how slow the machine is, which loads come, what is
// left of the budgets, and what each size is worth. The reasons for the numbers stand there.

const P95 = 1.645, MISS_DECAY = 0.8, FEW_MISSES = 0.1;
export const MANY_MISSES = 1.5;
const WEIGHT_SLOWER = 0.5, WEIGHT_FASTER = 0.2, WEIGHT_VARIANCE = 0.1;
const OUTLIER_SIGMAS = 4, FAST_SIGMAS = 3, MAX_DEVIATION = 2, MIN_SLOWDOWN = 0.05, MIN_VARIANCE = 1e-4;
const SPELL_GAP_S = 2, PRIOR_FIT_S = 300, PROOF_S = 120, MISSES_OF_A_LOAD = 2, PROVEN_SHARE = 3, FEW_SPELLS = 2;
const SWITCHES_AT_ONCE = 0.5, SWITCHES_AT_START = 0.2, FILL = 0.9, ROUND_TRIP = 2, MISSES_OVER = 1000;
export const MEMORY_S = 900, MAX_STEP_S = 5;

export const NO_LOADS = { at_s: null, window_s: 0, watched_s: 0, late_s: [], spells: [], fits_since_s: [] };

export const budgetOf = (seen) => seen.deadline_s - (seen.overhead_s ?? 0);
export const isLate = (seen) => seen.latency_s != null && seen.latency_s > budgetOf(seen);
export const predictP95 = (option, state) => option.latency_s * (state.slowdown + P95 * Math.sqrt(state.variance));

// ------------------------------------------------------------------------------------------------- latency and loads

export function updateSlowdown(options, state, seen) {
  if (seen.latency_s == null || !(seen.latency_s >= 0 && seen.latency_s < Infinity)) return state;
  const ratio = seen.latency_s / options[seen.option ?? state.index].latency_s;
  const sigma = Math.sqrt(state.variance), missed = isLate(seen);
  let surprise = ratio - state.slowdown;
  if (surprise > OUTLIER_SIGMAS * sigma && !missed && state.misses < FEW_MISSES) surprise = OUTLIER_SIGMAS * sigma;
  const weight = surprise > 0 ? WEIGHT_SLOWER : WEIGHT_FASTER;
  const deviation = Math.max(-FAST_SIGMAS * sigma, Math.min(surprise, MAX_DEVIATION));
  const misses = MISS_DECAY * state.misses + Number(missed);
  return {
    ...state, misses, latest: ratio,
    slowdown: Math.max(state.slowdown + weight * surprise, MIN_SLOWDOWN),
    variance: Math.max((1 - WEIGHT_VARIANCE) * state.variance + WEIGHT_VARIANCE * deviation ** 2, MIN_VARIANCE),
    loads: updateLoads(state.loads, options, seen, ratio),
    overloaded: state.overloaded ? misses > FEW_MISSES : misses > MANY_MISSES && state.index === 0,
  };
}

// How long each option would have been late, and in how many spells, had it run all the time; a slow forgetting.
function updateLoads(loads, options, seen, ratio) {
  const zeros = options.map(() => 0);
  if (loads.at_s === null) return { ...NO_LOADS, at_s: seen.time_s, late_s: zeros, spells: zeros, fits_since_s: zeros };
  const elapsed = Math.min(Math.max(seen.time_s - loads.at_s, 0), MAX_STEP_S), keep = Math.exp(-elapsed / MEMORY_S);
  const late = options.map((option) => ratio * option.latency_s > budgetOf(seen));
  return {
    at_s: seen.time_s,
    window_s: loads.window_s ? loads.window_s + 0.1 * (elapsed - loads.window_s) : elapsed,
    watched_s: keep * loads.watched_s + elapsed,
    late_s: loads.late_s.map((seconds, index) => keep * seconds + (late[index] ? elapsed : 0)),
    spells: loads.spells.map((spells, index) => keep * spells + Number(late[index] && loads.fits_since_s[index] >= SPELL_GAP_S)),
    fits_since_s: loads.fits_since_s.map((since, index) => (late[index] ? 0 : since + elapsed)),
  };
}

export const lateShare = (loads, index) => (loads.watched_s ? loads.late_s[index] / loads.watched_s : 0);

export function fitSeconds(loads, index) {
  if (!loads.spells.length) return PRIOR_FIT_S;
  const mean = (loads.watched_s - loads.late_s[index] + PRIOR_FIT_S) / (loads.spells[index] + 1);
  return Math.max(mean, loads.fits_since_s[index]);
}

// Whether the option seldom misses, and misses are left in the budget.
export function isHeld(policy, { loads, budgets }, index) {
  const most = PROVEN_SHARE * policy.misses_share * loads.watched_s;
  return budgets.misses > 0 && loads.watched_s >= PROOF_S && loads.late_s[index] + loads.window_s <= most;
}

// Whether its loads are so short that the budget of misses covers another one.
export function isWaitedOut(policy, state, index) {
  const { loads, budgets } = state;
  if (!isHeld(policy, state, index) || loads.spells[index] < FEW_SPELLS) return false;
  return loads.late_s[index] / loads.spells[index] <= budgets.misses * loads.window_s;
}

// ------------------------------------------------------------------------------------------------------------ budgets

export const startBudgets = (policy, seen) =>
  ({ switches: SWITCHES_AT_START * policy.switches_per_h, misses: MISSES_OVER * policy.misses_share, at_s: seen.time_s });

// A miss that the cheapest option would not have spared is nobody's choice.
export function updateBudgets(policy, options, { budgets, index }, seen) {
  const elapsed = Math.min(Math.max(seen.time_s - budgets.at_s, 0), MAX_STEP_S), ran = seen.latency_s != null;
  const spared = seen.latency_s * (options[0].latency_s / options[index].latency_s);
  const missed = isLate(seen) && budgetOf(seen) >= spared, mostMisses = MISSES_OVER * policy.misses_share;
  const switches = budgets.switches + (FILL * policy.switches_per_h * elapsed) / 3600;
  const misses = budgets.misses + (ran ? policy.misses_share : 0) - Number(missed);
  return {
    switches: Math.min(switches, SWITCHES_AT_ONCE * policy.switches_per_h),
    misses: Math.min(Math.max(misses, -mostMisses), mostMisses), at_s: seen.time_s,
  };
}

export const allowsClimb = ({ switches, misses }, isDetour) =>
  isDetour ? switches >= 2 * ROUND_TRIP : switches >= ROUND_TRIP && misses > 0;
export const sparesAMiss = (policy, { misses }) => misses >= 0.5 * MISSES_OVER * policy.misses_share;

// ---------------------------------------------------------------------------------------------- what an option is worth

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

export const holdWorth = (policy, { loads }, index, worth) => worth * (1 - policy.miss_cost * lateShare(loads, index));

// The mean worth of each option per window from now on: held through its loads, or left for each and taken again.
export function expectWorths(policy, options, state) {
  const worths = weighOptions(options);
  if (!state.loads.spells.length) return worths;
  let cycledBelow = 0, heldBelow = 0;
  return worths.map((worth, index) => {
    const held = index === 0 || isHeld(policy, state, index) ? worthOfHolding(policy, state, index, worth, heldBelow) : 0;
    const cycle = index === 0 ? 0 : worthOfCycle(policy, state, index, worth, cycledBelow, heldBelow);
    const best = Math.max(held, cycle);
    [cycledBelow, heldBelow] = [Math.max(cycledBelow, best), Math.max(heldBelow, held)];
    return best;
  });
}

function worthOfHolding(policy, state, index, worth, below) {
  const late = lateShare(state.loads, index), time = late ? Math.min(policy.misses_share / late, 1) : 1;
  return time * holdWorth(policy, state, index, worth) + (1 - time) * below;
}

function worthOfCycle(policy, { loads, dwell_s }, index, worth, cycledBelow, heldBelow) {
  const fit = fitSeconds(loads, index);
  let away = loads.late_s[index] / (loads.spells[index] + 1) + (dwell_s ?? policy.dwell_s);
  const wait = (ROUND_TRIP * 3600) / policy.switches_per_h - fit - away, below = wait <= 0 ? cycledBelow : heldBelow;
  away += Math.max(wait, 0);
  const lost = policy.miss_cost * MISSES_OF_A_LOAD * loads.window_s * worth;
  return (fit * worth + away * below - lost) / (fit + away);
}

