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
async function show(name, frames, { view = {}, options = {}, isLinked, isAwaited }) {
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
  if (isAwaited) await drawn();
}

async function heat(name, data, { isDetached, ...options } = {}) {
  if (!charts.has(name)) {
    const host = hostOf(name);
    if (isDetached) host.remove();
    charts.set(name, new HeatMap(host, options));
    document.getElementById("hosts").append(host);
  }
  charts.get(name).setData(data);
  await drawn();
}

/** Remove all charts. */
function reset() {
  for (const chart of charts.values()) chart.destroy();
  charts.clear();
  calls.length = 0;
  document.getElementById("hosts").replaceChildren();
}

function isWaiting(chart) {
  const { top, bottom } = chart.plot.getBoundingClientRect();
  return chart.isDirty && top < window.innerHeight && bottom > 0;
}

/** Wait until no chart in sight has anything left to draw. */
async function drawn() {
  const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
  await frame();
  await frame();
  while ([...charts.values()].some(isWaiting)) await frame();
  await frame();
}

window.harness = { charts, calls, show, heat, drawn, reset };
