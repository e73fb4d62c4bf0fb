/**
 * Fills the inside of a plot pixel by pixel. Hundreds of lines and areas over x cost a canvas
 * without a graphics card many times as much, and here every column of pixels that a line passes
 * through is covered by all of its values there, however short a spike is.
 */

import { channels } from "./theme.js";

/** Weights of pixels are counted in parts of this. */
const FULL = 256;

/** Least height in pixels that a line has beyond the values of a column, above and below. */
const LEAST_MARGIN = 0.15;

/** More pixels than this are filled by a call. */
const LONG = 48;

/** Side of the squares in which rows and columns are exchanged. */
const BLOCK = 32;

// Shared by all: only one raster is in use at a time.
let image = new ImageData(1, 1);
let pixels = new Uint32Array(1);
let lowest = new Float64Array(0);
let highest = new Float64Array(0);

export class Raster {
  /** @param {{left, top, right, bottom}} area Whole pixels; right and bottom are outside. */
  constructor({ left, top, right, bottom }, background) {
    this.left = left;
    this.top = top;
    this.width = right - left;
    this.height = bottom - top;
    if (image.width !== this.width || image.height !== this.height) {
      image = new ImageData(this.width, this.height);
      pixels = new Uint32Array(this.width * this.height);
      lowest = new Float64Array(this.width);
      highest = new Float64Array(this.width);
    }
    // The pixels of a column lie side by side, since columns are what is painted.
    pixels.fill(packed(channels(background)));
  }

  /** Write the pixels to a canvas. */
  put(context) {
    const { width, height } = this;
    const rows = new Uint32Array(image.data.buffer);
    for (let left = 0; left < width; left += BLOCK) {
      const right = Math.min(left + BLOCK, width);
      for (let row = 0; row < height; row += 1) {
        const start = row * width;
        for (let column = left; column < right; column += 1) {
          rows[start + column] = pixels[column * height + row];
        }
      }
    }
    context.putImageData(image, this.left, this.top);
  }

  rectangle(x, y, width, height, color) {
    const value = packed(channels(color));
    const from = clamp(Math.round(y - this.top), this.height);
    const to = clamp(Math.round(y + height - this.top), this.height);
    const end = clamp(Math.round(x + width - this.left), this.width);
    for (let column = clamp(Math.round(x - this.left), this.width); column < end; column += 1) {
      pixels.fill(value, column * this.height + from, column * this.height + to);
    }
  }

  /** Fill `[x, top, bottom, ...]` on whole pixels: opaque, however narrow they are. */
  strokes(points, color, width) {
    for (let index = 0; index < points.length; index += 3) {
      const top = Math.floor(points[index + 1]);
      const height = Math.max(Math.ceil(points[index + 2]) - top, width);
      this.rectangle(Math.floor(points[index] / width) * width, top, width, height, color);
    }
  }

  /**
   * Draw a line through points in the order of x; NaN separates its parts.
   *
   * @param {{dash: number[], shift: number}} style Lengths of dashes and gaps along x.
   */
  line(points, color, width, { dash = [], shift = 0 } = {}) {
    this.clearRanges();
    for (let index = 2; index < points.length; index += 2) {
      if (points[index - 2] <= points[index]) {
        this.cover(points[index - 2], points[index - 1], points[index], points[index + 1]);
      }
    }
    this.widen(width);
    const isVisible = dashPattern(dash, shift);
    const paint = makePaint(color, FULL);
    for (let column = 0; column < this.width; column += 1) {
      if (lowest[column] > highest[column] || !isVisible(column)) continue;
      // Where a line is steep, its ends add little to the pixels that it passes through.
      const rise = highest[column] - lowest[column];
      const margin = Math.max(LEAST_MARGIN, (width - rise / 2) / 2);
      this.span(column, lowest[column] - margin, highest[column] + margin, paint);
    }
  }

  /** Fill between two edges over ascending x; everywhere at least a pixel. */
  area(x, top, bottom, color, alpha) {
    this.clearRanges();
    if (x.length === 1) this.cover(x[0], top[0], x[0], bottom[0]);
    for (let index = 1; index < x.length; index += 1) this.coverBetween(x, top, bottom, index);
    const paint = makePaint(color, Math.round(alpha * FULL));
    for (let column = 0; column < this.width; column += 1) {
      const thickness = highest[column] - lowest[column];
      if (!(thickness >= 0)) continue;
      const lack = thickness < 1 ? (1 - thickness) / 2 : 0;
      this.span(column, lowest[column] - lack, highest[column] + lack, paint);
    }
  }

  clearRanges() {
    lowest.fill(Infinity);
    highest.fill(-Infinity);
  }

  /** Extend the ranges of the columns that a line from (x0, y0) to (x1, y1) passes through. */
  cover(x0, y0, x1, y1) {
    const from = x0 - this.left;
    const to = x1 - this.left;
    const first = Math.max(0, Math.floor(from));
    const last = Math.min(this.width - 1, Math.floor(to));
    const slope = to > from ? (y1 - y0) / (to - from) : 0;
    for (let column = first; column <= last; column += 1) {
      const enter = column > from ? y0 + (column - from) * slope : y0;
      const leave = column + 1 < to ? y0 + (column + 1 - from) * slope : y1;
      if (enter < lowest[column]) lowest[column] = enter;
      if (enter > highest[column]) highest[column] = enter;
      if (leave < lowest[column]) lowest[column] = leave;
      if (leave > highest[column]) highest[column] = leave;
    }
  }

