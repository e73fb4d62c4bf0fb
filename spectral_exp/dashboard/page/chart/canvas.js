/** Draws a scene on a canvas of device pixels. */

/**
 * Draw the items of a scene.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {{plot, items}} scene
 * @param {string} font Family of all texts.
 */
export function drawScene(context, { plot, items }, font) {
  context.lineJoin = "bevel";
  for (const item of items) if (!item.isInside && item.type === "rule") drawRule(context, item);
  context.save();
  context.beginPath();
  context.rect(plot.left, plot.top - 1, plot.right - plot.left, plot.bottom - plot.top + 2);
  context.clip();
  for (const item of items) if (item.isInside) DRAW[item.type](context, item);
  context.restore();
  for (const item of items) {
    if (!item.isInside && item.type !== "rule") DRAW[item.type](context, item, font);
  }
}

const DRAW = {
  line: drawLine, strokes: drawStrokes, area: drawArea, marks: drawMarks, text: drawText,
  cell: drawCell,
};

function drawRule(context, { x0, y0, x1, y1, color, width }) {
  context.fillStyle = color;
  const isVertical = x0 === x1;
  const [x, y] = [Math.round(x0 - (isVertical ? width / 2 : 0)), Math.round(y0 - (isVertical ? 0 : width / 2))];
  context.fillRect(x, y, isVertical ? width : Math.round(x1 - x0), isVertical ? Math.round(y1 - y0) : width);
}

function drawLine(context, { points, color, width, dash = [] }) {
  context.strokeStyle = color;
  context.lineWidth = width;
  context.setLineDash(dash);
  context.beginPath();
  let isDown = false;
  for (let index = 0; index < points.length; index += 2) {
    const x = points[index];
    if (Number.isNaN(x)) isDown = false;
    else if (isDown) context.lineTo(x, points[index + 1]);
    else {
      context.moveTo(x, points[index + 1]);
      isDown = true;
    }
  }
  context.stroke();
  context.setLineDash([]);
}

/** Rectangles on whole pixels: opaque however narrow they are. */
function drawStrokes(context, { points, color, width }) {
  context.fillStyle = color;
  for (let index = 0; index < points.length; index += 3) {
    const top = Math.floor(points[index + 1]);
    const left = Math.floor(points[index] / width) * width;
    context.fillRect(left, top, width, Math.max(Math.ceil(points[index + 2]) - top, width));
  }
}

function drawArea(context, { x, top, bottom, color, alpha, width }) {
  context.beginPath();
  for (let index = 0; index < x.length; index += 1) context.lineTo(x[index], top[index]);
  for (let index = x.length - 1; index >= 0; index -= 1) context.lineTo(x[index], bottom[index]);
  context.closePath();
  context.globalAlpha = alpha;
  context.fillStyle = color;
  context.fill();
  context.globalAlpha = 1;
  if (!width) return;
  context.strokeStyle = color;
  context.lineWidth = width;
  context.stroke();
}

function drawMarks(context, { shape, points, color, size }) {
  const half = size / 2;
  context.fillStyle = color;
  context.strokeStyle = color;
  context.lineWidth = Math.max(1, size / 4);
  context.beginPath();
  for (let index = 0; index < points.length; index += 2) {
    markPath(context, shape, points[index], points[index + 1], half);
  }
  if (shape === "cross" || shape === "hollow") context.stroke();
  else context.fill();
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
