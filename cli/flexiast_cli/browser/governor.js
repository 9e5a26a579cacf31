// Which patch size runs next: the rules of flexiast_runtime.governor in plain JavaScript, for what a page can see.
// Not here: heat, watts, noise, a time to last until, engines that fail.

import { NO_BATTERY, filterBattery, limit, withMargin } from "./battery.js";
import {
  MAX_STEP_S, allowsClimb, allowsDetour, budgetOf, initBudgets, isLate, sparesAMiss, updateBudgets,
} from "./budgets.js";
import { MANY_MISSES, isTimed, predictP95, updateSlowdown } from "./slowdown.js";
import { NO_CONTEST, findCeiling, isProven, isWaiting, updateContest } from "./strategies.js";
import { describeGain, weighOptions } from "./worth.js";

const MIN_GAIN = 0.001;
const START = {
  index: 0, slowdown: 1, latest: 1, variance: 0.02, misses: 0, overloaded: false, backlog_steps: 0,
  contest: NO_CONTEST, fits_since_s: null, raised_at_s: null, dwell_s: null, estimate: NO_BATTERY,
};

export function initState(policy, options, seen) {
  const start = { ...START, budgets: initBudgets(policy, seen) }, state = updateEstimates(policy, options, start, seen);
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
  if (isTimed(seen)) state.contest = updateContest(policy, options, state, seen);
  const allowed = limit(policy, options, state.estimate), best = bestFitting(policy, options, state, seen);
  if (state.index > allowed.option) {
    state.raised_at_s = null; // the limit, not the last upshift, is to blame
    return downshift(policy, options, state, seen, Math.min(allowed.option, best), allowed.reason);
  }
  const reason = describeSlowness(policy, options, state, seen);
  state.backlog_steps = seen.backlog_steps ?? 0;
  if (!reason || state.index === 0) return maybeSwitch(policy, options, state, seen);
  return downshift(policy, options, state, seen, Math.min(best, state.index - 1), reason);
}

// After a gap, as of a suspended machine, a dwell begins anew.
const forgetSleep = (state, seen) =>
  seen.time_s - state.budgets.at_s > MAX_STEP_S ? { ...state, fits_since_s: null } : state;

function updateEstimates(policy, options, state, seen) {
  // A miss that the cheapest option would not have spared is nobody's choice.
  const spared = seen.latency_s * (options[0].latency_s / options[state.index].latency_s);
  const missed = isLate(seen) && budgetOf(seen) >= spared;
  const budgets = updateBudgets(policy, state.budgets, seen, missed, seen.latency_s != null);
  return { ...state, budgets, estimate: filterBattery(policy, state.estimate, seen) };
}

function describeSlowness(policy, options, state, seen) {
  const deadline = `the deadline of ${ms(seen.deadline_s)} ms`, backlog = seen.backlog_steps ?? 0;
  if (backlog > 1 && backlog >= state.backlog_steps) return `${backlog.toFixed(1)} steps of audio are waiting`;
  if (isWaiting(state) || isStalledOutside(policy, options, state, seen)) return null;
  const predicted = predictP95(options[state.index], state), isAtFault = isLate(seen) || !sparesAMiss(policy, state.budgets);
  if (predicted > policy.limit * budgetOf(seen) && isAtFault) {
    return `predicted p95 of ${ms(predicted)} ms does not fit ${deadline}`;
  }
  return state.misses > MANY_MISSES ? `${deadline} was missed repeatedly` : null;
}

// Whether a lone stall outside the engine took so much of the deadline that no cheaper size would have met it.
function isStalledOutside(policy, options, state, seen) {
  const fits = predictP95(options[state.index], state) <= policy.limit * seen.deadline_s && state.misses <= MANY_MISSES;
  return fits && predictP95(options[0], state) > budgetOf(seen);
}

