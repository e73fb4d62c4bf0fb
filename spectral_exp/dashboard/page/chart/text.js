/** Widths of texts. */

const MOST_KEPT = 5000;

const measuring = document.createElement("canvas").getContext("2d");
const measured = new Map();

/** Return the width of a text in pixels; labels recur, so widths are kept. */
export function measureText(text, size, font) {
  const key = `${size}|${font}|${text}`;
  let width = measured.get(key);
  if (width === undefined) {
    measuring.font = `${size}px ${font}`;
    width = measuring.measureText(text).width;
    if (measured.size > MOST_KEPT) measured.clear();
    measured.set(key, width);
  }
  return width;
}
