// Which patch size runs next: the rules of flexiast_runtime.governor in plain JavaScript, for what a page can see.
// Not here: heat, watts, noise, a time to last until, engines that fail.

import { NO_BATTERY, filterBattery, limit, withMargin } from "./battery.js";
import {
  MANY_MISSES, MAX_STEP_S, MEMORY_S, NO_LOADS, allowsClimb, budgetOf, expectWorths, fitSeconds, holdWorth, isHeld, isLate,
  isWaitedOut, lateShare, predictP95, sparesAMiss, startBudgets, updateBudgets, updateSlowdown, weighOptions,
} from "./estimates.js";

export const BALANCED = {
  dwell_s: 20, max_dwell_s: 60, relapse_s: 10, headroom: 0.8, limit: 0.97, goal: { min_battery: 0.2 },
  switches_per_h: 20, misses_share: 0.01, miss_cost: 1,
  max_charge_per_min: 0.05, battery_timeout_s: 60, charge_margin: 0.02,
};
const JUDGE_S = 2, MIN_GAIN = 0.001;
const START = {
  index: 0, slowdown: 1, latest: 1, variance: 0.02, misses: 0, overloaded: false, backlog_steps: 0, loads: NO_LOADS,
  worths: [], judged_at_s: -Infinity, fits_since_s: null, raised_at_s: null, dwell_s: null, estimate: NO_BATTERY,
};

export function initState(policy, options, seen) {
  const start = { ...START, budgets: startBudgets(policy, seen) }, state = updateEstimates(policy, options, start, seen);
  return { ...state, index: Math.min(bestFitting(policy, options, state, seen), limit(policy, options, state.estimate).option) };
}

// An observation {time_s, deadline_s, latency_s, overhead_s, backlog_steps, battery, option} → {state, index, reason}.
export function step(policy, options, before, seen) {
  const { state, reason } = decide(policy, options, forgetSleep(before, seen), seen);
  if (!reason) return { state, index: state.index, reason: null };
  const budgets = { ...state.budgets, switches: state.budgets.switches - 1 };
  const notes = [reason, describeGain(options[before.index], options[state.index])].filter(Boolean).join("; ");
  return { state: { ...state, budgets }, index: state.index, reason: notes };
}

function decide(policy, options, before, seen) {
  const state = { ...updateSlowdown(options, updateEstimates(policy, options, before, seen), seen) };
  const allowed = limit(policy, options, state.estimate), best = bestFitting(policy, options, state, seen);
  if (state.index > allowed.option) {
    state.raised_at_s = null; // the limit, not the last upshift, is to blame
    return downshift(policy, options, state, seen, Math.min(allowed.option, best), allowed);
  }
  const reason = describeSlowness(policy, options, state, seen);
  state.backlog_steps = seen.backlog_steps ?? 0;
  if (!reason || state.index === 0) return maybeSwitch(policy, options, state, seen);
  return downshift(policy, options, state, seen, Math.min(best, state.index - 1), { ...allowed, reason });
}

// After a gap, as of a suspended machine, a dwell begins anew.
const forgetSleep = (state, seen) =>
  seen.time_s - state.budgets.at_s > MAX_STEP_S ? { ...state, fits_since_s: null } : state;

function updateEstimates(policy, options, state, seen) {
  const estimate = filterBattery(policy, state.estimate, seen);
  return { ...state, budgets: updateBudgets(policy, options, state, seen), estimate };
}

function describeSlowness(policy, options, state, seen) {
  const { index, misses } = state, option = options[index], backlog = seen.backlog_steps ?? 0;
  const deadline = `the deadline of ${ms(seen.deadline_s)} ms`, most = policy.limit * budgetOf(seen);
  if (backlog > 1 && backlog >= state.backlog_steps) return `${backlog.toFixed(1)} steps of audio are waiting`;
  const mean = option.latency_s * state.slowdown, predicted = predictP95(option, state);
  if (isWaitedOut(policy, state, index) || isStalledOutside(policy, options, state, seen)) return null;
  if (isHeld(policy, state, index)) {
    if (mean > most) return `a mean of ${ms(mean)} ms does not fit ${deadline}`;
  } else if (predicted > most && (isLate(seen) || !sparesAMiss(policy, state.budgets))) {
    return `predicted p95 of ${ms(predicted)} ms does not fit ${deadline}`;
  }
  return misses > MANY_MISSES ? `${deadline} was missed repeatedly` : null;
}

// Whether a lone stall outside the engine took so much of the deadline that no cheaper size would have met it.
function isStalledOutside(policy, options, state, seen) {
  const fits = predictP95(options[state.index], state) <= policy.limit * seen.deadline_s && state.misses <= MANY_MISSES;
  return fits && predictP95(options[0], state) > budgetOf(seen);
}

