/** The values under the cursor, beside it and for screen readers, and a summary of the chart. */

import { rowsAtCursor } from "./overlay.js";
import { extentOfY, specialsOf } from "./series.js";
import { seriesColor } from "./theme.js";
import { formatValue } from "./ticks.js";

/** More rows than these are counted only. */
const MOST_ROWS = 12;
const MOST_SPOKEN = 6;

/** Distance from cursor and edge in CSS pixels. */
const DISTANCE = 14;
const EDGE = 4;

/** Add the box of values, and the text that screen readers speak, to a plot. */
export function addReadout(plot) {
  const box = document.createElement("div");
  box.className = "chart-readout";
  box.hidden = true;
  box.setAttribute("aria-hidden", "true");
  const live = document.createElement("div");
  live.className = "chart-live";
  live.setAttribute("aria-live", "polite");
  plot.append(box, live);
  return { box, live };
}

export class Readout {
  constructor(chart, parent) {
    this.chart = chart;
    Object.assign(this, addReadout(parent));
  }

  /** Write and place the box, or hide it. */
  update() {
    const { chart } = this;
    const isShown = chart.isReadoutShown && chart.view.cursor !== null && !chart.selection;
    const rows = isShown ? rowsAtCursor(chart) : [];
    this.box.hidden = rows.length === 0;
    if (rows.length) {
      this.write(rows);
      this.place();
    }
  }

  write(found) {
    const { chart } = this;
    const rows = nearestFirst(found, chart).slice(0, MOST_ROWS);
    rows.sort((a, b) => b.series.mid[b.row] - a.series.mid[a.row]);
    const head = element("div", "chart-readout-head", cursorText(rows, chart));
    const table = element("div", "chart-readout-rows");
    for (const { series, row } of rows) {
      const swatch = element("span", "chart-swatch");
      swatch.style.backgroundColor = seriesColor(chart.theme, series);
      const name = element("span", "chart-readout-name", series.label);
      const value = element(
        "span",
        "chart-readout-value",
        formatValue(series.mid[row], chart.view.yKind),
      );
      table.append(
        swatch,
        name,
        value,
        element("span", "chart-readout-range", rangeText(series, row, chart)),
      );
    }
    this.box.replaceChildren(head, table);
    if (found.length > rows.length) {
      this.box.append(
        element("div", "chart-readout-more", `and ${found.length - rows.length} more`),
      );
    }
  }

  /** Place the box beside the cursor, on the side with more room. */
  place() {
    const { chart, box } = this;
    const { ratio } = chart.size;
    const x = chart.scene.scaleX.toPixel(chart.view.cursor) / ratio;
    const [width, height] = [box.offsetWidth, box.offsetHeight];
    const [outerWidth, outerHeight] = [chart.size.width / ratio, chart.size.height / ratio];
    const isLeft = x > outerWidth / 2;
    const left = isLeft ? x - width - DISTANCE : x + DISTANCE;
    const y = (chart.pointerY ?? chart.scene.plot.top) / ratio - height / 2;
    const lowest = Math.max(EDGE, outerHeight - height - EDGE);
    box.style.left = `${Math.round(Math.max(EDGE, Math.min(left, outerWidth - width - EDGE)))}px`;
    box.style.top = `${Math.round(Math.max(EDGE, Math.min(y, lowest)))}px`;
  }

  /** Say the values at the cursor to screen readers. */
  speak() {
    const { chart } = this;
    const rows = rowsAtCursor(chart).slice(0, MOST_SPOKEN);
    const values = rows.map(({ series, row }) => {
      const range = rangeText(series, row, chart);
      const value = formatValue(series.mid[row], chart.view.yKind);
      return `${series.label} ${value}${range ? `, ${range}` : ""}`;
    });
    this.live.textContent = `${cursorText(rows, chart)}: ${values.join("; ") || "no values"}`;
  }
}

function element(tag, className, text = "") {
  const created = document.createElement(tag);
  created.className = className;
  created.textContent = text;
  return created;
}

