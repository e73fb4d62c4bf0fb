/** Positions and labels of ticks, and the text of single values. */

const SUFFIXES = [
  [1e12, "T"],
  [1e9, "G"],
  [1e6, "M"],
  [1e3, "k"],
];
const MINUTE = 60;
const HOUR = 3600;
const DAY = 86400;
const TIME_STEPS = [
  1,
  2,
  5,
  10,
  15,
  30,
  MINUTE,
  2 * MINUTE,
  5 * MINUTE,
  10 * MINUTE,
  15 * MINUTE,
  30 * MINUTE,
  HOUR,
  2 * HOUR,
  3 * HOUR,
  6 * HOUR,
  12 * HOUR,
  DAY,
  2 * DAY,
  7 * DAY,
  14 * DAY,
  28 * DAY,
];
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/** Return how the values of an x axis of the server are written. */
export function xKindOf(x) {
  if (x === "step" || x === "tokens") return "count";
  if (x === "relative") return "percent";
  if (x === "train_s" || x === "wall_s") return "duration";
  return "number";
}

/**
 * Return about `count` ticks of a scale as `[{value, label}]`; minor ticks have an empty label.
 *
 * @param {"count"|"percent"|"duration"|"date"|"number"} kind
 */
export function makeTicks(scale, count, kind = "number") {
  if (scale.kind === "log") return distinct(logTicks(scale, count, kind));
  if (scale.kind === "symlog") return distinct(symlogTicks(scale, count, kind));
  return distinct(linearTicks(scale.domain, count, kind));
}

/** Take away the labels that say the same as another one: no more digits can be written. */
function distinct(ticks) {
  const seen = new Set();
  for (const tick of ticks) {
    if (seen.has(tick.label)) tick.label = "";
    seen.add(tick.label);
  }
  return ticks;
}

function linearTicks([lo, hi], count, kind) {
  const rough = hi / count - lo / count;
  if (!(rough > 1e-306))
    return [lo, hi].map((value) => ({ value, label: formatValue(value, kind, 3) }));
  const step = tickStep(rough, kind);
  const offset = kind === "date" ? timezoneOffset(lo) : 0;
  const first = Math.ceil((lo - offset) / step - 1e-9);
  const last = Math.floor((hi - offset) / step + 1e-9);
  const ticks = [];
  for (let index = first; index <= last && ticks.length < 100; index += 1) {
    const value = index === 0 ? offset : Number((index * step + offset).toPrecision(15));
    ticks.push({
      value,
      label: formatTick(value, step, kind, Math.max(Math.abs(lo), Math.abs(hi))),
    });
  }
  return ticks;
}

function tickStep(rough, kind) {
  if (kind === "duration" || kind === "date") {
    const step = TIME_STEPS.find((candidate) => candidate >= rough * 0.999);
    if (rough > 0.5 && step) return step;
    if (rough > 0.5) return niceStep(rough / DAY) * DAY;
  }
  const step = niceStep(rough);
  return kind === "count" ? Math.max(step, 1) : step;
}

function niceStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  const share = rough / power;
  const factor = share < 1.5 ? 1 : share < 3.2 ? 2 : share < 7.1 ? 5 : 10;
  return factor * power;
}

/** Seconds by which local midnights are shifted against those of UTC, so that days tick at 0:00. */
function timezoneOffset(seconds) {
  return new Date(seconds * 1000).getTimezoneOffset() * MINUTE;
}

function logTicks(scale, count, kind) {
  const [from, to] = scale.domain.map((value) => Math.log10(value));
  if (to - from < 1) return linearTicks(scale.domain, count, kind);
  const every = Math.max(1, Math.ceil((to - from) / count));
  const multiples = every > 1 || to - from > 6 ? [1] : [1, 2, 5];
  const labelled = to - from < Math.max(1.5, count / 3) ? [1, 2, 5] : [1];
  const ticks = [];
  for (let power = Math.ceil(from - 1 + 1e-9); power <= to + 1e-9; power += 1) {
    for (const multiple of multiples) {
      const value = Number(`${multiple}e${power}`);
      const isInside = value >= scale.domain[0] * (1 - 1e-9) && value <= scale.domain[1];
      if (!isInside || power % every !== 0) continue;
      ticks.push({ value, label: labelled.includes(multiple) ? formatValue(value, kind, 3) : "" });
    }
  }
  return ticks;
}

