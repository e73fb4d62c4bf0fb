/**
 * What a chart shows as a list of simple shapes in device pixels. The screen, PNG and SVG are
 * drawn from the same list, so that none of them shows more or less than the others.
 *
 * Items: `line` (points with NaN between parts), `strokes` (x, top, bottom, ...), `area` (x, top,
 * bottom), `marks` (shape and x, y, ...), `rule` and `text`; `isInside` items are clipped to the plot.
 */

import { FONT_SIZE, domainOfY, layoutAxes, windowOf } from "./layout.js";
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
  if (visible.every(({ n }) => n === 0)) items.push(emptyItem(axes, size, theme, list.length > visible.length));
  return { ...axes, window, items };
}

function gridItems({ plot, scaleY, scaleX, ticksY, ticksX }, { ratio }, theme) {
  const items = [];
  const add = (x0, y0, x1, y1) => {
    items.push({ type: "rule", x0, y0, x1, y1, color: theme.grid, width: Math.max(1, Math.round(ratio)) });
  };
  for (const { value } of ticksY) {
    const y = scaleY.toPixel(value);
    if (y >= plot.top && y <= plot.bottom) add(plot.left, y, plot.right, y);
  }
  for (const { value, label } of ticksX) {
    const x = scaleX.toPixel(value);
    if (label) add(x, plot.top, x, plot.bottom);
  }
  return items;
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
  const { path, dots, lone } = traceCurve(series, rows, scaleX, scaleY, width, isSmoothed);
  const pale = isSmoothed ? mix(color, chart.theme.background, PALE) : color;
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

/** Wider lines cost several times as much where no graphics card draws them. */
export function lineWidth(ratio) {
  return Math.max(1, Math.round(ratio));
}

function scaledDash(series, ratio) {
  return DASHES[series.dash % DASHES.length].map((length) => length * ratio);
}

function axisItems({ plot, scaleX, scaleY, ticksX, ticksY }, size, theme, labels) {
  const { ratio, width, height, offset = 0 } = size;
  const text = (string, x, y, align, baseline) => ({
    type: "text", text: string, x, y, align, baseline, color: theme.text, size: FONT_SIZE * ratio,
  });
  const items = [{
    type: "rule", x0: plot.left, y0: plot.bottom, x1: plot.right, y1: plot.bottom,
    color: theme.axis, width: Math.max(1, Math.round(ratio)),
  }];
  for (const { value, label } of ticksY) {
    const y = scaleY.toPixel(value);
    if (label && y >= plot.top - 1 && y <= plot.bottom + 1) {
      items.push(text(label, plot.left - 8 * ratio, y, "right", "middle"));
    }
  }
  for (const { value, label, width: labelWidth } of ticksX) {
    const x = Math.min(scaleX.toPixel(value), width - labelWidth / 2);
    if (label) items.push(text(label, x, plot.bottom + 6 * ratio, "center", "top"));
  }
  if (labels.y) items.push(text(labels.y, 4 * ratio, offset + 3 * ratio, "left", "top"));
  if (labels.x) items.push(text(labels.x, plot.right, offset + height - 3 * ratio, "right", "bottom"));
  return items;
}

function emptyItem({ plot }, { ratio }, theme, isHidden) {
  return {
    type: "text", text: isHidden ? "All series are hidden" : "No data in this range",
    x: (plot.left + plot.right) / 2, y: (plot.top + plot.bottom) / 2,
    align: "center", baseline: "middle", color: theme.text,
    size: FONT_SIZE * ratio,
  };
}
