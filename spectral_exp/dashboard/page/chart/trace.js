/** From rows of a series to lines, areas and strokes in pixels. */

/** A column sticks out if it does so by this many pixels and this many usual differences. */
const LONE_PIXELS = 4;
const LONE_DIFFERENCES = 4;

/** Points nearer to each other than this many line widths are told apart by a stroke only. */
const DENSE_WIDTHS = 4;

/** The first and the last column stick out only of a neighbour within this many pixels. */
const END_REACH = 8;

/** Columns that a line passes straight through need no stroke of their own. */
const FLAT_PIXELS = 0.25;

/** Collects the numbers of a path. */
class Path {
  /** @param {number} expected How many numbers it will usually hold. */
  constructor(expected) {
    this.numbers = new Float64Array(expected);
    this.length = 0;
  }

  add(x, y) {
    if (this.length + 2 > this.numbers.length) {
      const larger = new Float64Array(2 * this.numbers.length + 2);
      larger.set(this.numbers);
      this.numbers = larger;
    }
    this.numbers[this.length] = x;
    this.numbers[this.length + 1] = y;
    this.length += 2;
  }

  get points() {
    return this.numbers.subarray(0, this.length);
  }
}

/** One column of pixels after the other, as rows fall into them. */
class Columns {
  constructor(most, width) {
    this.width = width;
    this.path = new Path(10 * most + 2); // four points of a column, and a gap
    this.dots = [];
    this.x = new Float64Array(most);
    this.top = new Float64Array(most);
    this.bottom = new Float64Array(most);
    this.count = 0;
    this.start();
  }

  /** Begin a part of the line without connection to the one before. */
  start() {
    this.column = NaN;
    this.rows = 0;
    this.rowsOfPart = 0;
  }

  add(pixel, top, bottom, first, last) {
    const column = Math.floor(pixel / this.width);
    if (column !== this.column) {
      this.close();
      this.column = column;
      this.pixel = pixel;
      this.first = first;
      this.least = top;
      this.most = bottom;
    } else {
      if (top < this.least) this.least = top;
      if (bottom > this.most) this.most = bottom;
    }
    this.last = last;
    this.rows += 1;
    this.rowsOfPart += 1;
  }

  close() {
    if (this.rows === 0) return;
    this.rows = 0;
    const { path, least, most, first, last } = this;
    const isFlat = most - least < FLAT_PIXELS;
    const x = isFlat ? this.pixel : (this.column + 0.5) * this.width;
    if (isFlat) path.add(x, last);
    else {
      path.add(x, first);
      path.add(x, first >= last ? most : least);
      path.add(x, first >= last ? least : most);
      path.add(x, last);
    }
    this.x[this.count] = x;
    this.top[this.count] = least;
    this.bottom[this.count] = most;
    this.count += 1;
  }

  /** End a part of the line; a point by itself becomes a dot. */
  end() {
    this.close();
    if (this.rowsOfPart === 1) this.dots.push(this.x[this.count - 1], this.last);
    if (this.rowsOfPart > 0) this.path.add(NaN, NaN);
    this.start();
  }

  /** Return the extent of the columns so far. */
  get ranges() {
    const part = (array) => array.subarray(0, this.count);
    return { x: part(this.x), top: part(this.top), bottom: part(this.bottom) };
  }
}

/**
 * Return `{path, covers, dots, lone}` of a curve. Per column of pixels the path runs through the
 * first, smallest, largest and last value, so it covers every value at any number of rows; NaN
 * separates its parts. `covers` are strokes over the further columns of bins wider than one, `dots`
 * points without neighbours, and `lone` strokes over the columns that stick out of their
 * surroundings; strokes are `[x, top, bottom, ...]`.
 *
 * @param {Float64Array} pixels Places of the rows on x.
 * @param {number} width Width of the line and of a column in pixels.
 * @param {boolean} isEnvelope The path is pale, so all that sticks out needs a stroke.
 */
export function traceCurve(series, [from, to], pixels, { scaleX, scaleY }, width, isEnvelope) {
  const columns = new Columns(to - from, width);
  const tops = scaleY.toPixels(series.hi, from, to);
  const isRaw = series.isRaw;
  const bottoms = isRaw ? tops : scaleY.toPixels(series.lo, from, to);
  const firsts = isRaw ? tops : scaleY.toPixels(series.first, from, to);
  const lasts = isRaw ? tops : scaleY.toPixels(series.last, from, to);
  for (let index = 0; index < pixels.length; index += 1) {
    if (!Number.isFinite(series.lo[from + index]) || !Number.isFinite(series.hi[from + index])) {
      columns.end();
      continue;
    }
    columns.add(pixels[index], tops[index], bottoms[index], firsts[index], lasts[index]);
  }
  columns.end();
  const { ranges } = columns;
  const reach = isEnvelope ? Infinity : DENSE_WIDTHS * width;
  return {
    path: columns.path.points,
    covers: series.isRaw ? [] : binCovers(series, ranges, scaleX, width),
    dots: columns.dots,
    lone: loneStrokes(ranges, reach),
  };
}

