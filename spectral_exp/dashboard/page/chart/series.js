/**
 * Series as the chart works on them: rows in the order of x, each with the extent of its values.
 *
 * A row is a single point or a bin of many; of a bin the smallest and the largest value and the
 * numbers of NaN and infinities are kept, so that nothing is lost on the way to the pixels.
 */

import { visible } from "../dom.js";

/**
 * Return a series with `x, lo, hi, first, last, mid` and, for bands, `low, high` as Float64Arrays
 * of `n` rows, and functions for the values that are not numbers.
 *
 * @param {object} entry A decoded entry of a frame with `key`, `label`, `color` and `kind`.
 */
export function prepareSeries(entry) {
  const columns = withNeighbours(sortedByX(entry.columns), entry);
  const isBand = entry.kind === "band";
  const mid = columns.y ?? columns.mean;
  const lo = columns.y ?? columns.min ?? columns.low;
  const hi = columns.y ?? columns.max ?? columns.high;
  const series = {
    key: entry.key,
    label: visible(entry.label ?? entry.key),
    color: entry.color ?? 0,
    dash: entry.dash ?? 0,
    isBand,
    isRaw: columns.y !== undefined,
    hasExtremes: isBand && columns.min !== undefined,
    n: columns.x.length,
    x: columns.x,
    lo,
    hi,
    mid,
    first: columns.first ?? mid,
    last: columns.last ?? mid,
    low: columns.low,
    high: columns.high,
    count: columns.count ?? columns.n,
    runs: entry.n_runs ?? 0,
    nan: columns.nan,
    posinf: columns.posinf,
    neginf: columns.neginf,
  };
  series.hasSpecials = hasSpecials(series);
  series.binWidth = series.isRaw || isBand ? 0 : smallestDistance(series.x);
  return series;
}

function sortedByX(columns) {
  const { x } = columns;
  let isSorted = true;
  for (let row = 0; row < x.length; row += 1) {
    if (!(row === 0 ? Number.isFinite(x[0]) : x[row] >= x[row - 1] && x[row] < Infinity)) {
      isSorted = false;
      break;
    }
  }
  if (isSorted) return columns;
  const order = Array.from(x.keys()).filter((row) => Number.isFinite(x[row]));
  order.sort((a, b) => x[a] - x[b] || a - b);
  const pick = (column) => Float64Array.from(order, (row) => column[row]);
  return Object.fromEntries(Object.entries(columns).map(([name, column]) => [name, pick(column)]));
}

/** Add the points next to the window that the lines at its edges lead to. */
function withNeighbours(columns, { before, after }) {
  if (!before && !after) return columns;
  const extended = (name, column) => {
    const values = [];
    if (before) values.push(neighbourValue(name, before));
    for (const value of column) values.push(value);
    if (after) values.push(neighbourValue(name, after));
    return Float64Array.from(values);
  };
  return Object.fromEntries(
    Object.entries(columns).map(([name, column]) => [name, extended(name, column)]),
  );
}

function neighbourValue(name, [x, y]) {
  if (name === "x") return x;
  if (name === "count" || name === "n") return 1;
  return name === "nan" || name === "posinf" || name === "neginf" ? 0 : y;
}

function hasSpecials({ n, mid, nan, posinf, neginf, isRaw }) {
  for (let row = 0; row < n; row += 1) {
    if (isRaw ? !Number.isFinite(mid[row]) : nan?.[row] || posinf?.[row] || neginf?.[row])
      return true;
  }
  return false;
}

/** Return the distance of neighbouring bins, Infinity if there is one at most. */
function smallestDistance(x) {
  let least = Infinity;
  for (let row = 1; row < x.length; row += 1) least = Math.min(least, x[row] - x[row - 1]);
  return least;
}

/** Return the numbers of `[NaN, +infinity, -infinity]` of a row. */
export function specialsOf(series, row) {
  if (series.isRaw) {
    const value = series.mid[row];
    return [Number.isNaN(value) ? 1 : 0, value === Infinity ? 1 : 0, value === -Infinity ? 1 : 0];
  }
  return [series.nan?.[row] ?? 0, series.posinf?.[row] ?? 0, series.neginf?.[row] ?? 0];
}