/** The rows of most charts share their x, which is then more exact than the pointer. */
function cursorText(rows, { view, labels }) {
  const shared =
    rows.length && rows.every(({ series, row }) => series.x[row] === rows[0].series.x[rows[0].row]);
  const value = shared ? rows[0].series.x[rows[0].row] : view.cursor;
  const name = labels.x ? `${labels.x} ` : "";
  const isRounded = view.xKind === "count" && !shared;
  return `${name}${formatValue(isRounded ? Math.round(value) : value, view.xKind)}`;
}

/** Return the extent of a bin and the values in it that are not numbers, or "". */
function rangeText(series, row, { view }) {
  const parts = [];
  const [lo, hi] = series.isBand
    ? [series.low[row], series.high[row]]
    : [series.lo[row], series.hi[row]];
  const write = (value) => formatValue(value, view.yKind);
  if (lo < hi) parts.push(`${write(lo)} to ${write(hi)}`);
  if (series.hasExtremes && (series.lo[row] < lo || series.hi[row] > hi)) {
    parts.push(`runs ${write(series.lo[row])} to ${write(series.hi[row])}`);
  }
  if (series.isBand && series.count) parts.push(`n = ${series.count[row]}`);
  if (!series.isRaw) {
    const [nan, posinf, neginf] = specialsOf(series, row);
    if (nan) parts.push(`${nan} NaN`);
    if (posinf) parts.push(`${posinf} ∞`);
    if (neginf) parts.push(`${neginf} −∞`);
  }
  return parts.join(", ");
}

function nearestFirst(found, { pointerY, scene }) {
  if (pointerY === null || pointerY === undefined) return found;
  const distance = ({ series, row }) => {
    const y = scene.scaleY.toPixel(series.mid[row]);
    return Number.isNaN(y) ? Infinity : Math.abs(y - pointerY);
  };
  return [...found].sort((a, b) => distance(a) - distance(b));
}

/** Return the key of the visible series nearest to a position in device pixels, or null. */
export function seriesNear({ scene, view, list }, { x, y }, reach) {
  let [best, key] = [reach, null];
  const cursor = scene.scaleX.toValue(x);
  for (const { series, row } of rowsAtCursor({ scene, list, view: { ...view, cursor } })) {
    const { toPixel } = scene.scaleY;
    const [top, bottom] = [toPixel(series.hi[row]), toPixel(series.lo[row])];
    const distance = y < top ? top - y : y > bottom ? y - bottom : 0;
    const middle = Math.abs(toPixel(series.mid[row]) - y) / 1e4; // decides among overlapping bands
    if (distance + middle < best) [best, key] = [distance + middle, series.key];
  }
  return key;
}

/** Return what a chart shows in a few sentences. */
export function summaryOf({ list, view, options, labels }) {
  const title = options.title ?? (labels.y || "Chart");
  const shown = list.filter(({ key, n }) => n > 0 && !view.hidden.includes(key));
  const over = labels.x ? ` over ${labels.x}` : "";
  if (shown.length === 0) return `${title}${over}: no data.`;
  const sentences = shown.slice(0, MOST_SPOKEN).map((series) => summaryOfSeries(series, view));
  const rest = shown.length - sentences.length;
  if (rest > 0) sentences.push(`And ${rest} more.`);
  return `${title}${over}: ${shown.length} series. ${sentences.join(" ")}`;
}

function summaryOfSeries(series, { xKind, yKind }) {
  const [first, last] = [series.x[0], series.x[series.n - 1]];
  const { lo, hi } = extentOfY([series], [first, last], false);
  let end = series.n - 1;
  while (end > 0 && !Number.isFinite(series.last[end])) end -= 1;
  let missing = 0;
  if (series.hasSpecials) {
    for (let row = 0; row < series.n; row += 1) missing += specialsOf(series, row)[0];
  }
  const write = (value) => formatValue(value, yKind);
  const extent =
    lo <= hi
      ? `last ${write(series.last[end])}, between ${write(lo)} and ${write(hi)}`
      : "no finite value";
  const nan = missing ? `, ${missing} NaN` : "";
  const [from, to] = [formatValue(first, xKind), formatValue(last, xKind)];
  return `${series.label}: ${extent}${nan}, from ${from} to ${to}.`;
}
