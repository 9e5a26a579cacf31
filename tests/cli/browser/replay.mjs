// Traces, one a line of JSON: {policy, options, observations} → the decisions of the page's governor on each.

import { createInterface } from "node:readline";
import { explain } from "../../../cli/flexiast_cli/browser/words.js";
import { frontier } from "../../../cli/flexiast_cli/browser/worth.js";
import { initState, step } from "../../../cli/flexiast_cli/browser/governor.js";

for await (const line of createInterface({ input: process.stdin })) {
  const { policy, options, observations: [first, ...others] } = JSON.parse(line);
  let state = initState(policy, options, first);
  const decisions = [[state.index, null]];
  for (const observation of others) {
    const decision = step(policy, options, state, observation);
    state = decision.state;
    decisions.push([decision.index, decision.reason]);
  }
  const { overloaded } = state, said = decisions.map(([, reason]) => reason && explain(reason));
  console.log(JSON.stringify({ decisions, said, overloaded, frontier: frontier(options).map(({ patch }) => patch) }));
}
