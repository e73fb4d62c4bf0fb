/** Grid, axes and their labels as items of a scene. */

import { FONT_SIZE } from "./layout.js";

/** Wider lines cost several times as much where no graphics card draws them. */
export function lineWidth(ratio) {
  return Math.max(1, Math.round(ratio));
}

/** Return thin lines at the labelled ticks. */
export function gridItems({ plot, scaleY, scaleX, ticksY, ticksX }, { ratio }, theme) {
  const items = [];
  const add = (x0, y0, x1, y1) => {
    items.push({
      type: "rule",
      x0,
      y0,
      x1,
      y1,
      color: theme.grid,
      width: lineWidth(ratio),
      isInside: true,
    });
  };
  for (const { value } of ticksY) {
    const y = scaleY.toPixel(value);
    if (y >= plot.top && y <= plot.bottom) add(plot.left, y, plot.right, y);
  }
  for (const { value, label } of ticksX) {
    const x = scaleX.toPixel(value);
    if (label) add(x, plot.top, x, plot.bottom);
  }
  return items;
}

/** Return the axis line, the labels of the ticks and the titles. */
export function axisItems({ plot, scaleX, scaleY, ticksX, ticksY }, size, theme, labels) {
  const { ratio, width, height, offset = 0 } = size;
  const text = (string, x, y, align, baseline) => ({
    type: "text",
    text: string,
    x,
    y,
    align,
    baseline,
    color: theme.text,
    size: FONT_SIZE * ratio,
  });
  const items = [
    {
      type: "rule",
      x0: plot.left,
      y0: plot.bottom,
      x1: plot.right,
      y1: plot.bottom,
      color: theme.axis,
      width: lineWidth(ratio),
    },
  ];
  for (const { value, label } of ticksY) {
    const y = scaleY.toPixel(value);
    if (label && y >= plot.top - 1 && y <= plot.bottom + 1) {
      items.push(text(label, plot.left - 8 * ratio, y, "right", "middle"));
    }
  }
  for (const { value, label, width: labelWidth } of ticksX) {
    const x = Math.min(scaleX.toPixel(value), width - labelWidth / 2);
    if (label) items.push(text(label, x, plot.bottom + 6 * ratio, "center", "top"));
  }
  if (labels.y) items.push(text(labels.y, 4 * ratio, offset + 3 * ratio, "left", "top"));
  if (labels.x)
    items.push(text(labels.x, plot.right, offset + height - 3 * ratio, "right", "bottom"));
  return items;
}

/** Return a text in the middle of the plot. */
export function emptyItem({ plot }, { ratio }, theme, text) {
  return {
    type: "text",
    text,
    x: (plot.left + plot.right) / 2,
    y: (plot.top + plot.bottom) / 2,
    align: "center",
    baseline: "middle",
    color: theme.text,
    size: FONT_SIZE * ratio,
  };
}
