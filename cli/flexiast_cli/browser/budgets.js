// What the governor may spend, as in flexiast_runtime.governor.budgets: the reasons for the numbers stand there.

const SWITCHES_AT_ONCE = 0.5, SWITCHES_AT_START = 0.2, FILL = 0.9, ROUND_TRIP = 2, MISSES_OVER = 1000;
export const MAX_STEP_S = 5;

// What the deadline leaves for the engine.
export const budgetOf = (seen) => seen.deadline_s - (seen.overhead_s ?? 0);
export const isLate = (seen) => seen.latency_s != null && seen.latency_s > budgetOf(seen);

export const initBudgets = (policy, seen) =>
  ({ switches: SWITCHES_AT_START * policy.switches_per_h, misses: MISSES_OVER * policy.misses_share, at_s: seen.time_s });

// After one more window: time fills one bucket, windows that ran the other.
export function updateBudgets(policy, budgets, seen, missed, ran) {
  const elapsed = Math.min(Math.max(seen.time_s - budgets.at_s, 0), MAX_STEP_S);
  const mostSwitches = SWITCHES_AT_ONCE * policy.switches_per_h, mostMisses = MISSES_OVER * policy.misses_share;
  const switches = budgets.switches + (FILL * policy.switches_per_h * elapsed) / 3600;
  const misses = budgets.misses + (ran ? FILL * policy.misses_share : 0) - Number(missed);
  return {
    switches: Math.min(switches, mostSwitches),
    misses: Math.min(Math.max(misses, -mostMisses), mostMisses),
    at_s: seen.time_s,
  };
}

export const allowsClimb = ({ switches, misses }) => switches >= ROUND_TRIP && misses > 0;
export const allowsDetour = ({ switches }) => switches >= 2 * ROUND_TRIP;
export const sparesAMiss = (policy, { misses }) => misses >= 0.5 * MISSES_OVER * policy.misses_share;
