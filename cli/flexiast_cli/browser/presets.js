// Policies by name, as in flexiast_runtime.governor.presets: what each field means stands there, in types.

export const BALANCED = {
  dwell_s: 20, max_dwell_s: 60, relapse_s: 10, headroom: 0.8, limit: 0.97, goal: { min_battery: 0.2 },
  switches_per_h: 20, misses_share: 0.01, miss_cost: 1,
  max_charge_per_min: 0.05, battery_timeout_s: 60, charge_margin: 0.02,
};
