/**
 * What a chart shows as a list of simple shapes in device pixels. The screen, PNG and SVG are
 * drawn from the same list, so that none of them shows more or less than the others.
 *
 * Items: `line` (points with NaN between parts), `strokes` (x, top, bottom, ...), `area` (x, top,
 * bottom), `marks` (shape and x, y, ...), `cell`, `rule` and `text`; `isInside` items are clipped to the plot.
 */

import { axisItems, emptyItem, gridItems, lineWidth } from "./axes.js";
import { domainOfY, layoutAxes, windowOf } from "./layout.js";
import { MarkStack } from "./marks.js";
import { rowsWithin } from "./series.js";
import { DASHES, mix, seriesColor } from "./theme.js";
import { traceBand, traceCurve, traceSmoothed } from "./trace.js";

/** Share of the background in the pale envelope under a line, and of a series put back. */
const PALE = 0.62;
const VERY_PALE = 0.8;
const FADED = 0.78;

/**
 * Return `{plot, scaleX, scaleY, window, items}`.
 *
 * @param {object} chart `{list, view, labels, theme, measure, columnWidth}`
 * @param {{width, height, ratio, offset}} size
 */
export function buildScene(chart, size) {
  const { list, view, labels, theme, measure } = chart;
  const visible = list.filter(({ key }) => !view.hidden.includes(key));
  const window = windowOf(view, visible);
  const { domain, threshold } = domainOfY(view, visible, window);
  const domains = { x: window, y: domain, threshold };
  const axes = layoutAxes(size, view, domains, labels, measure);
  const items = [...gridItems(axes, size, theme), ...seriesItems(visible, axes, window, chart, size)];
  items.push(...axisItems(axes, size, theme, labels));
  if (visible.every(({ n }) => n === 0)) {
    const text = list.length > visible.length ? "All series are hidden" : "No values";
    items.push(emptyItem(axes, size, theme, text));
  }
  return { ...axes, window, items };
}

/** Envelopes lie under bands, bands under lines, and what sticks out lies over all of them. */
function seriesItems(visible, axes, window, chart, size) {
  const layers = { envelopes: [], areas: [], lines: [], lone: [], marks: [] };
  const marks = new MarkStack(axes.plot, axes.scaleX, axes.scaleY, size.ratio);
  const { highlight } = chart.view;
  const ordered = [...visible].sort(
    (a, b) => Number(a.key === highlight) - Number(b.key === highlight),
  );
  for (const series of ordered) {
    const isFaded = highlight !== null && highlight !== series.key
      && visible.some(({ key }) => key === highlight);
    const full = seriesColor(chart.theme, series);
    const color = isFaded ? mix(full, chart.theme.background, FADED) : full;
    const rows = rowsWithin(series, window);
    const context = { series, rows, axes, window, color, chart, ratio: size.ratio };
    if (series.isBand) addBand(layers, context);
    else addCurve(layers, context);
    for (const [shape, points] of Object.entries(marks.collect(series, rows, window))) {
      if (points.length) layers.marks.push({ type: "marks", shape, points, color, size: 5 * size.ratio });
    }
  }
  const inside = [...layers.envelopes, ...layers.areas, ...layers.lines, ...layers.lone];
  return [...inside.map((item) => ({ ...item, isInside: true })), ...layers.marks];
}

function addCurve(layers, { series, rows, axes, window, color, chart, ratio }) {
  const { smoothing } = chart.view;
  const { scaleX, scaleY } = axes;
  const width = lineWidth(ratio);
  const isSmoothed = smoothing > 0;
  const traced = traceCurve(series, rows, scaleX, scaleY, width, isSmoothed);
  const { path, covers, dots, lone } = traced;
  const pale = isSmoothed ? mix(color, chart.theme.background, PALE) : color;
  if (covers.length) layers.envelopes.push({ type: "strokes", points: covers, color: pale, width });
  layers.envelopes.push({ type: "line", points: path, color: pale, width });
  if (lone.length) layers.lone.push({ type: "strokes", points: lone, color, width });
  if (dots.length) layers.lone.push({ type: "marks", shape: "dot", points: dots, color, size: 5 * ratio });
  if (!isSmoothed) return;
  const points = traceSmoothed(series, rows, window, smoothing, scaleX, scaleY);
  layers.lines.push({ type: "line", points, color, width, dash: scaledDash(series, ratio) });
}

function addBand(layers, { series, rows, axes, window, color, chart, ratio }) {
  const { scaleX, scaleY } = axes;
  const width = lineWidth(ratio);
  const { smoothing } = chart.view;
  const traced = traceBand(series, rows, scaleX, scaleY);
  const pale = mix(color, chart.theme.background, VERY_PALE);
  for (const part of traced.extremes) {
    layers.envelopes.push({ type: "area", ...part, color: pale, alpha: 1, width });
  }
  for (const part of traced.area) {
    layers.areas.push({ type: "area", ...part, color, alpha: 0.28, width: 0 });
  }
  const points = smoothing > 0
    ? traceSmoothed(series, rows, window, smoothing, scaleX, scaleY) : traced.mean;
  layers.lines.push({ type: "line", points, color, width, dash: scaledDash(series, ratio) });
  if (traced.lone.length) layers.lone.push({ type: "strokes", points: traced.lone, color, width });
  if (traced.dots.length) {
    layers.lone.push({ type: "marks", shape: "dot", points: traced.dots, color, size: 5 * ratio });
  }
}

function scaledDash(series, ratio) {
  return DASHES[series.dash % DASHES.length].map((length) => length * ratio);
}