function symlogTicks(scale, count, kind) {
  const [lo, hi] = scale.domain;
  const span = Math.abs(scale.range[1] - scale.range[0]);
  const ticks = [];
  const isApart = (value) =>
    ticks.every(
      (tick) => Math.abs(scale.toPixel(tick.value) - scale.toPixel(value)) >= (0.7 * span) / count,
    );
  const top = Math.floor(Math.log10(Math.max(Math.abs(lo), Math.abs(hi))));
  const candidates = [0];
  for (let power = top; power >= Math.log10(scale.threshold) - 1e-9; power -= 1) {
    candidates.push(Number(`1e${power}`), -Number(`1e${power}`));
  }
  for (const value of candidates) {
    if (value >= lo && value <= hi && isApart(value)) {
      ticks.push({ value, label: formatValue(value, kind, 3) });
    }
  }
  return ticks.length > 2 ? ticks : linearTicks(scale.domain, count, kind);
}

function formatTick(value, step, kind, largest) {
  if (kind === "percent") return `${fixed(value * 100, step * 100)}%`;
  if (kind === "duration") return formatDuration(value, step);
  if (kind === "date") return formatDate(value, step);
  if (value === 0) return "0";
  if (largest >= 1e15 || largest < 1e-4) return scientific(value, step);
  if (largest >= 1e4) return suffixed(value, step);
  return fixed(value, step);
}

/** Write a number with the suffix that needs at most two decimals at this distance of ticks. */
function suffixed(value, step) {
  for (const [unit, suffix] of SUFFIXES) {
    if (Math.abs(value) >= unit && decimalsOf(step / unit) <= 2) {
      const share = Number((value / unit).toPrecision(12));
      return `${fixed(share, Number.isInteger(share) ? 1 : step / unit)}${suffix}`;
    }
  }
  return fixed(value, step);
}

function decimalsOf(step) {
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return Math.min(decimals, 20);
}

/** Write a number with as many decimals as ticks at a distance of `step` need. */
function fixed(value, step) {
  return grouped(value.toFixed(decimalsOf(step)));
}

/** Separate the thousands of a number of five digits or more; `toLocaleString` is slow. */
function grouped(text) {
  const [whole, fraction] = text.replace("-", "−").split(".");
  const separated = whole.length > 4 ? whole.replace(/\B(?=(\d{3})+$)/g, ",") : whole;
  return fraction === undefined ? separated : `${separated}.${fraction}`;
}

function scientific(value, step) {
  const power = Math.floor(Math.log10(Math.abs(value)) + 1e-12);
  const digits = Math.max(0, Math.min(15, power - Math.floor(Math.log10(step) + 1e-9)));
  return shortExponent(value.toExponential(digits));
}

function shortExponent(text) {
  return text.replace("e+", "e").replace(/-/g, "−");
}

function formatDuration(seconds, step) {
  if (seconds === 0) return "0";
  if (seconds < 0) return `−${formatDuration(-seconds, step)}`;
  if (step < 1) {
    return step < 1e-3 ? `${fixed(seconds * 1e3, step * 1e3)} ms` : `${fixed(seconds, step)} s`;
  }
  const [days, hours] = [Math.floor(seconds / DAY), Math.floor((seconds % DAY) / HOUR)];
  const [minutes, rest] = [Math.floor((seconds % HOUR) / MINUTE), Math.round(seconds % MINUTE)];
  const parts = [
    [days, "d"],
    [hours, "h"],
    [minutes, "min"],
    [rest, "s"],
  ];
  const shown = parts.filter(([amount]) => amount > 0).map(([amount, unit]) => `${amount} ${unit}`);
  return shown.length ? shown.slice(0, 2).join(" ") : "0";
}

function formatDate(seconds, step) {
  const date = new Date(seconds * 1000);
  const day = `${date.getDate()} ${MONTHS[date.getMonth()]}`;
  const pad = (number) => String(number).padStart(2, "0");
  const clock = `${pad(date.getHours())}:${pad(date.getMinutes())}`;
  if (step >= DAY || clock === "00:00") return day;
  return step < MINUTE ? `${clock}:${pad(date.getSeconds())}` : clock;
}

/** Write one value by itself with `digits` significant digits. */
export function formatValue(value, kind = "number", digits = 5) {
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (kind === "percent") return `${plain(value * 100, digits)}%`;
  if (kind === "duration") return formatDuration(value, Math.abs(value) < 10 ? 0.01 : 1);
  if (kind === "date") return `${formatDate(value, DAY)} ${formatDate(value, 1)}`;
  if (kind === "count" && Number.isInteger(value) && digits > 3) {
    return grouped(String(value));
  }
  return plain(value, digits);
}

function plain(value, digits) {
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (digits <= 3 && size >= 1e3 && size < 1e15) {
    const [unit, suffix] = SUFFIXES.find(([bound]) => size >= bound);
    return `${Number((value / unit).toPrecision(digits))}${suffix}`.replace("-", "−");
  }
  if (size >= 1e-4 && size < 1e9) {
    return grouped(String(Number(value.toPrecision(digits))));
  }
  return shortExponent(Number(value.toPrecision(digits)).toExponential());
}
