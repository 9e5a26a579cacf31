// Which strategy would have scored most here, as in flexiast_runtime.governor.strategies: the reasons for the numbers stand
// there. A strategy is a ceiling and a way to meet a load: it leaves for a cheaper option, or waits while misses are left.

import { MAX_STEP_S, allowsClimb, budgetOf, initBudgets, updateBudgets } from "./budgets.js";
import { weighOptions } from "./worth.js";

const MEMORY_S = 1800, LEAD_S = 3, SETTLE_S = 10, PROOF = 240;
export const NO_CONTEST = { strategies: [], leader: 0, at_s: 0, windows: 1 };

// All strategies after one more window, each played along with budgets of its own, and the one that is followed.
export function updateContest(policy, options, { contest, latest }, seen) {
  if (!contest.strategies.length) return openContest(policy, options, seen);
  const elapsed_s = Math.min(Math.max(seen.time_s - contest.at_s, 0), MAX_STEP_S);
  const window = { ...describeOptions(policy, options, latest, seen), elapsed_s, keep: Math.exp(-elapsed_s / MEMORY_S) };
  const strategies = contest.strategies.map((strategy) => advance(policy, strategy, window, seen));
  const gains = strategies.map((strategy) => strategy.gained), best = gains.indexOf(Math.max(...gains));
  const leader = gains[best] > gains[contest.leader] + LEAD_S ? best : contest.leader;
  return { strategies, leader, at_s: seen.time_s, windows: contest.windows + 1 };
}

// All start at their ceilings; until something is known, the costliest one leads that leaves when it is late.
function openContest(policy, options, seen) {
  const start = { budgets: initBudgets(policy, seen), fits_s: 0, gained: 0 };
  const strategies = [true, false].flatMap((waits) =>
    options.map((_, index) => ({ ...start, ceiling: index, waits, option: index })));
  return { ...NO_CONTEST, strategies, leader: strategies.length - 1, at_s: seen.time_s };
}

// What one window shows of every option.
function describeOptions(policy, options, latest, seen) {
  const latencies = options.map((option) => latest * option.latency_s);
  const roomy = latencies.map((latency) => latency <= policy.headroom * budgetOf(seen));
  const late = latencies.map((latency) => latency > budgetOf(seen));
  return { late, roomy, refuge: Math.max(0, roomy.lastIndexOf(true)), worths: weighOptions(options) };
}

// A strategy after this window.
function advance(policy, strategy, { late, roomy, refuge, worths, elapsed_s, keep }, seen) {
  const { ceiling, waits } = strategy, isLate = late[strategy.option];
  const missed = isLate && !late[0]; // a window that the cheapest option misses, too, is nobody's choice
  const budgets = updateBudgets(policy, strategy.budgets, seen, missed, true);
  const worth = worths[strategy.option] * (isLate ? 1 - policy.miss_cost : 1);
  const fits_s = (waits ? !late[ceiling] : roomy[ceiling]) ? strategy.fits_s + elapsed_s : 0;
  let { option } = strategy;
  if (isLate && !(waits && budgets.misses > 0)) option = refuge;
  else if (option !== ceiling && fits_s >= policy.dwell_s + SETTLE_S && allowsClimb(budgets)) option = ceiling;
  if (option !== strategy.option) budgets.switches -= 1;
  return { ceiling, waits, option, budgets, fits_s, gained: keep * strategy.gained + elapsed_s * worth };
}

const leaderOf = ({ strategies, leader }) => strategies[leader];

// The costliest option that the leader uses.
export const findCeiling = (contest, options) => leaderOf(contest)?.ceiling ?? options.length - 1;

// Whether late windows are waited out: the leader does, and misses are left.
export const isWaiting = ({ contest, budgets }) => Boolean(leaderOf(contest)?.waits) && budgets.misses > 0;

// Whether the leader has been played along for long enough, and runs this option or a costlier one.
export const isProven = (contest, index) => contest.windows >= PROOF && leaderOf(contest)?.option >= index;