/** Return strokes over the columns between bins that are neighbours. */
function binCovers({ x: values, binWidth }, { x, top, bottom }, scaleX, width) {
  if (!(binWidth < Infinity)) return [];
  const reach = scaleX.toPixel(values[0] + binWidth) - scaleX.toPixel(values[0]) + 2 * width;
  const covers = [];
  for (let index = 1; index < x.length; index += 1) {
    if (x[index] - x[index - 1] > reach) continue;
    const end = Math.floor(x[index] / width);
    for (let column = Math.floor(x[index - 1] / width) + 1; column < end; column += 1) {
      covers.push((column + 0.5) * width, top[index - 1], bottom[index - 1]);
    }
  }
  return covers;
}

/**
 * Return `{area, extremes, lone}` of a group: the band and the extent of the single runs as closed
 * outlines, and strokes over the extremes that stick out.
 *
 * @param {Float64Array} x Places of the rows in pixels.
 */
export function traceBand(series, rows, x, scaleY) {
  const area = outlines(series.low, series.high, rows, x, scaleY);
  if (!series.hasExtremes) return { area, extremes: [], lone: [] };
  const extremes = outlines(series.lo, series.hi, rows, x, scaleY);
  return { area, extremes, lone: extremes.flatMap((part) => loneStrokes(part, Infinity)) };
}

function outlines(lows, highs, [from, to], x, scaleY) {
  const top = scaleY.toPixels(highs, from, to);
  const bottom = scaleY.toPixels(lows, from, to);
  const parts = [];
  let start = 0;
  const close = (end) => {
    const part = (array) => array.subarray(start, end);
    if (end > start) parts.push({ x: part(x), top: part(top), bottom: part(bottom) });
    start = end + 1;
  };
  for (let row = 0; row < x.length; row += 1) {
    const [low, high] = [lows[from + row], highs[from + row]];
    if (low - low !== 0 || high - high !== 0) close(row); // NaN or infinite
  }
  close(x.length);
  return parts;
}

/**
 * Return `{whole, partial, dots}`: lines through the values of the rows, `partial` where runs of a
 * group have no value, and the points that no line leads to.
 *
 * @param {ArrayLike<number>} values Those of the rows `[from, to)`.
 * @param {Float64Array} pixelsX Their places on x.
 */
export function traceMeans(series, values, [from, to], pixelsX, scaleY) {
  const whole = new Path(2 * (to - from) + 2);
  const partial = new Path(0);
  const dots = [];
  const pixelsY = scaleY.toPixels(values, 0, to - from);
  let [x, y, wasPartial, path] = [NaN, NaN, false, null];
  for (let index = 0; index < pixelsX.length; index += 1) {
    const previousX = x;
    const previousY = y;
    x = Number.isFinite(values[index]) ? pixelsX[index] : NaN;
    if (Number.isNaN(x)) continue;
    y = pixelsY[index];
    const isPartial = series.isBand && series.count[from + index] < series.runs;
    if (Number.isNaN(previousX)) {
      path = null;
      if (!Number.isFinite(values[index + 1])) dots.push(x, y);
    } else {
      const next = isPartial || wasPartial ? partial : whole;
      if (next !== path) {
        next.add(NaN, NaN);
        next.add(previousX, previousY);
      }
      next.add(x, y);
      path = next;
    }
    wasPartial = isPartial;
  }
  return { whole: whole.points, partial: partial.points, dots };
}

/** Return strokes over the columns higher or lower than both neighbours by more than is usual. */
function loneStrokes({ x, top, bottom }, reach) {
  const end = x.length - 1;
  if (end < 1) return [];
  let difference = 0;
  for (let index = 1; index <= end; index += 1) {
    difference +=
      Math.abs(top[index] - top[index - 1]) + Math.abs(bottom[index] - bottom[index - 1]);
  }
  const least = Math.max(LONE_PIXELS, (LONE_DIFFERENCES * difference) / (2 * end));
  const strokes = [];
  for (let index = 0; index <= end; index += 1) {
    const before = index > 0 ? index - 1 : 1;
    const after = index < end ? index + 1 : end - 1;
    const far = Math.max(Math.abs(x[index] - x[before]), Math.abs(x[after] - x[index]));
    // A curve that falls from its first point on is drawn by its line alone.
    if (far > (before === after ? Math.min(reach, END_REACH) : reach)) continue;
    const above = Math.min(top[before], top[after]);
    if (above - top[index] > least) strokes.push(x[index], top[index], above);
    const below = Math.max(bottom[before], bottom[after]);
    if (bottom[index] - below > least) strokes.push(x[index], below, bottom[index]);
  }
  return strokes;
}
