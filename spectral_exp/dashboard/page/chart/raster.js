/**
 * Fills the inside of a plot pixel by pixel. Hundreds of lines and areas over x cost a canvas
 * without a graphics card many times as much, and here every column of pixels that a line passes
 * through is covered by all of its values there, however short a spike is.
 */

import { channels } from "./theme.js";

/** Weights of pixels are counted in parts of this. */
const FULL = 256;

let pixels = new Uint32Array(0);
let lowest = new Float64Array(0);
let highest = new Float64Array(0);

/** One at a time: all share their memory. */
export class Raster {
  /** @param {{left, top, right, bottom}} area Whole pixels; right and bottom are outside. */
  constructor({ left, top, right, bottom }, background) {
    this.left = left;
    this.top = top;
    this.width = right - left;
    this.height = bottom - top;
    const size = this.width * this.height;
    if (pixels.length !== size) pixels = new Uint32Array(size);
    pixels.fill(packed(channels(background)));
    if (lowest.length < this.width) {
      lowest = new Float64Array(this.width);
      highest = new Float64Array(this.width);
    }
  }

  /** Write the pixels to a canvas. */
  put(context) {
    const bytes = new Uint8ClampedArray(pixels.buffer, 0, pixels.length * 4);
    context.putImageData(new ImageData(bytes, this.width, this.height), this.left, this.top);
  }

  rectangle(x, y, width, height, color) {
    const value = packed(channels(color));
    const clamp = (pixel, size) => Math.max(0, Math.min(size, Math.round(pixel)));
    const [from, to] = [clamp(x - this.left, this.width), clamp(x + width - this.left, this.width)];
    const end = clamp(y + height - this.top, this.height);
    for (let row = clamp(y - this.top, this.height); row < end; row += 1) {
      pixels.fill(value, row * this.width + from, row * this.width + to);
    }
  }

  /**
   * Draw a line through points in the order of x; NaN separates its parts.
   *
   * @param {number[]} dash Lengths of dashes and gaps, along x.
   */
  line(points, color, width, dash = []) {
    this.clearRanges();
    for (let index = 2; index < points.length; index += 2) {
      const [x, before] = [points[index], points[index - 2]];
      if (x === x && before === before) {
        this.coverSegment(before, points[index - 1], x, points[index + 1]);
      }
    }
    this.widen(width);
    const isVisible = dashPattern(dash);
    const rgb = channels(color);
    for (let column = 0; column < this.width; column += 1) {
      if (highest[column] < lowest[column] || !isVisible(column)) continue;
      this.span(column, lowest[column] - width / 2, highest[column] + width / 2, rgb, FULL);
    }
  }

  /** Fill between two edges over ascending x; everywhere at least a pixel. */
  area(x, top, bottom, color, alpha) {
    this.clearRanges();
    if (x.length === 1) {
      this.coverSegment(x[0], top[0], x[0], bottom[0]);
    }
    for (let index = 1; index < x.length; index += 1) {
      this.coverSegment(x[index - 1], top[index - 1], x[index], top[index]);
      this.coverSegment(x[index - 1], bottom[index - 1], x[index], bottom[index]);
    }
    const rgb = channels(color);
    const weight = Math.round(alpha * FULL);
    for (let column = 0; column < this.width; column += 1) {
      const [least, most] = [lowest[column], highest[column]];
      if (most < least) continue;
      const lack = Math.max(0, 1 - (most - least)) / 2;
      this.span(column, least - lack, most + lack, rgb, weight);
    }
  }

  clearRanges() {
    lowest.fill(Infinity, 0, this.width);
    highest.fill(-Infinity, 0, this.width);
  }

  /** Extend the ranges of the columns that a segment passes through. */
  coverSegment(x0, y0, x1, y1) {
    const [from, to] = [x0 - this.left, x1 - this.left];
    let column = Math.floor(from);
    const last = Math.floor(to);
    if (last < 0 || column >= this.width) return;
    if (column === last) {
      this.cover(column, y0, y1);
      return;
    }
    const slope = (y1 - y0) / (to - from);
    let y = y0;
    let next = y0 + (column + 1 - from) * slope;
    if (column < 0) {
      y = y0 - from * slope;
      next = y + slope;
      column = 0;
    }
    const end = Math.min(last, this.width);
    for (; column < end; column += 1) {
      this.cover(column, y, next);
      y = next;
      next += slope;
    }
    if (last < this.width) this.cover(last, y, y1);
  }

  cover(column, y0, y1) {
    const [least, most] = y0 < y1 ? [y0, y1] : [y1, y0];
    if (least < lowest[column]) lowest[column] = least;
    if (most > highest[column]) highest[column] = most;
  }

  /** Let every column cover also what those before it cover, within the width of a line. */
  widen(width) {
    for (let column = this.width - 1; width > 1 && column > 0; column -= 1) {
      for (let back = 1; back < width && back <= column; back += 1) {
        if (highest[column - back] < lowest[column - back]) continue;
        if (lowest[column - back] < lowest[column]) lowest[column] = lowest[column - back];
        if (highest[column - back] > highest[column]) highest[column] = highest[column - back];
      }
    }
  }

  /** Paint the pixels of a column; the first and last in proportion to their share. */
  span(column, top, bottom, rgb, weight) {
    const [from, to] = [Math.max(0, top - this.top), Math.min(this.height, bottom - this.top)];
    if (from >= to) return;
    let row = Math.floor(from);
    const last = Math.floor(to);
    if (row === last) {
      this.blend(row * this.width + column, rgb, weight * (to - from));
      return;
    }
    this.blend(row * this.width + column, rgb, weight * (row + 1 - from));
    if (last < this.height && to > last) this.blend(last * this.width + column, rgb, weight * (to - last));
    row += 1;
    let index = row * this.width + column;
    if (weight === FULL) {
      const value = packed(rgb);
      for (; row < last; row += 1, index += this.width) pixels[index] = value;
    } else {
      for (; row < last; row += 1, index += this.width) this.blend(index, rgb, weight);
    }
  }

  blend(index, [red, green, blue], weight) {
    const value = pixels[index];
    const mixed = (shift, channel) => {
      const present = (value >>> shift) & 255;
      return (present + (((channel - present) * weight) >> 8)) << shift;
    };
    pixels[index] = 0xff000000 | mixed(16, blue) | mixed(8, green) | mixed(0, red);
  }
}

/** Pixels lie in memory as red, green, blue and alpha. */
function packed([red, green, blue]) {
  return (0xff000000 | (blue << 16) | (green << 8) | red) >>> 0;
}

function dashPattern(dash) {
  const period = dash.reduce((sum, length) => sum + length, 0);
  if (period === 0) return () => true;
  return (column) => {
    let rest = column % period;
    for (const [index, length] of dash.entries()) {
      if (rest < length) return index % 2 === 0;
      rest -= length;
    }
    return false;
  };
}
