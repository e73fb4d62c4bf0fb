/** Charts with their controls: x, y, band, smoothing, choice of metrics, zoom. */

import { fetchCurves } from "./api.js";
import { X_LABELS } from "./chart_card.js";
import { ChartsGrid } from "./charts.js";
import { button, choice, segmented, setOptions, slider, throttle } from "./controls.js";
import { h } from "./dom.js";
import { currentRoute, patchParams } from "./state.js";

const REFRESH_MS = 400;
const Y_SCALES = [
  { value: "linear", label: "Linear" },
  { value: "log", label: "Log" },
  { value: "symlog", label: "Symlog", title: "Logarithmic on both sides of zero" },
];
const BANDS = [
  { value: "interval", label: "Interval", title: "Mean of the seeds with its 95 % interval" },
  { value: "range", label: "Range", title: "Mean of the seeds, from the lowest to the highest" },
  { value: "runs", label: "Runs", title: "Each run by itself" },
];

/** The parameters of the address that change the charts alone. */
const OWN_PARAMETERS = new Set(["x", "y", "band", "smooth", "charts", "zoom"]);

/** Whether the parameters of two addresses differ in what changes the charts alone. */
export function changesChartsAlone(before, after) {
  const others = (params) =>
    JSON.stringify([...params].filter(([name]) => !OWN_PARAMETERS.has(name)));
  return before.toString() !== after.toString() && others(before) === others(after);
}

export class ChartsPanel {
  /**
   * @param {HTMLElement} host
   * @param {import("./store.js").RunStore} store
   * @param {{withBand?: boolean, legend?: boolean, extra?: Node[], fetchRuns?: Function,
   *   onlyX?: string|null}} options `extra` are further controls, `fetchRuns` fetches a metric of
   *   runs, and `onlyX` is the x of all charts, without a choice
   */
  constructor(
    host,
    store,
    { withBand = true, legend = false, extra = [], fetchRuns = fetchCurves, onlyX = null } = {},
  ) {
    this.store = store;
    this.legend = legend;
    this.fetchRuns = fetchRuns;
    this.onlyX = onlyX;
    this.unwatch = new Map();
    this.stale = new Set();
    this.x = choice("x", [], "step", (x) =>
      patchParams({ x: x === "step" ? null : x, zoom: null }),
    );
    this.y = segmented("Scale of y", Y_SCALES, "linear", (y) =>
      patchParams({ y: y === "linear" ? null : y }),
    );
    this.band = segmented("Groups as", BANDS, "interval", (band) =>
      patchParams({ band: band === "interval" ? null : band }),
    );
    this.smooth = slider("Smoothing", {
      min: 0,
      max: 0.99,
      step: 0.01,
      value: 0,
      show: (value) => (value ? value.toFixed(2) : "off"),
      oninput: throttle(() => patchParams({ smooth: Number(this.smooth.input.value) || null }), 50),
    });
    this.search = h("input", {
      type: "search",
      placeholder: "Find charts",
      "aria-label": "Find charts",
      oninput: () => patchParams({ charts: this.search.value }),
    });
    this.reset = button("Reset zoom", () => patchParams({ zoom: null }), { hidden: true });
    const controls = [
      this.search,
      !onlyX && this.x,
      this.y,
      withBand && this.band,
      this.smooth,
      ...extra,
      this.reset,
    ];
    host.append(h("div", { class: "controls chart-controls" }, controls));
    this.grid = new ChartsGrid(host, {
      onZoom: (range) => patchParams({ zoom: range?.join(":") }),
    });
    this.refreshSoon = throttle(() => this.refresh(), REFRESH_MS);
    this.onWatched = ({ detail: keys }) => {
      for (const key of keys) this.stale.add(key);
      this.refreshSoon();
    };
    store.addEventListener("watched", this.onWatched);
  }

  destroy() {
    this.store.removeEventListener("watched", this.onWatched);
    this.refreshSoon.cancel();
    for (const stop of this.unwatch.values()) stop();
    this.grid.destroy();
  }

  /** Draw charts of `metrics` for `sources`, as the parameters of the address say. */
  draw({ params, metrics, sources, selection = {} }) {
    const xs = xChoices(metrics);
    const x = this.onlyX ?? oneOf(xs, params.get("x"));
    const y = oneOf(Y_SCALES, params.get("y"));
    const band = oneOf(BANDS, params.get("band"));
    const smoothing = Math.min(0.99, Math.max(0, Number(params.get("smooth")) || 0));
    const zoom = parseZoom(params.get("zoom"));
    setOptions(this.x.select, xs, x);
    this.y.set(y);
    this.band.set(band);
    if (document.activeElement !== this.smooth.input) this.smooth.set(smoothing);
    const wanted = params.get("charts") ?? "";
    if (document.activeElement !== this.search) this.search.value = wanted;
    this.reset.hidden = zoom === null;
    this.watch(sources);
    const view = { x: zoom, yScale: y, smoothing };
    const { legend, fetchRuns } = this;
    this.grid.setSettings({ sources, selection, x, band, view, legend, fetchRuns });
    this.grid.setMetrics(metrics.filter((metric) => matches(metric, wanted)));
  }

  toggleLog() {
    const isLog = currentRoute().params.get("y") === "log";
    patchParams({ y: isLog ? null : "log" });
  }

  // Only runs that are drawn are followed closely.
  watch(sources) {
    const keys = new Set(sources.flatMap((source) => source.keys));
    for (const [key, stop] of this.unwatch) {
      if (!keys.has(key)) {
        stop();
        this.unwatch.delete(key);
      }
    }
    for (const key of keys) {
      if (!this.unwatch.has(key)) this.unwatch.set(key, this.store.watch(key));
    }
  }

  refresh() {
    const keys = this.stale;
    this.stale = new Set();
    this.grid.refresh(keys);
  }
}

function xChoices(metrics) {
  return [
    ...Object.entries(X_LABELS).map(([value, label]) => ({ value, label })),
    ...metrics.map(({ name, title }) => ({ value: name, label: title })),
  ];
}

// What an address names that is not offered counts as not named.
function oneOf(options, value) {
  return options.some((option) => option.value === value) ? value : options[0].value;
}

function matches({ name, title }, text) {
  const wanted = text.trim().toLowerCase();
  return name.toLowerCase().includes(wanted) || title.toLowerCase().includes(wanted);
}

function parseZoom(text) {
  const [low, high] = (text ?? "").split(":").map(Number);
  return text && Number.isFinite(low) && Number.isFinite(high) && low < high ? [low, high] : null;
}
