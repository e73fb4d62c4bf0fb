/**
 * An interactive chart of curves and bands on a canvas.
 *
 * The raw extent of the values is always visible, also under a smoothed line, and what sticks out
 * of it is at least a device pixel wide and opaque. The zoom belongs to the user: no new data
 * change it.
 */

import { drawScene } from "./canvas.js";
import { exportCsv, exportPng, exportSvg } from "./export.js";
import { Interaction } from "./interaction.js";
import { wholeWindow } from "./layout.js";
import { Legend } from "./legend.js";
import { drawOverlay } from "./overlay.js";
import { Readout, summaryOf } from "./readout.js";
import { buildScene, lineWidth } from "./scene.js";
import { schedule, unwatch, watchVisibility } from "./schedule.js";
import { extentOfX, prepareSeries } from "./series.js";
import { measureText } from "./text.js";
import { onThemeChange, readTheme } from "./theme.js";

/** Milliseconds after the last wheel, pinch or pan until `onZoom` is called. */
const ZOOM_DELAY_MS = 120;

/** Milliseconds after the last change until the summary for screen readers is written. */
const SUMMARY_DELAY_MS = 400;

const DEFAULT_VIEW = {
  x: null, // zoom [lo, hi] or null
  y: null, // zoom [lo, hi] or null
  extent: null, // the whole of x if the data are those of a window
  xScale: "linear", yScale: "linear",
  xKind: "number", yKind: "number",
  smoothing: 0, // 0 to below 1
  clip: false, // leave outliers out of the y axis
  hidden: [], // keys
  highlight: null, // key
  cursor: null, // x
};

export class Chart {
  /**
   * @param {HTMLElement} host Its size is that of the chart; CSS fixes it.
   * @param {object} [options] `title, xLabel, yLabel, xKind, yKind, legend, link` and the
   *   callbacks `onZoom([lo, hi] | null)`, `onHover(x | null)`, `onPick(key)`, `onHide(keys)`.
   */
  constructor(host, options = {}) {
    this.host = host;
    this.options = options;
    this.view = { ...DEFAULT_VIEW, xKind: options.xKind ?? "number", yKind: options.yKind ?? "number" };
    this.list = [];
    this.isDirty = false;
    this.isVisible = false;
    this.isReadoutShown = false;
    this.size = { width: 0, height: 0, ratio: 1 };
    this.scene = null;
    this.selection = null;
    this.createElements();
    this.theme = readTheme(this.plot);
    this.legend = options.legend ? new Legend(this, this.root) : null;
    this.readout = new Readout(this, this.plot);
    this.interaction = new Interaction(this, this.plot);
    this.resizes = new ResizeObserver(() => this.resize());
    this.resizes.observe(this.plot);
    this.endThemes = onThemeChange(() => {
      this.theme = readTheme(this.plot);
      this.legend?.update();
      this.invalidate();
    });
    watchVisibility(this, this.plot);
    options.link?.add(this);
  }

  createElements() {
    const create = (name, tag = "div") => {
      const element = document.createElement(tag);
      element.className = name;
      return element;
    };
    this.root = create("chart");
    this.plot = create("chart-plot");
    this.plot.tabIndex = 0;
    this.plot.setAttribute("role", "group");
    this.plot.setAttribute("aria-roledescription", "interactive chart");
    this.plot.setAttribute("aria-label", this.options.title ?? this.options.yLabel ?? "Chart");
    this.base = create("chart-canvas", "canvas");
    this.base.setAttribute("role", "img");
    this.overlay = create("chart-canvas", "canvas");
    this.overlay.setAttribute("aria-hidden", "true");
    this.plot.append(this.base, this.overlay);
    this.root.append(this.plot);
    this.host.append(this.root);
  }

  /** Width of the plot in columns of pixels: as many bins are worth asking for. */
  get bins() {
    const { left = 0, right = this.size.width } = this.scene?.plot ?? {};
    return Math.max(1, Math.round((right - left) / lineWidth(this.size.ratio)));
  }

  /** Show other series; `view` changes what it names and keeps the rest, the zoom first of all. */
  setData(series, view = {}) {
    this.list = series.map(prepareSeries);
    this.mergeView(view);
    const extent = extentOfX(this.list);
    this.seen = this.view.x && this.seen && extent
      ? [Math.min(this.seen[0], extent[0]), Math.max(this.seen[1], extent[1])] : extent;
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

  /** Take over the zoom of a linked chart. */
  followZoom(x) {
    this.view.x = x;
    this.reportZoom(false);
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
    this.isOverlayDirty = true;
    schedule(this);
  }

  /** Show the rectangle that is being selected, or none. */
  select(selection) {
    this.selection = selection;
    this.isOverlayDirty = true;
    schedule(this);
  }

  invalidate() {
    this.isDirty = true;
    schedule(this);
  }

  resize() {
    const { clientWidth, clientHeight } = this.plot;
    const ratio = window.devicePixelRatio || 1;
    const size = {
      width: Math.round(clientWidth * ratio), height: Math.round(clientHeight * ratio), ratio,
    };
    if (Object.entries(size).every(([name, value]) => this.size[name] === value)) return;
    this.size = size;
    this.invalidate();
  }

  /** Draw what changed; called in an animation frame. */
  draw() {
    if (window.devicePixelRatio !== this.size.ratio) this.resize();
    const { width, height } = this.size;
    if (width < 8 || height < 8) return;
    if (this.isDirty) {
      this.isDirty = false;
      this.isOverlayDirty = true;
      const context = prepareCanvas(this.base, width, height);
      this.scene = this.buildScene(this.size);
      drawScene(context, this.scene, this.theme.font);
    }
    if (this.isOverlayDirty && this.scene) {
      this.isOverlayDirty = false;
      drawOverlay(prepareCanvas(this.overlay, width, height), this);
      this.readout.update();
    }
  }

  buildScene(size) {
    const extent = this.view.extent ?? this.seen ?? null;
    return buildScene({
      list: this.list,
      view: { ...this.view, extent },
      labels: { x: this.options.xLabel, y: this.options.yLabel },
      theme: this.theme,
      measure: (text, fontSize) => measureText(text, fontSize * size.ratio, this.theme.font),
    }, size);
  }

  /** Write the summary for screen readers when the data have come to rest. */
  summarize() {
    clearTimeout(this.summaryTimer);
    this.summaryTimer = setTimeout(() => {
      this.base.setAttribute("aria-label", summaryOf(this));
    }, SUMMARY_DELAY_MS);
  }

  /** Return the chart as an SVG document with title and legend. */
  toSVG() {
    return exportSvg(this);
  }

  /** Return the rows of the visible series as CSV. */
  toCSV() {
    return exportCsv(this);
  }

  /** Return a promise of the chart as a PNG of twice the resolution, a Blob. */
  toPNG() {
    return exportPng(this);
  }

  destroy() {
    clearTimeout(this.zoomTimer);
    clearTimeout(this.summaryTimer);
    this.interaction.destroy();
    this.resizes.disconnect();
    this.endThemes();
    unwatch(this, this.plot);
    this.options.link?.remove(this);
    this.root.remove();
  }
}

/** Return the cleared context of a canvas of this size. */
function prepareCanvas(canvas, width, height) {
  const context = canvas.getContext("2d");
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  } else context.clearRect(0, 0, width, height);
  return context;
}
