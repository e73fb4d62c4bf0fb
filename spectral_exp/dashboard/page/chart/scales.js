/** Scales from values to pixels: linear, logarithmic and symmetric logarithmic. */

/** Values under this share of the largest lie in the linear part of a symmetric logarithm. */
const SYMLOG_SHARE = 1e-6;

/** Smaller powers of ten have too few digits to count with. */
const SMALLEST_POWER = -300;

const LARGEST = Number.MAX_VALUE;

/** Pixels farther away than this are of no use to a canvas and overflow in some of them. */
const FARTHEST = 32000;

/**
 * Return a scale that maps `domain` to the pixels of `range`.
 *
 * `toPixel` maps NaN to NaN and everything else to a finite pixel; values that a logarithm does
 * not know lie beyond the lower end. `toValue` is its inverse.
 *
 * @param {"linear"|"log"|"symlog"} kind
 * @param {[number, number]} domain
 * @param {[number, number]} range
 * @param {number} [threshold] End of the linear part of "symlog".
 */
export function makeScale(kind, domain, range, threshold = 1) {
  const [forward, backward] = transforms(kind, threshold);
  let [lo, hi] = [forward(domain[0]), forward(domain[1])];
  // The span of the largest numbers overflows, half of it does not.
  const shrink = Number.isFinite(hi - lo) ? 1 : 0.5;
  [lo, hi] = [lo * shrink, hi * shrink];
  const factor = (range[1] - range[0]) / (hi - lo);
  const tiny = !Number.isFinite(factor);
  const span = range[1] - range[0];
  return {
    kind,
    domain,
    range,
    threshold,
    toPixel(value) {
      const offset = forward(value) * shrink - lo;
      const pixel = range[0] + (tiny ? (offset / (hi - lo)) * span : offset * factor);
      return pixel < -FARTHEST ? -FARTHEST : pixel > FARTHEST ? FARTHEST : pixel;
    },
    /** Return the pixels of the values `[from, to)`: a loop is several times as fast as calls. */
    toPixels(values, from, to) {
      const pixels = new Float64Array(to - from);
      const [start] = range;
      const isLinear = kind === "linear";
      for (let index = from; index < to; index += 1) {
        const value = values[index];
        if (tiny) {
          pixels[index - from] = this.toPixel(value);
          continue;
        }
        const pixel = start + ((isLinear ? value : forward(value)) * shrink - lo) * factor;
        pixels[index - from] = pixel < -FARTHEST ? -FARTHEST : pixel > FARTHEST ? FARTHEST : pixel;
      }
      return pixels;
    },
    toValue(pixel) {
      return backward((lo + ((pixel - range[0]) / span) * (hi - lo)) / shrink);
    },
  };
}

function transforms(kind, threshold) {
  if (kind === "log") {
    return [(value) => (value <= 0 ? -Infinity : Math.log10(value)), (value) => 10 ** value];
  }
  if (kind === "symlog") {
    return [
      (value) => Math.sign(value) * Math.log1p(Math.abs(value) / threshold),
      (value) => Math.sign(value) * threshold * Math.expm1(Math.abs(value)),
    ];
  }
  return [(value) => value, (value) => value];
}

/**
 * Return a domain that holds `[lo, hi]` with a margin of `share` on both sides: never empty, never
 * infinite, and wide enough for ticks that differ.
 */
export function paddedDomain(lo, hi, kind, share = 0.05) {
  if (!(lo <= hi)) return kind === "log" ? [1, 10] : [0, 1];
  if (kind === "log") return paddedLogDomain(lo, hi, share);
  const size = Math.max(Math.abs(lo), Math.abs(hi));
  const halfSpan = hi / 2 - lo / 2;
  let pad = 2 * share * halfSpan;
  if (halfSpan <= size * 1e-12) pad = size * share;
  // Ticks closer than this have no floating-point numbers of their own.
  if (pad < 1e-306) pad = 1;
  return [Math.max(lo - pad, -LARGEST), Math.min(hi + pad, LARGEST)];
}

function paddedLogDomain(lo, hi, share) {
  const [from, to] = [Math.log10(lo), Math.log10(hi)];
  const pad = to - from > 1e-9 ? (to - from) * share : 0.5;
  return [Math.max(10 ** (from - pad), Number.MIN_VALUE), Math.min(10 ** (to + pad), LARGEST)];
}

/** Return where the linear part of a symmetric logarithm ends, a power of ten. */
export function symlogThreshold(smallest, largest) {
  const bound = Math.max(smallest, largest * SYMLOG_SHARE);
  if (!(bound > 0 && Number.isFinite(bound))) return 1;
  return 10 ** Math.max(Math.floor(Math.log10(bound)), SMALLEST_POWER);
}
