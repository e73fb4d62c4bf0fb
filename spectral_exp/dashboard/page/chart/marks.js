/**
 * Marks at the edges of the plot for what has no place inside it: crosses for NaN, triangles for
 * infinities and values beyond the axis, hollow triangles for values a logarithm does not know.
 */

import { specialsOf } from "./series.js";

/** Distance of neighbouring marks and the number of rows in which they are stacked, in CSS px. */
const DISTANCE = 8;
const ROWS = 4;

/** Shapes by bit; only the first stands at the upper edge. */
const SHAPES = ["up", "cross", "down", "hollow"];

/** Collects the marks of several series; those that would cover each other are stacked. */
export class MarkStack {
  constructor(plot, scaleX, scaleY, pixelRatio) {
    this.plot = plot;
    this.scaleX = scaleX;
    this.scaleY = scaleY;
    this.unit = pixelRatio;
    this.slots = Math.max(1, Math.ceil((plot.right - plot.left) / (DISTANCE * pixelRatio)));
    this.stacked = { top: new Uint8Array(this.slots), bottom: new Uint8Array(this.slots) };
  }

  /** Return the marks of a series as `{shape: [x, y, ...]}`; one stands for those it touches. */
  collect(series, [from, to], window) {
    const marks = { up: [], cross: [], down: [], hollow: [] };
    const ends = new Float64Array(SHAPES.length).fill(-Infinity);
    for (let row = from; row < to; row += 1) {
      const x = series.x[row];
      if (x < window[0] || x > window[1]) continue;
      const bits = this.bitsOf(series, row);
      if (bits === 0) continue;
      const pixel = this.scaleX.toPixel(x);
      for (const [index, shape] of SHAPES.entries()) {
        if (!(bits & (1 << index)) || pixel < ends[index]) continue;
        ends[index] = pixel + DISTANCE * this.unit;
        this.place(marks[shape], shape, pixel);
      }
    }
    return marks;
  }

  bitsOf(series, row) {
    const [lo, hi] = [series.lo[row], series.hi[row]];
    const [least, most] = this.scaleY.domain;
    const isLog = this.scaleY.kind === "log";
    let bits = 0;
    if (hi > most) bits |= 1;
    if (lo < least) bits |= isLog && lo <= 0 ? 8 : 4;
    if (series.hasSpecials) {
      const [nan, posinf, neginf] = specialsOf(series, row);
      bits |= (nan ? 2 : 0) | (posinf ? 1 : 0) | (neginf ? 4 : 0);
    }
    return bits;
  }

  slotOf(pixel) {
    const slot = Math.floor((pixel - this.plot.left) / (DISTANCE * this.unit));
    return Math.max(0, Math.min(this.slots - 1, slot));
  }

  place(list, shape, pixel) {
    const slot = this.slotOf(pixel);
    const edge = shape === "up" ? "top" : "bottom";
    const rank = this.stacked[edge][slot] % ROWS;
    this.stacked[edge][slot] += 1;
    const offset = (DISTANCE / 2 + 0.5 + rank * DISTANCE) * this.unit;
    list.push(pixel, edge === "top" ? this.plot.top + offset : this.plot.bottom - offset);
  }
}
