/** The colours of a chart, read from the CSS variables of the page. */

const SERIES = [
  "#0072b2",
  "#d55e00",
  "#009e73",
  "#cc79a7",
  "#b8860b",
  "#56b4e9",
  "#7b4fb5",
  "#8c564b",
  "#5f6b76",
  "#c0392b",
];
const NAMES = {
  background: ["--chart-bg", "#ffffff"],
  grid: ["--chart-grid", "#ebedf0"],
  axis: ["--chart-axis", "#c4c9d0"],
  text: ["--chart-text", "#59636e"],
};

/** How far the variants of a colour go toward text or background, by the index of the dash. */
const VARIANTS = [
  ["text", 0],
  ["text", 0.4],
  ["background", 0.4],
  ["text", 0.7],
];

/** Dashes of the lines of means in CSS px, by index; the first is solid. */
export const DASHES = [[], [6, 3], [2, 3], [8, 3, 2, 3]];

const listeners = new Set();

function notify() {
  for (const listener of listeners) listener();
}

/** Call `listener` when the colours may have changed; returns a function that ends this. */
export function onThemeChange(listener) {
  if (listeners.size === 0) {
    window.addEventListener("themechange", notify);
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", notify);
  }
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Return the colours in force at an element, as `#rrggbb`. */
export function readTheme(element) {
  const style = getComputedStyle(element);
  const parser = document.createElement("canvas").getContext("2d");
  const read = (name, fallback) => {
    parser.fillStyle = fallback;
    parser.fillStyle = style.getPropertyValue(name).trim() || fallback;
    return String(parser.fillStyle);
  };
  const theme = { font: style.fontFamily || "sans-serif" };
  for (const [key, [name, fallback]] of Object.entries(NAMES)) theme[key] = read(name, fallback);
  theme.series = SERIES.map((fallback, index) => read(`--series-${index}`, fallback));
  return theme;
}

/** Return the colour of a series: that of its index, lighter or darker if it has a dash. */
export function seriesColor(theme, { color, dash }) {
  const [toward, share] = VARIANTS[dash % VARIANTS.length];
  return mix(theme.series[color % theme.series.length], theme[toward], share);
}

/** Return an opaque colour between two others, `share` of the way to the second. */
export function mix(color, other, share) {
  const [from, to] = [channels(color), channels(other)];
  const mixed = from.map((value, index) => Math.round(value + (to[index] - value) * share));
  return `#${mixed.map((value) => value.toString(16).padStart(2, "0")).join("")}`;
}

/** Return red, green and blue of `#rrggbb` or `rgba(...)`. */
export function channels(color) {
  if (color.startsWith("#")) {
    return [1, 3, 5].map((index) => parseInt(color.slice(index, index + 2), 16));
  }
  return color
    .match(/[\d.]+/g)
    .slice(0, 3)
    .map(Number);
}