// To what is worth most through the loads that come; a size that waits them out need not fit now.
function downshift(policy, options, state, seen, most, allowed) {
  const worths = weighOptions(options).map((worth, index) => holdWorth(policy, state, index, worth));
  const healthy = (index) => index <= most || (index <= allowed.option && isWaitedOut(policy, state, index));
  let index = 0;
  for (let other = 1; other < state.index; other++) if (healthy(other) && worths[other] >= worths[index]) index = other;
  const relapse = state.raised_at_s !== null && seen.time_s - state.raised_at_s < policy.relapse_s;
  const dwell = isSettled(policy, state, seen) ? policy.dwell_s : state.dwell_s ?? policy.dwell_s;
  const dwell_s = relapse ? Math.min(2 * dwell, policy.max_dwell_s) : dwell;
  return { state: { ...state, index, misses: 0, fits_since_s: null, raised_at_s: null, dwell_s }, reason: allowed.reason };
}

// To what is worth most on average, once it has been so for a whole dwell and the budgets allow it.
function maybeSwitch(policy, options, before, seen) {
  const age = seen.time_s - before.judged_at_s, state = { ...before };
  if (!(age >= 0 && age < JUDGE_S)) [state.worths, state.judged_at_s] = [expectWorths(policy, options, state), seen.time_s];
  const { target, isDetour } = findBetter(policy, options, state, seen), dwell = state.dwell_s ?? policy.dwell_s;
  state.fits_since_s = target === null ? null : state.fits_since_s ?? seen.time_s;
  const climbs = target > state.index, isAllowed = !climbs || allowsClimb(state.budgets, isDetour);
  if (target === null || seen.time_s - state.fits_since_s < dwell || !isAllowed) return { state, reason: null };
  const reason = describeSwitch(policy, options, state, seen, target), raised_at_s = climbs ? seen.time_s : null;
  const dwell_s = isSettled(policy, state, seen) ? null : state.dwell_s;
  return { state: { ...state, index: target, fits_since_s: null, raised_at_s, dwell_s }, reason };
}

// A climb to less than what may fit soon is a detour.
function findBetter(policy, options, state, seen) {
  const { worths, index: now } = state, highest = limit(policy, options, withMargin(policy, state.estimate)).option;
  let target = null, best = worths[now] + MIN_GAIN, most = 0;
  for (const [index, worth] of worths.entries()) {
    if (worth <= best || index === now || index > Math.max(now, highest)) continue;
    if (index > now) most = Math.max(most, worth);
    if (index < now || fits(policy, options, state, seen, index)) [target, best] = [index, worth];
  }
  return { target, isDetour: best < most };
}

// Whether an option fits with headroom, or is one to be held and fits on average.
function fits(policy, options, state, seen, index) {
  const budget = budgetOf(seen);
  if (predictP95(options[index], state) <= policy.headroom * budget) return true;
  const isOnAverage = options[index].latency_s * state.slowdown <= policy.limit * budget;
  return isOnAverage && sparesAMiss(policy, state.budgets) && isHeld(policy, state, index);
}

function bestFitting(policy, options, state, seen) {
  const most = state.latest > 0 ? (policy.headroom * budgetOf(seen)) / state.latest : Infinity;
  return Math.max(0, options.findLastIndex((option, index) => option.latency_s <= most && fits(policy, options, state, seen, index)));
}

const isSettled = (policy, state, seen) =>
  state.raised_at_s !== null && seen.time_s - state.raised_at_s > policy.max_dwell_s;

function describeSwitch(policy, options, state, seen, target) {
  const [from, to] = [options[state.index].patch, options[target].patch];
  if (target < state.index) {
    return `${from} fits for ${fitSeconds(state.loads, state.index).toFixed(0)} s between loads; ${to} is worth more on average`;
  }
  const predicted = predictP95(options[target], state), deadline = `deadline of ${ms(seen.deadline_s)} ms`;
  if (predicted <= policy.headroom * budgetOf(seen)) {
    return `predicted p95 of ${ms(predicted)} ms has fit the ${deadline} for ${state.dwell_s ?? policy.dwell_s} s`;
  }
  const share = (100 * (1 - lateShare(state.loads, target))).toFixed(2);
  return `it has fit the ${deadline} in ${share}% of the last ${MEMORY_S / 60} minutes`;
}

function describeGain({ metric: before }, { metric: after }) {
  if (before == null || after == null) return "";
  const points = 100 * (after - before);
  return `${points < 0 ? "" : "+"}${points.toFixed(1)} points on clean sounds`;
}

const ms = (seconds) => (1000 * seconds).toFixed(1);
