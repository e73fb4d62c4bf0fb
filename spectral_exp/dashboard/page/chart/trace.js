/** From rows of a series to lines, areas and strokes in pixels. */

import { smoothedMeans } from "./series.js";

/** A column sticks out if it does so by this many pixels and this many usual differences. */
const LONE_PIXELS = 4;
const LONE_DIFFERENCES = 4;

/** Points nearer to each other than this many line widths are told apart by a stroke only. */
const DENSE_WIDTHS = 4;

/**
 * Return `{path, covers, dots, lone}` of a curve. Per column of pixels the path runs through the first,
 * smallest, largest and last value, so it covers every value at any number of rows; NaN separates
 * its parts. `covers` are strokes over the further columns of bins wider than one, `dots` points
 * without neighbours, and `lone` strokes `[x, top, bottom, ...]` over
 * the columns that stick out of their surroundings.
 *
 * @param {number} width Width of the line and of a column in pixels.
 * @param {boolean} isEnvelope The path is pale, so all that sticks out needs a stroke.
 */
export function traceCurve(series, [from, to], scaleX, scaleY, width, isEnvelope) {
  const path = [];
  const dots = [];
  const columns = { x: [], top: [], bottom: [] };
  let column = NaN;
  let rows = 0;
  let runLength = 0;
  let x, top, bottom, first, last;

  // A bin covers all columns up to the next one, if that is its neighbour.
  const reachOfBin = series.isRaw ? 0 : columnsOfBin(series, scaleX, width);
  const covers = [];
  const fillColumns = (end) => {
    for (let next = column + 1; next < end; next += 1) covers.push((next + 0.5) * width, top, bottom);
  };
  const closeColumn = () => {
    if (rows === 0) return;
    if (bottom - top < 0.25) path.push(x, last);
    else {
      x = (column + 0.5) * width;
      const isRising = first >= last;
      path.push(x, first, x, isRising ? bottom : top, x, isRising ? top : bottom, x, last);
    }
    columns.x.push(x);
    columns.top.push(top);
    columns.bottom.push(bottom);
    rows = 0;
  };
  const closeRun = () => {
    closeColumn();
    if (runLength === 1) dots.push(x, last);
    if (runLength > 0) path.push(NaN, NaN);
    runLength = 0;
    column = NaN;
  };

  for (let row = from; row < to; row += 1) {
    const [lo, hi] = [series.lo[row], series.hi[row]];
    if (!(hi - lo >= 0) && !(Number.isFinite(lo) && Number.isFinite(hi))) {
      closeRun();
      continue;
    }
    const pixel = scaleX.toPixel(series.x[row]);
    const rowTop = scaleY.toPixel(hi);
    const rowBottom = lo === hi ? rowTop : scaleY.toPixel(lo);
    const rowFirst = lo === hi ? rowTop : scaleY.toPixel(series.first[row]);
    const rowLast = lo === hi ? rowTop : scaleY.toPixel(series.last[row]);
    const rowColumn = Math.floor(pixel / width);
    if (rowColumn !== column) {
      if (rowColumn - column <= reachOfBin) fillColumns(rowColumn);
      closeColumn();
      [column, x, top, bottom, first] = [rowColumn, pixel, rowTop, rowBottom, rowFirst];
    }
    if (rowTop < top) top = rowTop;
    if (rowBottom > bottom) bottom = rowBottom;
    // The first or last value of a bin may be one that has no place on the scale.
    if (!(first >= top && first <= bottom)) first = top;
    last = rowLast >= rowTop && rowLast <= rowBottom ? rowLast : rowBottom;
    rows += 1;
    runLength += 1;
  }
  closeRun();
  const reach = isEnvelope ? Infinity : DENSE_WIDTHS * width;
  return { path, dots, covers, lone: loneStrokes(columns, reach) };
}

