/** A chart as a file: SVG and PNG with title and legend. */

import { drawScene } from "./canvas.js";
import { FONT_SIZE } from "./layout.js";
import { sceneToSvg } from "./svg.js";
import { measureText } from "./text.js";

/** Sizes in CSS pixels. */
const LEAST_WIDTH = 320;
const LEAST_HEIGHT = 200;
const PADDING = 12;
const LINE = 18;
const TITLE_SIZE = 13;
const SWATCH = 10;
const GAP = 16;

const PNG_RATIO = 2;

/** Return an SVG document of a chart. */
export function exportSvg(chart) {
  const { scene, size } = completeScene(chart, 1);
  return sceneToSvg(scene, size, chart.theme, chart.title);
}

/** Return a promise of a PNG of a chart, a Blob. */
export function exportPng(chart) {
  const { scene, size } = completeScene(chart, PNG_RATIO);
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [size.width, size.height];
  const context = canvas.getContext("2d");
  drawScene(context, scene, chart.theme);
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("The image is too large."))));
  });
}

/** Return the scene of a chart with title and legend, and its size in device pixels. */
function completeScene(chart, ratio) {
  const screen = chart.size;
  const width = Math.max(LEAST_WIDTH, Math.round(screen.width / screen.ratio)) * ratio;
  const chartHeight = Math.max(LEAST_HEIGHT, Math.round(screen.height / screen.ratio)) * ratio;
  const offset = chart.options.title ? (TITLE_SIZE + PADDING) * ratio : 0;
  const scene = chart.buildScene({ width, height: chartHeight, ratio, offset });
  const legend = legendItems(chart, width, chartHeight + offset, ratio);
  const items = [...scene.items, ...legend.items];
  if (offset) items.push(titleItem(chart, ratio));
  const height = chartHeight + offset + legend.height;
  return { scene: { ...scene, items }, size: { width, height } };
}

function titleItem({ options, theme }, ratio) {
  return {
    type: "text",
    text: options.title,
    x: 4 * ratio,
    y: 6 * ratio,
    align: "left",
    baseline: "top",
    color: theme.text,
    size: TITLE_SIZE * ratio,
    weight: 600,
  };
}

function legendItems(chart, width, top, ratio) {
  const { theme } = chart;
  const items = [];
  let [x, y] = [PADDING * ratio, top + (LINE / 2) * ratio];
  for (const entry of chart.legendEntries()) {
    const { color } = entry;
    const label = shortened(
      entry.label,
      width - (2 * PADDING + SWATCH + 8) * ratio,
      ratio,
      theme.font,
    );
    const needed = (SWATCH + 6 + GAP) * ratio + measureText(label, FONT_SIZE * ratio, theme.font);
    if (x > PADDING * ratio && x + needed > width) [x, y] = [PADDING * ratio, y + LINE * ratio];
    items.push({
      type: "marks",
      shape: "dot",
      points: [x + (SWATCH / 2) * ratio, y],
      color,
      size: 8 * ratio,
    });
    items.push({
      type: "text",
      text: label,
      x: x + (SWATCH + 6) * ratio,
      y,
      align: "left",
      baseline: "middle",
      color: theme.text,
      size: FONT_SIZE * ratio,
    });
    x += needed;
  }
  return { items, height: items.length ? y - top + LINE * ratio : 0 };
}

/** Cut a label that is wider than a line. */
function shortened(label, width, ratio, font) {
  const fits = (text) => measureText(text, FONT_SIZE * ratio, font) <= width;
  if (fits(label)) return label;
  const characters = Array.from(label);
  while (characters.length > 1 && !fits(`${characters.join("")}…`)) {
    characters.length = Math.floor(characters.length * 0.9);
  }
  return `${characters.join("")}…`;
}
