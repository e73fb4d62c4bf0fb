/**
 * Pointer, wheel and keyboard of a chart.
 *
 * Drag selects a range of x, with shift a box; alt or a drag on the axis pans; two fingers pinch.
 * The wheel zooms a chart that has the focus or with ctrl; otherwise the page scrolls. Arrows pan,
 * with shift they move the cursor, + and - zoom, 0, Escape and a double click reset.
 */

import { seriesNear } from "./readout.js";
import { firstRowFrom } from "./series.js";

/** CSS pixels a pointer may move during a click, and within which a click picks a curve. */
const CLICK_DISTANCE = 4;
const PICK_DISTANCE = 14;

const KEY_ZOOM = 0.7;
const KEY_PAN = 0.2;

export class Interaction {
  constructor(chart, element) {
    this.chart = chart;
    this.element = element;
    this.pointers = new Map();
    this.drag = null;
    this.abort = new AbortController();
    const { signal } = this.abort;
    const listen = (name, handler, options = {}) => {
      element.addEventListener(name, (event) => handler.call(this, event), { signal, ...options });
    };
    listen("pointerdown", this.pointerDown);
    listen("pointermove", this.pointerMove);
    listen("pointerup", this.pointerUp);
    listen("pointercancel", this.pointerCancel);
    listen("pointerleave", this.pointerLeave);
    listen("dblclick", this.reset);
    listen("wheel", this.wheel, { passive: false });
    listen("keydown", this.keyDown);
    listen("blur", () => this.chart.moveCursor(null));
  }

  destroy() {
    this.abort.abort();
  }

  /** Return the position of an event in device pixels. */
  position(event) {
    const box = this.element.getBoundingClientRect();
    const { ratio } = this.chart.size;
    return { x: (event.clientX - box.left) * ratio, y: (event.clientY - box.top) * ratio };
  }

  pointerDown(event) {
    if (!this.chart.scene || (event.button !== 0 && event.button !== 1)) return;
    const { plot, scaleX, scaleY } = this.chart.scene;
    const at = this.position(event);
    this.pointers.set(event.pointerId, at);
    this.element.setPointerCapture(event.pointerId);
    if (this.pointers.size === 2) {
      this.startPinch();
      return;
    }
    const isPan = event.altKey || event.button === 1 || at.y > plot.bottom;
    const mode = event.pointerType === "touch" && !isPan ? "cursor" : isPan ? "pan" : "select";
    this.drag = { mode, start: at, isBox: event.shiftKey, scaleX, scaleY, hasMoved: false };
  }

  startPinch() {
    const [a, b] = [...this.pointers.values()];
    const { scaleX } = this.chart.scene;
    this.chart.select(null);
    this.drag = { mode: "pinch", scaleX, from: [a.x, b.x].sort((p, q) => p - q), hasMoved: true };
  }

  pointerMove(event) {
    if (!this.chart.scene) return;
    const at = this.position(event);
    if (this.pointers.has(event.pointerId)) this.pointers.set(event.pointerId, at);
    const { drag } = this;
    if (drag?.mode === "pinch") {
      this.pinch();
      return;
    }
    if (drag) {
      const distance = Math.hypot(at.x - drag.start.x, at.y - drag.start.y);
      drag.hasMoved ||= distance > CLICK_DISTANCE * this.chart.size.ratio;
      if (drag.hasMoved) this.continueDrag(at);
    }
    this.moveCursorTo(at);
  }

  continueDrag(at) {
    const { mode, start, isBox } = this.drag;
    if (mode === "select")
      this.chart.select({ x0: start.x, y0: start.y, x1: at.x, y1: at.y, isBox });
    if (mode === "pan") this.panFrom(this.drag, at);
  }

  panFrom({ start, scaleX, scaleY }, at) {
    const [left, right] = scaleX.range;
    const moved = at.x - start.x;
    const x = this.clampPan([scaleX.toValue(left - moved), scaleX.toValue(right - moved)], scaleX);
    const { y } = this.chart.view;
    const lift = at.y - start.y;
    const newY = y && [
      scaleY.toValue(scaleY.range[0] - lift),
      scaleY.toValue(scaleY.range[1] - lift),
    ];
    this.chart.zoom(x, newY, { isFinal: false });
  }

  pinch() {
    if (this.pointers.size < 2) return;
    const [a, b] = [...this.pointers.values()].map(({ x }) => x).sort((p, q) => p - q);
    const { scaleX, from } = this.drag;
    const spread = Math.max(from[1] - from[0], 1) / Math.max(b - a, 1);
    const [left, right] = scaleX.range;
    const valueAt = (pixel) => scaleX.toValue(from[0] + (pixel - a) * spread);
    this.zoomTo([valueAt(left), valueAt(right)], { isFinal: false });
  }

  pointerUp(event) {
    const { drag } = this;
    const at = this.position(event);
    this.pointers.delete(event.pointerId);
    if (this.pointers.size > 0 || !drag) return;
    this.drag = null;
    this.chart.select(null);
    if (!drag.hasMoved) this.click(at);
    else if (drag.mode === "select") this.zoomToSelection(drag, at);
  }

  pointerCancel(event) {
    this.pointers.delete(event.pointerId);
    this.drag = null;
    this.chart.select(null);
  }

  pointerLeave() {
    if (!this.drag) this.chart.moveCursor(null);
  }

  click(at) {
    const key = seriesNear(this.chart, at, PICK_DISTANCE * this.chart.size.ratio);
    if (key !== null) this.chart.options.onPick?.(key);
  }