/** Return the number of columns from one bin to the next, of bins wider than a column. */
function columnsOfBin({ x, binWidth }, scaleX, width) {
  if (!(binWidth < Infinity)) return 0;
  const pixels = Math.abs(scaleX.toPixel(x[0] + binWidth) - scaleX.toPixel(x[0]));
  return Math.ceil(pixels / width) + 1;
}

/**
 * Return `{area, extremes, mean, lone}` of a group: the band and the extent of the single runs as
 * closed outlines, and strokes over the extremes that stick out.
 */
export function traceBand(series, [from, to], scaleX, scaleY) {
  const mean = [];
  for (let row = from; row < to; row += 1) {
    const value = series.mid[row];
    const isGap = !Number.isFinite(value);
    mean.push(isGap ? NaN : scaleX.toPixel(series.x[row]), isGap ? NaN : scaleY.toPixel(value));
  }
  const area = outlines(series, series.low, series.high, [from, to], scaleX, scaleY);
  if (!series.hasExtremes) return { mean, dots: isolatedDots(mean), area, extremes: [], lone: [] };
  const extremes = outlines(series, series.lo, series.hi, [from, to], scaleX, scaleY);
  const lone = extremes.flatMap(({ x, top, bottom }) => loneStrokes({ x, top, bottom }, Infinity));
  return { mean, dots: isolatedDots(mean), area, extremes, lone };
}

function outlines(series, lows, highs, [from, to], scaleX, scaleY) {
  const parts = [];
  let part = null;
  for (let row = from; row < to; row += 1) {
    if (!Number.isFinite(lows[row]) || !Number.isFinite(highs[row])) {
      part = null;
      continue;
    }
    if (part === null) parts.push((part = { x: [], top: [], bottom: [] }));
    part.x.push(scaleX.toPixel(series.x[row]));
    part.top.push(scaleY.toPixel(highs[row]));
    part.bottom.push(scaleY.toPixel(lows[row]));
  }
  return parts;
}

function isolatedDots(path) {
  const dots = [];
  for (let index = 0; index < path.length; index += 2) {
    const isAlone = !(path[index - 2] - path[index - 2] === 0) && !(path[index + 2] - path[index + 2] === 0);
    if (isAlone && !Number.isNaN(path[index])) dots.push(path[index], path[index + 1]);
  }
  return dots;
}

/** Return strokes over the columns higher or lower than both neighbours by more than is usual. */
function loneStrokes({ x, top, bottom }, reach) {
  const count = x.length;
  if (count < 2) return [];
  let difference = 0;
  for (let index = 1; index < count; index += 1) {
    difference += Math.abs(top[index] - top[index - 1]) + Math.abs(bottom[index] - bottom[index - 1]);
  }
  const least = Math.max(LONE_PIXELS, (LONE_DIFFERENCES * difference) / (2 * (count - 1)));
  const strokes = [];
  for (let index = 0; index < count; index += 1) {
    const [before, after] = [Math.max(index - 1, 0), Math.min(index + 1, count - 1)];
    if (x[index] - x[before] > reach || x[after] - x[index] > reach) continue;
    const above = Math.min(index ? top[before] : Infinity, index < count - 1 ? top[after] : Infinity);
    if (above - top[index] > least) strokes.push(x[index], top[index], above);
    const below = Math.max(
      index ? bottom[before] : -Infinity, index < count - 1 ? bottom[after] : -Infinity,
    );
    if (bottom[index] - below > least) strokes.push(x[index], below, bottom[index]);
  }
  return strokes;
}

/** Return the smoothed line of a series as a path in pixels. */
export function traceSmoothed(series, [from, to], window, smoothing, scaleX, scaleY) {
  const means = smoothedMeans(series, from, to, window, smoothing);
  const path = [];
  for (const [index, value] of means.entries()) {
    const isGap = Number.isNaN(value);
    path.push(
      isGap ? NaN : scaleX.toPixel(series.x[from + index]), isGap ? NaN : scaleY.toPixel(value),
    );
  }
  return path;
}
