/** Writes a scene as SVG. */

import { markPath, markWidth } from "./canvas.js";

let documents = 0;

/** Return an SVG document of a scene of CSS pixels. */
export function sceneToSvg({ plot, items }, { width, height }, theme, title) {
  documents += 1;
  const clip = `plot-${documents}`;
  const inside = items.filter(({ isInside }) => isInside).map(itemToSvg);
  const outside = items.filter(({ isInside }) => !isInside).map(itemToSvg);
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}"`,
    ` viewBox="0 0 ${width} ${height}" font-family="${escape(theme.font)}">`,
    `<title>${escape(title)}</title>`,
    `<defs><clipPath id="${clip}"><rect x="${plot.left}" y="${plot.top - 1}"`,
    ` width="${plot.right - plot.left + 1}" height="${plot.bottom - plot.top + 2}"/>`,
    "</clipPath></defs>",
    `<rect width="${width}" height="${height}" fill="${theme.background}"/>`,
    `<g clip-path="url(#${clip})">`,
    ...inside,
    "</g>",
    ...outside,
    "</svg>\n",
  ].join("");
}

function itemToSvg(item) {
  return WRITE[item.type](item);
}

const WRITE = {
  rule: writeRule,
  line: writeLine,
  strokes: writeStrokes,
  area: writeArea,
  marks: writeMarks,
  text: writeText,
  cell: writeCell,
};

function writeRule({ x0, y0, x1, y1, color, width }) {
  const half = width / 2;
  const [x, y] = x0 === x1 ? [half, 0] : [0, half];
  return (
    `<path d="M${at(Math.floor(x0) + x, Math.floor(y0) + y)}` +
    `L${at(Math.floor(x1) + x, Math.floor(y1) + y)}"` +
    ` stroke="${color}" stroke-width="${width}"/>`
  );
}

function writeLine({ points, color, width, dash = [], shift = 0 }) {
  let path = "";
  let isDown = false;
  for (let index = 0; index < points.length; index += 2) {
    const isGap = Number.isNaN(points[index]);
    if (!isGap) path += `${isDown ? "L" : "M"}${at(points[index], points[index + 1])}`;
    isDown = !isGap;
  }
  const dashes = dash.length
    ? ` stroke-dasharray="${dash.join(" ")}" stroke-dashoffset="${shift}"`
    : "";
  return (
    `<path d="${path}" fill="none" stroke="${color}" stroke-width="${width}"` +
    ` stroke-linejoin="bevel"${dashes}/>`
  );
}

function writeStrokes({ points, color, width }) {
  let path = "";
  for (let index = 0; index < points.length; index += 3) {
    const x = (Math.floor(points[index] / width) + 0.5) * width;
    const bottom = Math.max(points[index + 2], points[index + 1] + width);
    path += `M${at(x, points[index + 1])}V${number(bottom)}`;
  }
  return `<path d="${path}" stroke="${color}" stroke-width="${width}"/>`;
}

function writeArea({ x, top, bottom, color, alpha }) {
  const upper = Array.from(x, (value, index) => at(value, top[index]));
  const lower = Array.from(x, (value, index) => at(value, bottom[index])).reverse();
  // A line around an opaque area keeps narrow parts of it visible.
  const stroke = alpha === 1 ? ` stroke="${color}"` : "";
  const opacity = alpha < 1 ? ` fill-opacity="${alpha}"` : "";
  return `<path d="M${[...upper, ...lower].join("L")}Z" fill="${color}"${opacity}${stroke}/>`;
}

function writeMarks({ shape, points, color, size }) {
  const path = new PathText();
  for (let index = 0; index < points.length; index += 2) {
    markPath(path, shape, points[index], points[index + 1], size / 2);
  }
  const isOutline = shape === "cross" || shape === "hollow";
  const paint = isOutline
    ? `fill="none" stroke="${color}" stroke-width="${number(markWidth(size))}"`
    : `fill="${color}"`;
  return `<path d="${path.text}" ${paint}/>`;
}

/** The methods of a canvas path that marks need, as the text of an SVG path. */
class PathText {
  constructor() {
    this.text = "";
  }

  moveTo(x, y) {
    this.text += `M${at(x, y)}`;
  }

  lineTo(x, y) {
    this.text += `L${at(x, y)}`;
  }

  closePath() {
    this.text += "Z";
  }

  arc(x, y, radius) {
    const half = `a${number(radius)} ${number(radius)} 0 1 0`;
    this.text += `${half} ${number(-2 * radius)} 0${half} ${number(2 * radius)} 0Z`;
  }
}

function writeCell({ x, y, width, height, color }) {
  return (
    `<rect x="${number(x)}" y="${number(y)}" width="${number(width)}" height="${number(height)}"` +
    ` fill="${color}" shape-rendering="crispEdges"/>`
  );
}

const ANCHORS = { left: "start", center: "middle", right: "end" };
const SHIFTS = { top: 0.8, middle: 0.35, bottom: -0.2 };

function writeText({ text, x, y, align, baseline, color, size, weight = 400 }) {
  return (
    `<text x="${number(x)}" y="${number(y + SHIFTS[baseline] * size)}" fill="${color}"` +
    ` font-size="${size}" font-weight="${weight}" text-anchor="${ANCHORS[align]}">` +
    `${escape(text)}</text>`
  );
}

function at(x, y) {
  return `${number(x)} ${number(y)}`;
}

function number(value) {
  return String(Math.round(value * 100) / 100);
}

/** Control characters have no place in XML, escaped or not. */
function escape(text) {
  const entities = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
  return String(text)
    .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, "")
    .replace(/[&<>"]/g, (character) => entities[character]);
}
