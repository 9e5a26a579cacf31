// What the battery allows, as in flexiast_runtime.governor's battery_filter and limits: the reasons for the numbers stand there.

const JUMP = 0.26, STEP = 0.02, TAPER_FROM = 0.5, BAND = 0.1;
export const NO_BATTERY = { battery: null, read_at_s: 0, reading: 0, suspect: null };

// The charge from readings that may vanish, stick or drop to zero, no faster than a battery discharges.
export function filterBattery(policy, estimate, seen) {
  const now = seen.battery, elapsed = Math.max(seen.time_s - estimate.read_at_s, 0);
  if (!(now?.fraction >= 0 && now.fraction <= 1)) return elapsed <= policy.battery_timeout_s ? estimate : NO_BATTERY;
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

// The estimate with a little less charge, so that a size that is taken now is not soon forbidden.
export function withMargin(policy, estimate) {
  const { battery } = estimate;
  return { ...estimate, battery: battery && { ...battery, fraction: Math.max(battery.fraction - policy.charge_margin, 0) } };
}

// The costliest option that the charge allows, and why: all of them down to half of it, the cheapest at the reserve.
export function limit(policy, options, estimate) {
  const { battery, reading } = estimate, costliest = options.length - 1, { min_battery } = policy.goal;
  if (!battery?.discharging) return { option: costliest, reason: "" };
  const share = (battery.fraction - min_battery) / (Math.max(TAPER_FROM, min_battery + BAND) - min_battery);
  const [low, high] = [options[0].latency_s, options[costliest].latency_s];
  const allowed = share >= 1 ? Infinity : low * (high / low) ** Math.max(share, 0);
  const sensor = Math.abs(reading - battery.fraction) >= STEP ? ` (the sensor reads ${percent(reading)})` : "";
  const reason = `battery at ${percent(battery.fraction)}${sensor} and discharging`;
  return { option: Math.max(0, options.findLastIndex((option) => option.latency_s <= allowed)), reason };
}

const percent = (share) => `${(100 * share).toFixed(0)}%`;