// To the best of the options up to `most`, which fit now.
function downshift(policy, options, state, seen, most, reason) {
  const worths = weighOptions(options);
  let index = 0;
  for (let other = 1; other <= Math.min(most, state.index - 1); other++) if (worths[other] >= worths[index]) index = other;
  const relapse = state.raised_at_s !== null && seen.time_s - state.raised_at_s < policy.relapse_s;
  const dwell = isSettled(policy, state, seen) ? policy.dwell_s : state.dwell_s ?? policy.dwell_s;
  const dwell_s = relapse ? Math.min(2 * dwell, policy.max_dwell_s) : dwell;
  return { state: { ...state, index, misses: 0, fits_since_s: null, raised_at_s: null, dwell_s }, reason };
}

// To the best option up to the leader's ceiling, once there has been a better one for a whole dwell.
function maybeSwitch(policy, options, state, seen) {
  const { target, better } = findBetter(policy, options, state, seen);
  if (target === null) return { state: { ...state, fits_since_s: null }, reason: null };
  const fits_since_s = state.fits_since_s ?? seen.time_s, climbs = target > state.index;
  const isAllowed = !climbs || isAffordable(policy, options, state, seen, better);
  if (seen.time_s - fits_since_s < (state.dwell_s ?? policy.dwell_s) || !isAllowed) {
    return { state: { ...state, fits_since_s }, reason: null };
  }
  const reason = describeSwitch(policy, options, state, seen, target), raised_at_s = climbs ? seen.time_s : null;
  const dwell_s = isSettled(policy, state, seen) ? null : state.dwell_s;
  return { state: { ...state, index: target, fits_since_s: null, raised_at_s, dwell_s }, reason };
}

// The best option that fits, up to the leader's ceiling, and one that is even better but does not fit yet.
function findBetter(policy, options, state, seen) {
  const worths = weighOptions(options), now = state.index, ceiling = findCeiling(state.contest, options);
  const sustainable = limit(policy, options, withMargin(policy, state.estimate)).option;
  const highest = Math.min(ceiling, Math.max(sustainable, now));
  let target = null, better = null, best = now > ceiling ? -1 : worths[now] + MIN_GAIN, most = best;
  for (let index = 0; index <= highest; index++) {
    const worth = worths[index];
    if (worth <= best || index === now) continue;
    if (index < now || fits(policy, options, state, seen, index)) [target, best] = [index, worth];
    else if (worth > most) [better, most] = [index, worth];
  }
  return { target, better: most > best ? better : null };
}

// A climb to less than what may fit later is a detour: it needs twice as much, and nothing better that is about to fit.
function isAffordable(policy, options, state, seen, better) {
  if (better === null) return allowsClimb(state.budgets);
  const isAboutToFit = state.latest * options[better].latency_s <= policy.headroom * budgetOf(seen);
  return allowsDetour(state.budgets) && !isAboutToFit;
}

// Whether an option fits with headroom; or on average, where that is enough for the leader.
function fits(policy, options, state, seen, index) {
  const budget = budgetOf(seen);
  if (predictP95(options[index], state) <= policy.headroom * budget) return true;
  const isOnAverage = options[index].latency_s * state.slowdown <= policy.limit * budget;
  return isOnAverage && (isWaiting(state) || isProven(state.contest, index)) && sparesAMiss(policy, state.budgets);
}

function bestFitting(policy, options, state, seen) {
  const most = state.latest > 0 ? (policy.headroom * budgetOf(seen)) / state.latest : Infinity;
  return Math.max(0, options.findLastIndex((option, index) => option.latency_s <= most && fits(policy, options, state, seen, index)));
}

const isSettled = (policy, state, seen) =>
  state.raised_at_s !== null && seen.time_s - state.raised_at_s > policy.max_dwell_s;

function describeSwitch(policy, options, state, seen, target) {
  const { patch } = options[target];
  if (target < state.index) return `${patch} has been worth more on average`;
  const predicted = predictP95(options[target], state), deadline = `deadline of ${ms(seen.deadline_s)} ms`;
  if (predicted <= policy.headroom * budgetOf(seen)) {
    return `predicted p95 of ${ms(predicted)} ms has fit the ${deadline} for ${state.dwell_s ?? policy.dwell_s} s`;
  }
  return `the ${deadline} is missed so seldom that ${patch} has been worth more`;
}

const ms = (seconds) => (1000 * seconds).toFixed(1);
