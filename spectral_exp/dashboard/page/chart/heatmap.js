/**
 * Histograms with fixed bins over the steps of a run: steps on x, bins on y, the share of the
 * values of a step as colour, on a square-root scale. Where steps lie closer than pixels, the
 * largest share is shown, so that a single step that differs stays visible.
 */

import { axisItems, emptyItem, lineWidth } from "./axes.js";
import { colorMap } from "./colormap.js";
import { HeatReadout } from "./heat_readout.js";
import { FONT_SIZE, layoutAxes } from "./layout.js";
import { Surface } from "./surface.js";
import { channels } from "./theme.js";
import { formatValue } from "./ticks.js";

/** Positive edges whose ends differ by this factor are taken for those of logarithmic bins. */
const LOG_FACTOR = 100;

/** The scale of colours reaches to this many times the share of a bin of an even histogram. */
const LEAST_PEAK = 3;

/** Size of the scale of colours in CSS pixels, and its number of colours. */
const BAR = { width: 64, height: 8, colors: 32 };

export class HeatMap extends Surface {
  /**
   * @param {HTMLElement} host Its size is that of the chart.
   * @param {object} [options] `title, xLabel, yLabel, link, onHover(x | null)`.
   */
  constructor(host, options = {}) {
    super(host, options);
    this.data = { edges: [], steps: [], counts: [], unit: "" };
    this.zoom = null;
    this.cursor = null; // {column, bin} of the histogram under the pointer
    this.readout = new HeatReadout(this, this.plot);
  }

  /**
   * @param {{edges: number[], steps: number[], counts: number[][], unit?: string,
   *   nan?: number[], is_logarithmic?: boolean}} data `counts` has a row for each step,
   *   `nan` a number.
   */
  setData(data) {
    const { edges = [], steps = [], counts = [] } = data;
    this.data = { unit: "", nan: [], ...data, edges, steps, counts };
    this.totals = counts.map((row) => row.reduce((sum, count) => sum + count, 0));
    this.largest = counts.reduce(
      (most, row, index) =>
        Math.max(most, ...row.map((count) => shareOf(count, this.totals[index]))),
      LEAST_PEAK / Math.max(edges.length - 1, LEAST_PEAK),
    );
    this.base.setAttribute("aria-label", this.summary());
    this.invalidate();
  }

  showCursor(x) {
    const column = x === null ? -1 : this.nearestColumn(x);
    this.cursor = column < 0 ? null : { column, bin: null };
    this.invalidateOverlay();
  }

  /** Return the index of the step nearest to `x`. */
  nearestColumn(x) {
    return nearestIndex(this.data.steps, x);
  }

  followZoom(x) {
    this.zoom = x;
    this.invalidate();
  }

  buildScene(size) {
    const { edges, steps, unit } = this.data;
    const isEmpty = steps.length === 0 || edges.length < 2;
    const isWide = edges[0] > 0 && edges.at(-1) / edges[0] >= LOG_FACTOR;
    const isLog = !isEmpty && (this.data.is_logarithmic ?? isWide);
    const view = {
      xScale: "linear",
      yScale: isLog ? "log" : "linear",
      xKind: "count",
      yKind: "number",
    };
    const domains = {
      x: this.zoom ?? (isEmpty ? [0, 1] : outerBounds(steps)),
      y: isEmpty ? [0, 1] : [edges[0], edges.at(-1)],
    };
    const labels = { x: this.options.xLabel ?? "Step", y: this.options.yLabel || unit || " " };
    const axes = layoutAxes(size, view, domains, labels, this.measureAt(size.ratio));
    const items = isEmpty ? [] : this.cells(axes, lineWidth(size.ratio));
    items.push(...axisItems(axes, size, this.theme, labels));
    if (isEmpty) items.push(emptyItem(axes, size, this.theme, "No histograms"));
    else items.push(...this.nanMarks(axes, size), ...this.scaleItems(axes, size));
    return { ...axes, items };
  }

  /** Return rectangles of equal colour, those of a step in one stack. */
  cells({ scaleX, scaleY, plot }, width) {
    const color = colorMap(isDark(this.theme));
    const rows = this.data.edges.map((edge) => Math.round(scaleY.toPixel(edge)));
    const items = [];
    for (const { left, right, shares } of this.columns(scaleX, plot, width)) {
      for (const [bin, share] of shares.entries()) {
        const fill = color(Math.sqrt(share / this.largest));
        if (fill === null) continue;
        const [y, bottom] = [rows[bin + 1], rows[bin]];
        items.push({
          type: "cell",
          x: left,
          y,
          width: right - left,
          height: bottom - y,
          color: fill,
          isInside: true,
        });
      }
    }
    return items;
  }

