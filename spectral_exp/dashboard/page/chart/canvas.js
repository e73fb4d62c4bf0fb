/** Draws a scene on a canvas of device pixels. */

import { Raster } from "./raster.js";

/**
 * Draw the items of a scene over all of a canvas.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {{plot, items}} scene
 * @param {{background, font}} theme
 */
export function drawScene(context, { plot, items }, { background, font }) {
  const { width, height } = context.canvas;
  context.fillStyle = background;
  context.fillRect(0, 0, width, height);
  const raster = new Raster(rasterBounds(plot, items, width, height), background);
  const inside = items.filter(({ isInside }) => isInside);
  for (const item of inside) RASTERIZE[item.type]?.(raster, item);
  raster.put(context);
  context.save();
  context.beginPath();
  context.rect(raster.left, raster.top, raster.width, raster.height);
  context.clip();
  for (const item of inside) if (item.type === "marks") drawMarks(context, item);
  context.restore();
  for (const item of items) if (!item.isInside) DRAW_OUTSIDE[item.type](context, item, font);
}

/** The last value lies on the right edge of the plot: its column belongs to the plot. */
function rasterBounds({ left, top, right, bottom }, items, width, height) {
  const lineWidth = Math.max(1, ...items.map((item) => (item.isInside && item.width) || 1));
  return {
    left,
    top: Math.max(0, top - lineWidth),
    right: Math.min(width, right + lineWidth),
    bottom: Math.min(height, bottom + lineWidth),
  };
}

const RASTERIZE = {
  rule: (raster, { x0, y0, x1, y1, color, width }) => {
    const { x, y, along, across } = ruleBox(x0, y0, x1, y1, width);
    raster.rectangle(x, y, along, across, color);
  },
  line: (raster, item) => raster.line(item.points, item.color, item.width, item),
  strokes: (raster, { points, color, width }) => raster.strokes(points, color, width),
  area: (raster, { x, top, bottom, color, alpha }) => raster.area(x, top, bottom, color, alpha),
  cell: (raster, { x, y, width, height, color }) => raster.rectangle(x, y, width, height, color),
};

const DRAW_OUTSIDE = { rule: drawRule, marks: drawMarks, text: drawText, cell: drawCell };

function ruleBox(x0, y0, x1, y1, width) {
  const isVertical = x0 === x1;
  return {
    x: Math.round(x0 - (isVertical ? width / 2 : 0)),
    y: Math.round(y0 - (isVertical ? 0 : width / 2)),
    along: isVertical ? width : Math.round(x1 - x0),
    across: isVertical ? Math.round(y1 - y0) : width,
  };
}

function drawRule(context, { x0, y0, x1, y1, color, width }) {
  const { x, y, along, across } = ruleBox(x0, y0, x1, y1, width);
  context.fillStyle = color;
  context.fillRect(x, y, along, across);
}

function drawMarks(context, { shape, points, color, size }) {
  const half = size / 2;
  context.fillStyle = color;
  context.strokeStyle = color;
  context.lineWidth = markWidth(size);
  context.beginPath();
  for (let index = 0; index < points.length; index += 2) {
    markPath(context, shape, points[index], points[index + 1], half);
  }
  if (shape === "cross" || shape === "hollow") context.stroke();
  else context.fill();
}

/** Return the width of the strokes of crosses and hollow triangles. */
export function markWidth(size) {
  return 0.3 * size;
}

/** Add a mark to a path: anything with `moveTo`, `lineTo`, `closePath` and `arc`. */
export function markPath(path, shape, x, y, half) {
  if (shape === "dot") {
    path.moveTo(x + half, y);
    path.arc(x, y, half, 0, 2 * Math.PI);
  } else if (shape === "cross") {
    path.moveTo(x - half, y - half);
    path.lineTo(x + half, y + half);
    path.moveTo(x - half, y + half);
    path.lineTo(x + half, y - half);
  } else {
    const tip = shape === "up" ? -half : half;
    path.moveTo(x - half, y - tip);
    path.lineTo(x + half, y - tip);
    path.lineTo(x, y + tip);
    path.closePath();
  }
}

function drawCell(context, { x, y, width, height, color }) {
  context.fillStyle = color;
  context.fillRect(x, y, width, height);
}

function drawText(context, { text, x, y, align, baseline, color, size, weight = 400 }, font) {
  context.font = `${weight} ${size}px ${font}`;
  context.textAlign = align;
  context.textBaseline = baseline;
  context.fillStyle = color;
  context.fillText(text, x, y);
}
