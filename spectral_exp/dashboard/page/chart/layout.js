/** Axes: domains, margins, scales and ticks of a chart of a given size. */

import { extentOfX, extentOfY } from "./series.js";
import { makeScale, paddedDomain, symlogThreshold } from "./scales.js";
import { formatValue, makeTicks } from "./ticks.js";

/** Sizes in CSS pixels. */
export const FONT_SIZE = 11;
const LEAST_LEFT = 40;
const LABEL_GAP = 14;
const LINE = 15;

/**
 * Return the window of x that a view shows of some series.
 *
 * @param {{x, extent}} view `x` is the zoom or null, `extent` the whole or null.
 */
export function windowOf(view, list) {
  if (view.x) return view.x;
  return wholeWindow(view, list);
}

/** Return the window of x without any zoom. */
export function wholeWindow(view, list) {
  const found = view.extent ?? extentOfX(list);
  if (!found) return view.xScale === "log" ? [1, 10] : [0, 1];
  const [lo, hi] = found;
  if (view.xScale === "log")
    return paddedDomain(positiveStart(lo, hi, list), hi > 0 ? hi : 1, "log", 0);
  return lo < hi ? [lo, hi] : paddedDomain(lo, hi, "linear");
}

function positiveStart(lo, hi, list) {
  if (lo > 0) return lo;
  let start = hi > 0 ? hi : 1;
  for (const { x } of list) {
    const first = x.find((value) => value > 0);
    if (first < start) start = first;
  }
  return start;
}

/** Return `{domain, threshold, isEmpty}` of the y axis for the finite values in a window of x. */
export function domainOfY(view, list, window) {
  const extent = extentOfY(list, window, view.clip);
  const kind = view.yScale;
  const largest = Math.max(Math.abs(extent.lo), Math.abs(extent.hi));
  const threshold = extent.lo <= extent.hi ? symlogThreshold(extent.smallest, largest) : 1;
  return {
    domain: view.y ?? domainOf(kind, extent, threshold),
    threshold,
    isEmpty: !(extent.lo <= extent.hi),
  };
}

function domainOf(kind, extent, threshold) {
  if (kind === "log") return paddedDomain(extent.positive, extent.hi, kind);
  if (kind === "symlog") return paddedSymlog(extent, threshold);
  return paddedDomain(extent.lo, extent.hi, kind);
}

function paddedSymlog({ lo, hi }, threshold) {
  const size = Math.max(Math.abs(lo), Math.abs(hi));
  if (!(hi / 2 - lo / 2 > size * 1e-9)) return paddedDomain(lo, hi, "symlog");
  const scale = makeScale("symlog", [lo, hi], [0, 1], threshold);
  return [
    Math.max(scale.toValue(-0.05), -Number.MAX_VALUE),
    Math.min(scale.toValue(1.05), Number.MAX_VALUE),
  ];
}

/**
 * Return `{plot, scaleX, scaleY, ticksX, ticksY, xTitleY}` in device pixels.
 *
 * @param {{width, height, ratio, offset}} size `ratio` is the number of device pixels in a CSS
 *   pixel, `offset` the height left free above.
 * @param {(text: string, size: number) => number} measure Width of a text in device pixels.
 */
export function layoutAxes(size, view, domains, labels, measure) {
  const { width, height, ratio, offset = 0 } = size;
  const top = offset + (labels.y ? LINE + 4 : 8) * ratio;
  const bottom = Math.max(offset + height - (labels.x ? 2 * LINE + 4 : LINE + 6) * ratio, top + 1);
  const rough = makeScale(view.yScale, domains.y, [bottom, top], domains.threshold);
  const ticksY = makeTicks(rough, Math.max(2, (bottom - top) / (36 * ratio)), view.yKind);
  const widest = Math.max(0, ...ticksY.map(({ label }) => measure(label, FONT_SIZE)));
  const needed = Math.max(LEAST_LEFT, Math.ceil((widest / ratio + 12) / 8) * 8) * ratio;
  const plot = {
    left: Math.round(Math.min(needed, width / 2)),
    right: Math.round(Math.max(width - 12 * ratio, width / 2 + 1)),
    top: Math.round(top),
    bottom: Math.round(bottom),
  };
  const scaleX = makeScale(view.xScale, domains.x, [plot.left, plot.right]);
  return {
    plot,
    scaleX,
    scaleY: makeScale(view.yScale, domains.y, [plot.bottom, plot.top], domains.threshold),
    ticksX: spacedTicks(scaleX, view.xKind, (text) => measure(text, FONT_SIZE), LABEL_GAP * ratio),
    ticksY,
  };
}

/** Return the most ticks whose labels do not come closer than `gap`. */
function spacedTicks(scale, kind, measure, gap) {
  const width = scale.range[1] - scale.range[0];
  for (let count = Math.max(2, Math.floor(width / (gap * 4))); count >= 1; count -= 1) {
    const ticks = makeTicks(scale, count, kind);
    for (const tick of ticks) tick.width = measure(tick.label);
    if (areApart(ticks, scale, gap)) return ticks;
  }
  const middle = scale.toValue((scale.range[0] + scale.range[1]) / 2);
  const label = formatValue(middle, kind, 6);
  return [{ value: middle, label, width: measure(label) }];
}

function areApart(ticks, scale, gap) {
  let end = -Infinity;
  const labelled = ticks.filter(({ label }) => label).sort((a, b) => a.value - b.value);
  for (const { value, width } of labelled) {
    const half = width / 2;
    const pixel = scale.toPixel(value);
    if (pixel - half < end + gap) return false;
    end = pixel + half;
  }
  return labelled.length > 0;
}
