/** Makes charts of frames that a test has registered, and waits until they are drawn. */

import { Chart } from "./chart/chart.js";
import { HeatMap } from "./chart/heatmap.js";
import { ChartLink } from "./chart/link.js";
import { decodeFrame } from "./frame.js";

const charts = new Map();
const link = new ChartLink();
const calls = [];

function hostOf(name) {
  const host = document.createElement("div");
  host.className = "host";
  host.id = name;
  document.getElementById("hosts").append(host);
  return host;
}

async function load({ frame, style = {} }) {
  const { series } = decodeFrame(await (await fetch(frame)).arrayBuffer());
  return series.map((entry) => ({ ...entry, ...(style[entry.key] ?? style["*"]) }));
}

/** Show frames in the chart of this name, which is made if there is none. */
async function show(name, frames, { view = {}, options = {}, isLinked = false } = {}) {
  const series = (await Promise.all(frames.map(load))).flat();
  if (!charts.has(name)) {
    const report = (kind) => (value) => calls.push([name, kind, value]);
    const callbacks = Object.fromEntries(
      ["onZoom", "onHover", "onPick", "onHide"].map((kind) => [kind, report(kind)]),
    );
    const shared = isLinked ? { link } : {};
    charts.set(name, new Chart(hostOf(name), { ...callbacks, ...shared, ...options }));
  }
  charts.get(name).setData(series, view);
  await drawn();
}

async function heat(name, data, options = {}) {
  if (!charts.has(name)) charts.set(name, new HeatMap(hostOf(name), options));
  charts.get(name).setData(data);
  await drawn();
}

/** Wait until no chart has anything left to draw. */
async function drawn() {
  const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
  await frame();
  await frame();
  while ([...charts.values()].some(({ isDirty, isVisible }) => isDirty && isVisible)) await frame();
  await frame();
}

window.harness = { charts, calls, show, heat, drawn };