  zoomToSelection({ start, isBox, scaleX, scaleY }, at) {
    const { plot } = this.chart.scene;
    const clamp = (value, lo, hi) => Math.max(lo, Math.min(hi, value));
    const [x0, x1] = [start.x, at.x]
      .map((x) => clamp(x, plot.left, plot.right))
      .sort((a, b) => a - b);
    const [y0, y1] = [start.y, at.y]
      .map((y) => clamp(y, plot.top, plot.bottom))
      .sort((a, b) => b - a);
    const isWide = x1 - x0 >= CLICK_DISTANCE * this.chart.size.ratio;
    const y = isBox && y0 - y1 >= 2 ? [scaleY.toValue(y0), scaleY.toValue(y1)] : this.chart.view.y;
    if (isWide) this.zoomTo([scaleX.toValue(x0), scaleX.toValue(x1)], { y });
    else if (isBox) this.chart.zoom(this.chart.view.x, y);
  }

  /** Zoom to a window of x; one as wide as the whole is no zoom. */
  zoomTo(x, { y = this.chart.view.y, isFinal = true } = {}) {
    const whole = this.chart.wholeWindow();
    const [lo, hi] = [Math.max(x[0], whole[0]), Math.min(x[1], whole[1])];
    const least = Math.max(Math.abs(lo), Math.abs(hi)) * 1e-12;
    if (!(hi - lo > least)) return;
    const isWhole = lo <= whole[0] && hi >= whole[1];
    this.chart.zoom(isWhole ? null : [lo, hi], y, { isFinal });
  }

  clampPan([lo, hi], scale) {
    const whole = this.chart.wholeWindow();
    if (!this.chart.view.x) return null;
    // Keep the width in pixels, so that a logarithmic axis is panned as it looks.
    const width = scale.range[1] - scale.range[0];
    const [first, last] = whole.map((value) => scale.toPixel(value));
    if (lo < whole[0]) return [whole[0], scale.toValue(first + width)];
    if (hi > whole[1]) return [scale.toValue(last - width), whole[1]];
    return [lo, hi];
  }

  wheel(event) {
    if (!this.chart.scene) return;
    const isFocused = document.activeElement === this.element;
    if (!event.ctrlKey && !event.metaKey && !isFocused) return;
    event.preventDefault();
    const unit = event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 100 : 1;
    const [dx, dy] = [event.deltaX * unit, event.deltaY * unit];
    if (event.shiftKey || Math.abs(dx) > Math.abs(dy))
      this.panBy((dx || dy) / this.element.clientWidth);
    else
      this.zoomAround(this.position(event).x, Math.exp(Math.max(-0.5, Math.min(0.5, dy * 0.004))));
  }

  zoomAround(pixel, factor) {
    const { scaleX } = this.chart.scene;
    const [left, right] = scaleX.range;
    const center = Math.max(left, Math.min(right, pixel));
    const valueAt = (edge) => scaleX.toValue(center + (edge - center) * factor);
    this.zoomTo([valueAt(left), valueAt(right)], { isFinal: false });
  }

  panBy(share) {
    const { scaleX } = this.chart.scene;
    const [left, right] = scaleX.range;
    const moved = share * (right - left);
    const x = this.clampPan([scaleX.toValue(left + moved), scaleX.toValue(right + moved)], scaleX);
    if (x) this.chart.zoom(x, this.chart.view.y, { isFinal: false });
  }

  reset() {
    this.drag = null;
    this.chart.select(null);
    this.chart.zoom(null);
  }

  moveCursorTo({ x, y }) {
    const { plot, scaleX } = this.chart.scene;
    const isInside = x >= plot.left && x <= plot.right && y >= 0 && y <= plot.bottom;
    if (isInside) this.chart.moveCursor(scaleX.toValue(x), { y });
    else if (this.chart.view.cursor !== null) this.chart.moveCursor(null);
  }

  keyDown(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.chart.scene) return;
    if (!this.act(event.key, event.shiftKey)) return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** Do what a key stands for; returns whether it stands for anything. */
  act(key, isShift) {
    const { plot, scaleX } = this.chart.scene;
    const cursor = this.chart.view.cursor;
    const center = cursor === null ? (plot.left + plot.right) / 2 : scaleX.toPixel(cursor);
    if (key === "ArrowLeft" || key === "ArrowRight") {
      const direction = key === "ArrowLeft" ? -1 : 1;
      if (isShift) this.stepCursor(direction);
      else this.panBy(direction * KEY_PAN);
    } else if (key === "+" || key === "=") this.zoomAround(center, KEY_ZOOM);
    else if (key === "-" || key === "_") this.zoomAround(center, 1 / KEY_ZOOM);
    else if (key === "Escape" || key === "0") return this.leave(key);
    else return false;
    return true;
  }

  /** Reset the zoom; Escape without any is for somebody else. */
  leave(key) {
    const { view } = this.chart;
    const isIdle = !view.x && !view.y && !this.drag;
    if (key === "Escape" && isIdle) return false;
    this.reset();
    return true;
  }

  /** Move the cursor to the next row of the series with the most rows. */
  stepCursor(direction) {
    const { list, view, scene } = this.chart;
    const visible = list.filter((series) => series.n > 0 && !view.hidden.includes(series.key));
    if (visible.length === 0) return;
    const series = visible.reduce((a, b) => (b.n > a.n ? b : a));
    const [lo, hi] = scene.window;
    const current = view.cursor ?? (direction > 0 ? -Infinity : Infinity);
    let row = firstRowFrom(series, current);
    if (direction < 0) row -= 1;
    else if (series.x[row] === current) row += 1;
    const x = series.x[Math.max(0, Math.min(series.n - 1, row))];
    this.chart.moveCursor(Math.max(lo, Math.min(hi, x)), { isSpoken: true });
  }
}