  /** Return the steps as columns of at least a line's width, with the largest share of each bin. */
  columns(scaleX, plot, width) {
    const { steps, counts } = this.data;
    const bounds = boundsOf(steps);
    const columns = [];
    for (const [index, row] of counts.entries()) {
      const left = Math.round(scaleX.toPixel(bounds[index]));
      const right = Math.max(Math.round(scaleX.toPixel(bounds[index + 1])), left + width);
      if (right < plot.left || left > plot.right) continue;
      const shares = row.map((count) => shareOf(count, this.totals[index]));
      const before = columns.at(-1);
      if (before && left < before.right) {
        before.right = Math.max(before.right, right);
        before.shares = before.shares.map((share, bin) => Math.max(share, shares[bin]));
      } else columns.push({ left, right, shares });
    }
    return columns;
  }

  nanMarks({ scaleX, plot }, { ratio }) {
    const points = [];
    for (const [index, step] of this.data.steps.entries()) {
      if (this.data.nan[index] > 0) points.push(scaleX.toPixel(step), plot.bottom - 5 * ratio);
    }
    if (points.length === 0) return [];
    return [{ type: "marks", shape: "cross", points, color: this.theme.text, size: 5 * ratio }];
  }

  /** Return the scale of colours in the upper right corner. */
  scaleItems({ plot }, { ratio, offset = 0 }) {
    const color = colorMap(isDark(this.theme));
    const [width, height, y] = [BAR.width * ratio, BAR.height * ratio, offset + 5 * ratio];
    const text = (string, x, align) => ({
      type: "text",
      text: string,
      x,
      y: y + height / 2,
      align,
      baseline: "middle",
      color: this.theme.text,
      size: FONT_SIZE * ratio,
    });
    const most = `${formatValue(this.largest, "percent", 3)} of a step`;
    const right = plot.right - this.measureAt(ratio)(most, FONT_SIZE) - 6 * ratio;
    const items = [text("0", right - width - 6 * ratio, "right"), text(most, plot.right, "right")];
    for (let index = 0; index < BAR.colors; index += 1) {
      const x = Math.round(right - width + (index * width) / BAR.colors);
      const end = Math.round(right - width + ((index + 1) * width) / BAR.colors);
      const fill = color(Math.sqrt((index + 0.5) / BAR.colors));
      items.push({ type: "cell", x, y, width: end - x, height, color: fill });
    }
    return items;
  }

  drawOverlay(context) {
    this.readout.draw(context);
  }

  legendEntries() {
    return [];
  }

  summary() {
    const { steps, edges, unit } = this.data;
    if (steps.length === 0 || edges.length < 2) return `${this.title}: no data.`;
    const range = `${formatValue(edges[0])} to ${formatValue(edges.at(-1))} ${unit}`.trim();
    return (
      `${this.title}: histograms of ${edges.length - 1} bins` +
      ` from ${range} at ${steps.length} steps` +
      ` from ${formatValue(steps[0], "count")} to ${formatValue(steps.at(-1), "count")}.`
    );
  }

  destroy() {
    this.readout.destroy();
    super.destroy();
  }
}

function shareOf(count, total) {
  return total > 0 ? count / total : 0;
}

/** Return where the histograms of ascending steps meet: halfway, and at the first and last step. */
function boundsOf(steps) {
  if (steps.length === 1) return [steps[0] - 0.5, steps[0] + 0.5];
  const middles = steps.slice(1).map((step, index) => (step + steps[index]) / 2);
  return [steps[0], ...middles, steps.at(-1)];
}

function outerBounds(steps) {
  const bounds = boundsOf(steps);
  return [bounds[0], bounds.at(-1)];
}

/** Return the index of the value nearest to `x` in ascending values, or -1 if there is none. */
function nearestIndex(values, x) {
  let best = values.length ? 0 : -1;
  for (const [index, value] of values.entries()) {
    if (Math.abs(value - x) < Math.abs(values[best] - x)) best = index;
  }
  return best;
}

function isDark({ background }) {
  const [red, green, blue] = channels(background);
  return 0.3 * red + 0.59 * green + 0.11 * blue < 128;
}
