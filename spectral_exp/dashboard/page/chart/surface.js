/**
 * What all charts have in common: two canvases of device pixels in a host, the upper one for what
 * moves with the pointer; drawing when something changed and can be seen; theme and export.
 */

import { drawScene } from "./canvas.js";
import { exportPng, exportSvg } from "./export.js";
import { schedule, unwatch, watchVisibility } from "./schedule.js";
import { measureText } from "./text.js";
import { onThemeChange, readTheme } from "./theme.js";

/** Smallest width and height of a drawing in device pixels. */
const LEAST_SIZE = 8;

/**
 * Subclasses implement `buildScene(size)`, `drawOverlay(context)` and `legendEntries()`, and
 * `showCursor(x)` and `followZoom(x)` for linked charts.
 */
export class Surface {
  constructor(host, options) {
    this.options = options;
    this.isDirty = false;
    this.isOverlayDirty = false;
    this.isVisible = false;
    this.size = { width: 0, height: 0, ratio: 1 };
    this.scene = null;
    this.createElements(host);
    this.theme = readTheme(this.plot);
    this.isThemed = this.plot.isConnected;
    this.resizes = new ResizeObserver(() => this.resize());
    this.resizes.observe(this.plot);
    this.endThemes = onThemeChange(() => this.updateTheme());
    watchVisibility(this, this.plot);
    options.link?.add(this);
  }

  createElements(host) {
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
    this.plot.setAttribute("aria-label", this.title);
    this.base = create("chart-canvas", "canvas");
    this.base.setAttribute("role", "img");
    this.base.setAttribute("aria-label", this.title);
    this.overlay = create("chart-canvas", "canvas");
    this.overlay.setAttribute("aria-hidden", "true");
    this.plot.append(this.base, this.overlay);
    this.root.append(this.plot);
    host.append(this.root);
  }

  get title() {
    return this.options.title || this.options.yLabel || "Chart";
  }

  updateTheme() {
    this.theme = readTheme(this.plot);
    this.isThemed = this.plot.isConnected;
    this.onTheme();
    this.invalidate();
  }

  /** Called after the colours have changed and before the chart is drawn with them. */
  onTheme() {}

  /** Draw all of it in the next frame. */
  invalidate() {
    this.isDirty = true;
    schedule(this);
  }

  /** Draw what moves with the pointer in the next frame. */
  invalidateOverlay() {
    this.isOverlayDirty = true;
    schedule(this);
  }

  resize() {
    const { clientWidth, clientHeight } = this.plot;
    const ratio = window.devicePixelRatio || 1;
    const size = {
      width: Math.round(clientWidth * ratio),
      height: Math.round(clientHeight * ratio),
      ratio,
    };
    if (Object.entries(size).every(([name, value]) => this.size[name] === value)) return;
    this.size = size;
    // A host outside of the document has no colours yet.
    if (!this.isThemed) this.updateTheme();
    this.invalidate();
  }

  /** Draw what changed; called in an animation frame. */
  draw() {
    if (window.devicePixelRatio !== this.size.ratio) this.resize();
    const { width, height } = this.size;
    if (width < LEAST_SIZE || height < LEAST_SIZE) return;
    if (this.isDirty) {
      this.isDirty = false;
      this.isOverlayDirty = true;
      this.scene = this.buildScene(this.size);
      drawScene(clearedContext(this.base, width, height), this.scene, this.theme);
    }
    if (this.isOverlayDirty && this.scene) {
      this.isOverlayDirty = false;
      this.drawOverlay(clearedContext(this.overlay, width, height));
    }
  }

  /** Return a function that measures texts in device pixels. */
  measureAt(ratio) {
    return (text, fontSize) => measureText(text, fontSize * ratio, this.theme.font);
  }

  /** Return the chart as an SVG document with title and legend. */
  toSVG() {
    return exportSvg(this);
  }

  /** Return a promise of the chart as a PNG of twice the resolution, a Blob. */
  toPNG() {
    return exportPng(this);
  }

  destroy() {
    this.resizes.disconnect();
    this.endThemes();
    unwatch(this, this.plot);
    this.options.link?.remove(this);
    this.root.remove();
  }
}

function clearedContext(canvas, width, height) {
  const context = canvas.getContext("2d");
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  } else context.clearRect(0, 0, width, height);
  return context;
}
