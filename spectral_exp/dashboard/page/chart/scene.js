/**
 * What a chart shows as a list of simple shapes in device pixels. The screen, PNG and SVG are
 * drawn from the same list, so that none of them shows more or less than the others.
 *
 * Items: `line` (points with NaN between parts), `strokes` (x, top, bottom, ...), `area` (x, top,
 * bottom), `marks` (shape and x, y, ...), `cell`, `rule` and `text`; those with `isInside` are
 * clipped to the plot.
 */

import { axisItems, emptyItem, gridItems, lineWidth } from "./axes.js";
import { domainOfY, layoutAxes, windowOf } from "./layout.js";
import { MarkStack } from "./marks.js";
import { rowsWithin, smoothedMeans } from "./series.js";
import { DASHES, mix, seriesColor } from "./theme.js";
import { traceBand, traceCurve, traceMeans } from "./trace.js";

/** Share of the background in the pale envelope under a line, and of a series put back. */
const PALE = 0.62;
const VERY_PALE = 0.8;
const FADED = 0.78;

const BAND_ALPHA = 0.28;

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
  const { domain, threshold, isEmpty } = domainOfY(view, visible, window);
  const domains = { x: window, y: domain, threshold };
  const axes = layoutAxes(size, view, domains, labels, measure);
  const items = [
    ...gridItems(axes, size, theme),
    ...seriesItems(visible, axes, window, chart, size),
  ];
  items.push(...axisItems(axes, size, theme, labels));
  if (isEmpty) items.push(emptyItem(axes, size, theme, emptyText(list, visible)));
  return { ...axes, window, items };
}

function emptyText(list, visible) {
  if (visible.some(({ n }) => n > 0)) return "No finite values in this range";
  return list.length > visible.length ? "All series are hidden" : "No values";
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
    const isFaded =
      highlight !== null &&
      highlight !== series.key &&
      visible.some(({ key }) => key === highlight);
    const full = seriesColor(chart.theme, series);
    const color = isFaded ? mix(full, chart.theme.background, FADED) : full;
    const rows = rowsWithin(series, window);
    const pixelsX = axes.scaleX.toPixels(series.x, ...rows);
    const context = { series, rows, pixelsX, axes, window, color, chart, ratio: size.ratio };
    if (series.isBand) addBand(layers, context);
    else addCurve(layers, context);
    for (const [shape, points] of Object.entries(marks.collect(series, rows, window))) {
      if (points.length)
        layers.marks.push({ type: "marks", shape, points, color, size: 5 * size.ratio });
    }
  }
  const inside = [...layers.envelopes, ...layers.areas, ...layers.lines, ...layers.lone];
  return [...inside.map((item) => ({ ...item, isInside: true })), ...layers.marks];
}

/** Add a curve: points as a line, bins or what is smoothed as an envelope under a line. */
function addCurve(layers, context) {
  const { series, rows, pixelsX, axes, color, chart, ratio } = context;
  const width = lineWidth(ratio);
  const isEnvelope = chart.view.smoothing > 0 || !series.isRaw;
  const traced = traceCurve(series, rows, pixelsX, axes, width, isEnvelope);
  const pale = isEnvelope ? mix(color, chart.theme.background, PALE) : color;
  addStrokes(layers.envelopes, traced.covers, pale, width);
  layers.envelopes.push({ type: "line", points: traced.path, color: pale, width });
  addStrokes(layers.lone, traced.lone, color, width);
  if (isEnvelope) addMeans(layers, context);
  else addDots(layers.lone, traced.dots, color, ratio);
}

function addBand(layers, context) {
  const { series, rows, pixelsX, axes, color, chart, ratio } = context;
  const width = lineWidth(ratio);
  const { area, extremes, lone } = traceBand(series, rows, pixelsX, axes.scaleY);
  const pale = mix(color, chart.theme.background, VERY_PALE);
  for (const part of extremes) {
    layers.envelopes.push({ type: "area", ...part, color: pale, alpha: 1 });
  }
  for (const part of area) {
    layers.areas.push({ type: "area", ...part, color, alpha: BAND_ALPHA });
  }
  addStrokes(layers.lone, lone, color, width);
  addMeans(layers, context);
}

/** Add the line of the means, dashed where some runs of a group have no value. */
function addMeans(layers, { series, rows, pixelsX, axes, window, color, chart, ratio }) {
  const { smoothing } = chart.view;
  const values =
    smoothing > 0
      ? smoothedMeans(series, ...rows, window, smoothing)
      : series.mid.subarray(...rows);
  const { whole, partial, dots } = traceMeans(series, values, rows, pixelsX, axes.scaleY);
  const width = lineWidth(ratio);
  const dash = scaledDash(series.dash, ratio);
  // Dashes of many lines side by side would form columns.
  const shift = layers.lines.length * 5 * ratio;
  layers.lines.push({ type: "line", points: whole, color, width, dash, shift });
  if (partial.length) {
    layers.lines.push({ type: "line", points: partial, color, width, dash: scaledDash(2, ratio) });
  }
  addDots(layers.lone, dots, color, ratio);
}

function addStrokes(layer, points, color, width) {
  if (points.length) layer.push({ type: "strokes", points, color, width });
}

function addDots(layer, points, color, ratio) {
  if (points.length) layer.push({ type: "marks", shape: "dot", points, color, size: 5 * ratio });
}

function scaledDash(index, ratio) {
  return DASHES[index % DASHES.length].map((length) => length * ratio);
}