  /** Extend the ranges of the columns between two edges from a point to the one before. */
  coverBetween(x, top, bottom, index) {
    const from = x[index - 1] - this.left;
    const to = x[index] - this.left;
    const first = Math.max(0, Math.floor(from));
    const last = Math.min(this.width - 1, Math.floor(to));
    const share = to > from ? 1 / (to - from) : 0;
    const top0 = top[index - 1];
    const top1 = top[index];
    const bottom0 = bottom[index - 1];
    const bottom1 = bottom[index];
    const rise = (top1 - top0) * share;
    const fall = (bottom1 - bottom0) * share;
    for (let column = first; column <= last; column += 1) {
      const start = column > from ? column - from : 0;
      const isInside = column + 1 < to;
      const enter = top0 + start * rise;
      const leave = isInside ? top0 + (column + 1 - from) * rise : top1;
      if (enter < lowest[column]) lowest[column] = enter;
      if (leave < lowest[column]) lowest[column] = leave;
      const enterBelow = bottom0 + start * fall;
      const leaveBelow = isInside ? bottom0 + (column + 1 - from) * fall : bottom1;
      if (enterBelow > highest[column]) highest[column] = enterBelow;
      if (leaveBelow > highest[column]) highest[column] = leaveBelow;
    }
  }

  /** Let every column cover also what its neighbours cover, within the width of a line. */
  widen(width) {
    const end = this.width - 1;
    for (let pass = 1; pass < width; pass += 1) {
      if (pass % 2 === 1) for (let column = 0; column < end; column += 1) merge(column, column + 1);
      else for (let column = end; column > 0; column -= 1) merge(column, column - 1);
    }
  }

  /** Paint the pixels of a column; the first and last in proportion to their share. */
  span(column, top, bottom, paint) {
    const from = Math.max(0, top - this.top);
    const to = Math.min(this.height, bottom - this.top);
    if (!(from < to)) return;
    const start = column * this.height;
    const first = Math.floor(from);
    const last = Math.floor(to);
    if (first === last) {
      blend(start + first, paint, paint.weight * (to - from));
      return;
    }
    blend(start + first, paint, paint.weight * (first + 1 - from));
    const end = start + last;
    if (paint.weight === FULL) fillRange(start + first + 1, end, paint.value);
    else blendRange(start + first + 1, end, paint);
    if (to > last) blend(end, paint, paint.weight * (to - last));
  }
}

/** Let a column cover what another one covers. */
function merge(column, other) {
  if (lowest[other] < lowest[column]) lowest[column] = lowest[other];
  if (highest[other] > highest[column]) highest[column] = highest[other];
}

// Red and blue of a pixel are mixed in one number: each product stays within 16 bits.
const RED_AND_BLUE = 0xff00ff;

/** Mix a colour into a pixel. */
function blend(index, { value, redBlue, green }, weight) {
  if (weight === FULL) pixels[index] = value;
  else pixels[index] = mixed(pixels[index], Math.imul(redBlue, weight), green * weight, FULL - weight);
}

/** Set the pixels `[from, to)`: of few, a loop is faster than a call. */
function fillRange(from, to, value) {
  if (to - from > LONG) pixels.fill(value, from, to);
  else for (let index = from; index < to; index += 1) pixels[index] = value;
}

/** Mix a colour with its weight into the pixels `[from, to)`. */
function blendRange(from, to, { redBlue, green, weight }) {
  const [addedRedBlue, addedGreen, rest] = [Math.imul(redBlue, weight), green * weight, FULL - weight];
  for (let index = from; index < to; index += 1) {
    pixels[index] = mixed(pixels[index], addedRedBlue, addedGreen, rest);
  }
}

function mixed(value, addedRedBlue, addedGreen, rest) {
  const redBlue = (Math.imul(value & RED_AND_BLUE, rest) + addedRedBlue) >>> 8;
  const green = (Math.imul((value >>> 8) & 255, rest) + addedGreen) & 0xff00;
  return 0xff000000 | (redBlue & RED_AND_BLUE) | green;
}

/** Return a colour with its weight of 0 to `FULL`. */
function makePaint(color, weight) {
  const value = packed(channels(color));
  return { value, redBlue: value & RED_AND_BLUE, green: (value >>> 8) & 255, weight };
}

function clamp(value, size) {
  return Math.max(0, Math.min(size, value));
}

/** Pixels lie in memory as red, green, blue and alpha. */
function packed([red, green, blue]) {
  return (0xff000000 | (blue << 16) | (green << 8) | red) >>> 0;
}

function dashPattern(dash, shift) {
  const period = dash.reduce((sum, length) => sum + length, 0);
  if (period === 0) return () => true;
  return (column) => {
    let rest = (column + shift) % period;
    for (let index = 0; index < dash.length; index += 1) {
      if (rest < dash[index]) return index % 2 === 0;
      rest -= dash[index];
    }
    return false;
  };
}