/** Return the first row whose x is at least `value`. */
export function firstRowFrom(series, value) {
  let [from, to] = [0, series.n];
  while (from < to) {
    const middle = (from + to) >> 1;
    if (series.x[middle] < value) from = middle + 1;
    else to = middle;
  }
  return from;
}

/** Return the rows `[from, to)` within a window of x, with one neighbour on both sides. */
export function rowsWithin(series, [lo, hi]) {
  const from = firstRowFrom(series, lo);
  let to = firstRowFrom(series, hi);
  while (to < series.n && series.x[to] === hi) to += 1;
  return [Math.max(0, from - 1), Math.min(series.n, to + 1)];
}

/** Return the row nearest to `value` on x, or -1 of an empty series. */
export function nearestRow(series, value) {
  const row = firstRowFrom(series, value);
  if (row === 0) return series.n ? 0 : -1;
  if (row === series.n) return series.n - 1;
  return value - series.x[row - 1] <= series.x[row] - value ? row - 1 : row;
}

/** Return `[smallest, largest]` x of all series, or null if they have no rows. */
export function extentOfX(list) {
  let [lo, hi] = [Infinity, -Infinity];
  for (const series of list) {
    if (series.n === 0) continue;
    lo = Math.min(lo, series.x[0]);
    hi = Math.max(hi, series.x[series.n - 1]);
  }
  return lo <= hi ? [lo, hi] : null;
}

/**
 * Return the finite values within a window of x as `{lo, hi, smallest, positive}`: their extent,
 * the smallest distance from zero and the smallest positive value (Infinity if there is none).
 *
 * @param {boolean} clip Leave out the rows whose values lie far from nearly all others.
 */
export function extentOfY(list, window, clip) {
  const extent = { lo: Infinity, hi: -Infinity, smallest: Infinity, positive: Infinity };
  const add = (value) => {
    if (!(value - value === 0)) return;
    if (value < extent.lo) extent.lo = value;
    if (value > extent.hi) extent.hi = value;
    if (value > 0 && value < extent.positive) extent.positive = value;
    const size = Math.abs(value);
    if (size > 0 && size < extent.smallest) extent.smallest = size;
  };
  for (const series of list) {
    const [from, to] = rowsInside(series, window);
    const [lowest, highest] = clip ? typicalRange(series, from, to) : [-Infinity, Infinity];
    for (let row = from; row < to; row += 1) {
      if (series.hi[row] <= highest && series.lo[row] >= lowest) {
        add(series.lo[row]);
        add(series.hi[row]);
      }
      if (series.isBand) {
        add(series.low[row]);
        add(series.high[row]);
      }
    }
  }
  return extent;
}

function rowsInside(series, [lo, hi]) {
  let [from, to] = rowsWithin(series, [lo, hi]);
  if (from < to && series.x[from] < lo) from += 1;
  if (from < to && series.x[to - 1] > hi) to -= 1;
  return [from, to];
}

/** Return the range around the middle 96 % of the means that is three times as wide. */
function typicalRange(series, from, to) {
  const values = series.mid.slice(from, to).filter(Number.isFinite).sort();
  if (values.length < 8) return [-Infinity, Infinity];
  const lo = values[Math.floor(0.02 * values.length)];
  const hi = values[Math.ceil(0.98 * values.length) - 1];
  return [lo - (hi - lo), hi + (hi - lo)];
}

/**
 * Return the smoothed means of the rows `[from, to)`: an exponential mean whose memory is a share
 * of the width of the window, so that it looks the same at every zoom and for any number of bins.
 *
 * @param {number} smoothing 0 (none) to below 1, the weight kept over a thousandth of the width.
 */
export function smoothedMeans(series, from, to, [lo, hi], smoothing) {
  const means = new Float64Array(to - from).fill(NaN);
  const unit = (hi - lo) / 1000;
  let [sum, weight, previous] = [0, 0, NaN];
  for (let row = from; row < to; row += 1) {
    const value = series.mid[row];
    if (!Number.isFinite(value)) continue;
    const distance = Number.isNaN(previous) ? 1 : (series.x[row] - previous) / unit;
    const keep = smoothing ** Math.max(distance, 1e-9);
    sum = keep * sum + (1 - keep) * value;
    weight = keep * weight + (1 - keep);
    means[row - from] = weight > 0 ? sum / weight : value;
    previous = series.x[row];
  }
  return means;
}
