/** Cursor, points under it and the rectangle of a selection, above the chart. */

import { markPath } from "./canvas.js";
import { nearestRow } from "./series.js";
import { seriesColor } from "./theme.js";

/** Draw what moves with the pointer. */
export function drawOverlay(context, chart) {
  if (chart.selection) drawSelection(context, chart);
  if (chart.view.cursor !== null) drawCursor(context, chart);
}

function drawCursor(context, { scene, view, theme, list, size }) {
  const { plot, scaleX } = scene;
  const x = scaleX.toPixel(view.cursor);
  if (!(x >= plot.left - 1 && x <= plot.right + 1)) return;
  const width = Math.max(1, Math.round(size.ratio));
  context.fillStyle = theme.text;
  context.globalAlpha = 0.55;
  context.fillRect(Math.floor(x / width) * width, plot.top, width, plot.bottom - plot.top);
  context.globalAlpha = 1;
  for (const { series, row } of rowsAtCursor({ scene, view, list })) {
    const [px, py] = [scaleX.toPixel(series.x[row]), scene.scaleY.toPixel(series.mid[row])];
    if (!(py >= plot.top - 1 && py <= plot.bottom + 1)) continue;
    context.fillStyle = seriesColor(theme, series);
    context.strokeStyle = theme.background;
    context.lineWidth = 1.5 * size.ratio;
    context.beginPath();
    markPath(context, "dot", px, py, 3.5 * size.ratio);
    context.stroke();
    context.fill();
  }
}

/**
 * Return `[{series, row}]` of the visible series that have a row near the cursor: nearer than
 * 24 CSS pixels or the distance of their own rows.
 */
export function rowsAtCursor({ scene, view, list, size = { ratio: 1 } }) {
  const found = [];
  const cursor = scene.scaleX.toPixel(view.cursor);
  for (const series of list) {
    if (view.hidden.includes(series.key)) continue;
    const row = nearestRow(series, view.cursor);
    if (row < 0) continue;
    const { x, n } = series;
    const isBetween = view.cursor >= x[0] && view.cursor <= x[n - 1];
    const distance = Math.abs(scene.scaleX.toPixel(x[row]) - cursor);
    if (isBetween || distance <= 24 * size.ratio) found.push({ series, row });
  }
  return found;
}

function drawSelection(context, { selection, scene, theme, size }) {
  const { plot } = scene;
  const [x0, x1] = [selection.x0, selection.x1].map((x) =>
    Math.max(plot.left, Math.min(plot.right, x)),
  );
  const [y0, y1] = selection.isBox
    ? [selection.y0, selection.y1].map((y) => Math.max(plot.top, Math.min(plot.bottom, y)))
    : [plot.top, plot.bottom];
  context.fillStyle = theme.text;
  context.globalAlpha = 0.12;
  context.fillRect(x0, y0, x1 - x0, y1 - y0);
  context.globalAlpha = 0.5;
  context.lineWidth = Math.max(1, Math.round(size.ratio));
  context.strokeStyle = theme.text;
  context.strokeRect(Math.round(x0) + 0.5, Math.round(y0) + 0.5, x1 - x0, y1 - y0);
  context.globalAlpha = 1;
}
