// How slow the machine is, as in flexiast_runtime.governor.slowdown: the reasons for the numbers stand there.

import { budgetOf, isLate } from "./budgets.js";

const P95 = 1.645, MISS_DECAY = 0.8, FEW_MISSES = 0.1;
export const MANY_MISSES = 1.5;
const WEIGHT_SLOWER = 0.5, WEIGHT_FASTER = 0.2, WEIGHT_VARIANCE = 0.1;
const OUTLIER_SIGMAS = 4, FAST_SIGMAS = 3, MAX_DEVIATION = 2, MIN_SLOWDOWN = 0.05, MIN_VARIANCE = 1e-4;

export const predictP95 = (option, state) => option.latency_s * (state.slowdown + P95 * Math.sqrt(state.variance));

// Whether the window was timed.
export const isTimed = ({ latency_s }) => latency_s != null && latency_s >= 0 && latency_s < Infinity;

export function updateSlowdown(options, state, seen) {
  if (!isTimed(seen)) return state;
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
    overloaded: state.overloaded ? misses > FEW_MISSES : misses > MANY_MISSES && state.index === 0,
  };
}
