/** Pointer, keyboard and readout of a map of histograms. */

import { addReadout } from "./readout.js";
import { formatValue } from "./ticks.js";

const DISTANCE = 14;
const EDGE = 4;
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

export class HeatReadout {
  constructor(map, element) {
    this.map = map;
    this.element = element;
    Object.assign(this, addReadout(element));
    this.abort = new AbortController();
    const { signal } = this.abort;
    element.addEventListener("pointermove", (event) => this.point(event), { signal });
    element.addEventListener("pointerleave", () => this.move(null), { signal });
    element.addEventListener("blur", () => this.move(null), { signal });
    element.addEventListener("keydown", (event) => this.keyDown(event), { signal });
  }

  destroy() {
    this.abort.abort();
  }

  point(event) {
    const { scene, size, data } = this.map;
    if (!scene || data.steps.length === 0) return;
    const box = this.element.getBoundingClientRect();
    const x = (event.clientX - box.left) * size.ratio;
    const y = (event.clientY - box.top) * size.ratio;
    const { plot, scaleX, scaleY } = scene;
    if (x < plot.left || x > plot.right || y < plot.top || y > plot.bottom) {
      this.move(null);
      return;
    }
    const column = this.map.nearestColumn(scaleX.toValue(x));
    this.move({ column, bin: binOf(data.edges, scaleY.toValue(y)) });
  }

  move(cursor) {
    const step = cursor ? this.map.data.steps[cursor.column] : null;
    this.map.cursor = cursor;
    this.map.invalidateOverlay();
    this.map.options.link?.shareCursor(this.map, step);
    this.map.options.onHover?.(step);
  }

  keyDown(event) {
    const { data, cursor } = this.map;
    const move = MOVES[event.key];
    if (!move || event.ctrlKey || event.metaKey || event.altKey || data.steps.length === 0) return;
    event.preventDefault();
    event.stopPropagation();
    const clamp = (value, count) => Math.max(0, Math.min(count - 1, value));
    const bins = data.edges.length - 1;
    const start = { column: data.steps.length - 1, bin: Math.floor(bins / 2) };
    const { column, bin } = { ...start, ...cursor, bin: cursor?.bin ?? start.bin };
    const target = cursor
      ? { column: clamp(column + move[0], data.steps.length), bin: clamp(bin + move[1], bins) }
      : start;
    this.move(target);
    this.live.textContent = this.texts(target).join(", ");
  }

  /** Return step, bin and count under the cursor as texts. */
  texts({ column, bin }) {
    const { data, totals } = this.map;
    const [count, total] = [data.counts[column][bin], totals[column]];
    const [lo, hi] = [data.edges[bin], data.edges[bin + 1]];
    const range = `${formatValue(lo)} to ${formatValue(hi)} ${data.unit}`;
    const texts = [
      `Step ${formatValue(data.steps[column], "count")}`,
      range.trim(),
      `${formatValue(count, "count")} of ${formatValue(total, "count")}` +
        ` (${formatValue(total ? count / total : 0, "percent", 3)})`,
    ];
    if (data.nan[column] > 0) texts.push(`${formatValue(data.nan[column], "count")} NaN`);
    return texts;
  }

  /** Draw the cell under the cursor, or the step alone, and place the box. */
  draw(context) {
    const { cursor, scene, theme, size, data } = this.map;
    this.box.hidden = true;
    if (!cursor || data.steps.length === 0 || cursor.column >= data.steps.length) return;
    const x = scene.scaleX.toPixel(data.steps[cursor.column]);
    const width = Math.max(1, Math.round(size.ratio));
    context.fillStyle = theme.text;
    context.globalAlpha = 0.55;
    context.fillRect(Math.floor(x), scene.plot.top, width, scene.plot.bottom - scene.plot.top);
    context.globalAlpha = 1;
    if (cursor.bin === null) return;
    const y = scene.scaleY.toPixel(data.edges[cursor.bin]);
    const top = scene.scaleY.toPixel(data.edges[cursor.bin + 1]);
    context.strokeStyle = theme.text;
    context.lineWidth = width;
    context.strokeRect(
      Math.floor(x) - 2.5 * width,
      Math.round(top),
      6 * width,
      Math.round(y - top),
    );
    this.write(cursor);
    this.place(x / size.ratio, top / size.ratio);
  }

  write(cursor) {
    const [head, ...rest] = this.texts(cursor);
    const lines = [head, ...rest].map((text, index) => {
      const line = document.createElement("div");
      line.className = index === 0 ? "chart-readout-head" : "";
      line.textContent = text;
      return line;
    });
    this.box.replaceChildren(...lines);
    this.box.hidden = false;
  }

  place(x, y) {
    const { box } = this;
    const { width, height, ratio } = this.map.size;
    const isLeft = x > width / ratio / 2;
    const left = isLeft ? x - box.offsetWidth - DISTANCE : x + DISTANCE;
    const lowest = height / ratio - box.offsetHeight - EDGE;
    box.style.left = `${Math.round(Math.max(EDGE, left))}px`;
    box.style.top = `${Math.round(Math.max(EDGE, Math.min(y - box.offsetHeight / 2, lowest)))}px`;
  }
}

/** Return the bin of a value; those beyond the edges belong to the first or the last. */
function binOf(edges, value) {
  let bin = 0;
  while (bin < edges.length - 2 && value >= edges[bin + 1]) bin += 1;
  return bin;
}
