/**
 * An interactive chart of curves and bands on a canvas.
 *
 * The raw extent of the values is always visible, also under a smoothed line, and what sticks out
 * of it is at least a device pixel wide and opaque. The zoom belongs to the user: no new data
 * change it.
 */

import { lineWidth } from "./axes.js";
import { exportCsv } from "./csv.js";
import { Interaction } from "./interaction.js";
import { wholeWindow } from "./layout.js";
import { Legend } from "./legend.js";
import { drawOverlay } from "./overlay.js";
import { Readout, summaryOf } from "./readout.js";
import { buildScene } from "./scene.js";
import { extentOfX, prepareSeries } from "./series.js";
import { Surface } from "./surface.js";
import { seriesColor } from "./theme.js";

/** Milliseconds after the last wheel, pinch or pan until `onZoom` is called. */
const ZOOM_DELAY_MS = 120;

/** Milliseconds after the last change until the summary for screen readers is written. */
const SUMMARY_DELAY_MS = 400;

const DEFAULT_VIEW = {
  x: null, // zoom [lo, hi] or null
  y: null, // zoom [lo, hi] or null
  extent: null, // the whole of x if the data are those of a window
  xScale: "linear",
  yScale: "linear",
  xKind: "number",
  yKind: "number",
  xLabel: null,
  yLabel: null, // instead of those of the options
  smoothing: 0, // 0 to below 1
  clip: false, // leave outliers out of the y axis
  hidden: [], // keys
  highlight: null, // key
  cursor: null, // x
};

export class Chart extends Surface {
  /**
   * @param {HTMLElement} host Its size is that of the chart; CSS fixes it.
   * @param {object} [options] `title, xLabel, yLabel, xKind, yKind, legend, link` and the
   *   callbacks `onZoom([lo, hi] | null)`, `onHover(x | null)`, `onPick(key)`, `onHide(keys)`.
   */
  constructor(host, options = {}) {
    super(host, options);
    const { xKind = "number", yKind = "number" } = options;
    this.view = { ...DEFAULT_VIEW, xKind, yKind };
    this.list = [];
    this.isReadoutShown = false;
    this.selection = null;
    this.legend = options.legend ? new Legend(this, this.root) : null;
    this.readout = new Readout(this, this.plot);
    this.interaction = new Interaction(this, this.plot);
  }

  /** Width of the plot in columns of pixels: as many bins are worth asking for. */
  get bins() {
    const { left = 0, right = this.size.width } = this.scene?.plot ?? {};
    return Math.max(1, Math.round((right - left) / lineWidth(this.size.ratio)));
  }

  /** Titles of the axes. */
  get labels() {
    const { view, options } = this;
    return { x: view.xLabel ?? options.xLabel ?? "", y: view.yLabel ?? options.yLabel ?? "" };
  }

  /** Show other series; `view` changes what it names and keeps the rest, the zoom first of all. */
  setData(series, view = {}) {
    this.list = series.map(prepareSeries);
    this.mergeView(view);
    const extent = extentOfX(this.list);
    this.seen =
      this.view.x && this.seen && extent
        ? [Math.min(this.seen[0], extent[0]), Math.max(this.seen[1], extent[1])]
        : extent;
    this.legend?.update();
    this.summarize();
    this.invalidate();
  }

  /** Change parts of the view. */
  setView(view) {
    this.mergeView(view);
    this.legend?.update();
    this.invalidate();
  }

  mergeView(view) {
    const given = Object.entries(view).filter(([, value]) => value !== undefined);
    const { cursor, ...rest } = Object.fromEntries(given);
    Object.assign(this.view, rest);
    if (cursor !== undefined && cursor !== this.view.cursor) this.showCursor(cursor);
  }

  /** Return the window of x without zoom. */
  wholeWindow() {
    const extent = this.view.extent ?? this.seen ?? null;
    return wholeWindow({ ...this.view, extent }, this.list);
  }

  /** Zoom at the user's request; null resets x, and y with it. */
  zoom(x, y = x === null ? null : this.view.y, { isFinal = true } = {}) {
    this.view.x = x;
    this.view.y = y;
    this.options.link?.shareZoom(this, x);
    this.reportZoom(isFinal);
    this.invalidate();
  }

  /** Take over the zoom of a linked chart, which reports it for all. */
  followZoom(x) {
    this.view.x = x;
    if (x === null) this.view.y = null;
    this.invalidate();
  }

  reportZoom(isFinal) {
    clearTimeout(this.zoomTimer);
    const report = () => this.options.onZoom?.(this.view.x);
    if (isFinal) report();
    else this.zoomTimer = setTimeout(report, ZOOM_DELAY_MS);
  }

  /** Move the cursor at the user's request. */
  moveCursor(x, { isReadoutShown = x !== null, y = null, isSpoken = false } = {}) {
    this.isReadoutShown = isReadoutShown;
    this.pointerY = y;
    this.showCursor(x);
    if (isSpoken) this.readout.speak();
    this.options.link?.shareCursor(this, x);
    this.options.onHover?.(x);
  }

  /** Show the cursor somewhere without telling anyone. */
  showCursor(x) {
    this.view.cursor = x;
    if (x === null) this.isReadoutShown = false;
    this.invalidateOverlay();
  }

  /** Show the rectangle that is being selected, or none. */
  select(selection) {
    this.selection = selection;
    this.invalidateOverlay();
  }

  buildScene(size) {
    const extent = this.view.extent ?? this.seen ?? null;
    return buildScene(
      {
        list: this.list,
        view: { ...this.view, extent },
        labels: this.labels,
        theme: this.theme,
        measure: this.measureAt(size.ratio),
      },
      size,
    );
  }

  drawOverlay(context) {
    drawOverlay(context, this);
    this.readout.update();
  }

  onTheme() {
    this.legend?.update();
  }

  /** Entries of the legend of an exported chart. */
  legendEntries() {
    return this.list
      .filter(({ key }) => !this.view.hidden.includes(key))
      .map((series) => ({ label: series.label, color: seriesColor(this.theme, series) }));
  }

  /** Write the summary for screen readers when the data have come to rest. */
  summarize() {
    clearTimeout(this.summaryTimer);
    this.summaryTimer = setTimeout(() => {
      this.base.setAttribute("aria-label", summaryOf(this));
    }, SUMMARY_DELAY_MS);
  }

  /** Return the rows of the visible series as CSV. */
  toCSV() {
    return exportCsv(this);
  }

  destroy() {
    clearTimeout(this.zoomTimer);
    clearTimeout(this.summaryTimer);
    this.interaction.destroy();
    super.destroy();
  }
}
