/** A chart with its title, its menu and its data. */

import { fetchBand } from "./api.js";
import { Chart } from "./chart/chart.js";
import { xKindOf } from "./chart/ticks.js";
import { ApiError, ServerGone } from "./client.js";
import { menuButton } from "./controls.js";
import { bdi, fill, h } from "./dom.js";
import { chartItems } from "./save.js";

/** Names of the choices of x, for the axis. */
export const X_LABELS = {
  step: "Step",
  relative: "Step, share of the run",
  tokens: "Tokens",
  train_s: "Training time",
  wall_s: "Time",
};

const MIN_BINS = 200;
const MAX_BINS = 1500;
const AGAIN_MS = 60;
const LOADING_MS = 500;

export class ChartCard {
  /**
   * @param {{name: string, title: string, unit?: string}} metric
   * @param {{onZoom: function([number, number]|null)}} options
   */
  constructor(metric, { onZoom }) {
    this.metric = metric;
    this.onZoom = onZoom;
    this.chart = null;
    this.settings = null;
    this.isVisible = false;
    this.isStale = true;
    this.controller = null;
    this.timer = null;
    this.host = h("div", { class: "chart-host" });
    this.note = h("span", { class: "chart-note" });
    this.element = h(
      "section",
      { class: "chart-card", "aria-label": metric.title },
      h(
        "header",
        null,
        h("h2", { title: metric.name }, bdi(metric.title)),
        this.note,
        menuButton(`Save or enlarge ${metric.title}`, () => this.menuItems(), {
          iconName: "more",
          iconOnly: true,
        }),
      ),
      this.host,
    );
  }

  destroy() {
    clearTimeout(this.timer);
    this.controller?.abort();
    this.chart?.destroy();
    this.chart = null;
  }

  /** Take new settings; data are loaded again only if they depend on what has changed. */
  setSettings(settings) {
    this.settings = settings;
    const signature = JSON.stringify([this.dataParameters(), settings.view.x ?? null]);
    if (signature !== this.signature) {
      this.signature = signature;
      this.refresh();
    }
    this.applyView();
  }

  // The view changes at once, with the data at hand; finer data follow. An update without a change
  // of the view leaves alone what the user is doing to the chart.
  applyView() {
    const { view } = this.settings;
    const signature = JSON.stringify(view);
    if (!this.chart || signature === this.viewSignature) return;
    this.viewSignature = signature;
    this.chart.setView(view.x ? view : { ...view, y: null });
  }

  setVisible(isVisible) {
    this.isVisible = isVisible;
    if (isVisible && this.isStale) this.refresh();
  }

  /** Load the data again, now if the chart is in sight and else when it is. */
  refresh(delay = 0) {
    this.isStale = true;
    if (!this.isVisible || this.timer !== null) return;
    this.timer = setTimeout(() => {
      this.timer = null;
      this.load();
    }, delay);
  }

  // The server is still reading a large file.
  refreshLater() {
    this.isStale = true;
    if (this.timer !== null) return;
    this.timer = setTimeout(() => {
      this.timer = null;
      if (this.isVisible) this.load();
    }, LOADING_MS);
  }

  dataParameters() {
    const { sources, selection, x, band } = this.settings;
    return { sources, selection, x, band };
  }

  async load() {
    if (this.controller) {
      // At most one request at a time: an update does not cancel the one before it, a zoom does.
      if (this.loading === this.signature) return;
      this.controller.abort();
    }
    const controller = (this.controller = new AbortController());
    this.loading = this.signature;
    this.isStale = false;
    try {
      const data = await this.fetchSeries(controller.signal);
      if (this.controller !== controller) return;
      this.draw(data);
      fill(this.note, noteOf(data));
      if (data.loading !== null) this.refreshLater();
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof ApiError || error instanceof ServerGone)) throw error;
      fill(this.note, error.message);
    }
    if (this.controller === controller) this.controller = null;
    if (this.isStale) this.refresh(AGAIN_MS);
  }

  async fetchSeries(signal) {
    const { sources, selection, x, band, view, fetchRuns } = this.settings;
    const [lo, hi] = view.x ?? [null, null];
    const window = { metric: this.metric.name, x, lo, hi, bins: this.bins() };
    const banded = sources.filter((source) => hasBand(source, band));
    const single = sources.filter((source) => !hasBand(source, band));
    const runs = single.flatMap(({ keys }) => keys);
    const groups = banded.map(({ id }) => id);
    const [curves, bands] = await Promise.all([
      runs.length ? fetchRuns({ runs, ...window }, { signal }) : null,
      groups.length ? fetchBand({ groups, band, ...selection, ...window }, { signal }) : null,
    ]);
    const extents = [curves?.header.extent, bands?.header.extent].filter(Boolean);
    const loading = [curves, bands].flatMap((part) => Object.values(part?.header.loading ?? {}));
    return {
      loading: loading.length ? Math.min(...loading) : null,
      metric: (curves ?? bands)?.header.metric,
      series: [
        ...bandSeries(banded, bands?.series ?? []),
        ...curveSeries(single, curves?.series ?? []),
      ],
      extent: extents.length ? union(extents) : null,
    };
  }

  bins() {
    const wanted = this.chart?.bins ?? Math.round(this.host.clientWidth);
    return Math.max(MIN_BINS, Math.min(MAX_BINS, wanted));
  }

  draw({ series, extent, metric }) {
    const { x, link, sources, legend } = this.settings;
    const options = {
      title: this.metric.title,
      yLabel: metric?.unit ?? this.metric.unit ?? "",
      xLabel: X_LABELS[x] ?? x,
      xKind: xKindOf(x),
      legend: legend && sources.length > 1,
    };
    const signature = JSON.stringify(options);
    if (signature !== this.optionsSignature) {
      this.optionsSignature = signature;
      this.chart?.destroy();
      this.viewSignature = null;
      const onZoom = (range) => this.onZoom(range);
      this.chart = new Chart(this.host, { ...options, link, onZoom });
    }
    this.chart.setData(series, { extent });
    this.applyView();
  }

  menuItems() {
    return [
      {
        label: this.element.classList.contains("large") ? "Reduce" : "Enlarge",
        act: () => this.element.classList.toggle("large"),
      },
      { label: "Show all of x", disabled: !this.settings.view.x, act: () => this.onZoom(null) },
      null,
      ...chartItems(this.metric.name, this.chart),
    ];
  }
}

// A group of several runs is drawn as a band, which holds the extremes of all its runs.
function hasBand({ isGroup, keys }, band) {
  return isGroup && keys.length > 1 && band !== "runs";
}

function bandSeries(sources, bands) {
  const sourceOf = new Map(sources.map((source) => [source.id, source]));
  return bands
    .filter(({ id, n }) => sourceOf.has(id) && n !== 0)
    .map((band) => ({ ...band, key: band.id, kind: "band", ...styleOf(sourceOf.get(band.id)) }));
}

function curveSeries(sources, curves) {
  const sourceOf = new Map(sources.flatMap((source) => source.keys.map((key) => [key, source])));
  return curves
    .filter(({ key, n }) => sourceOf.has(key) && n !== 0)
    .map((curve) => ({ ...curve, kind: "curve", ...styleOf(sourceOf.get(curve.key)) }));
}

function styleOf({ label, color, dash }) {
  return { label, color, dash };
}

function union(extents) {
  const lows = extents.map(([low]) => low);
  const highs = extents.map(([, high]) => high);
  return [Math.min(...lows), Math.max(...highs)];
}

function noteOf({ series, loading }) {
  if (loading !== null) return `Reading, ${Math.floor(100 * loading)} %`;
  return series.length ? countMarks(series) : "No values";
}

function countMarks(curves) {
  const sum = (name) => curves.reduce((total, curve) => total + (curve[name] ?? 0), 0);
  const infinite = sum("posinf") + sum("neginf");
  const parts = [sum("nan") && `${sum("nan")} NaN`, infinite && `${infinite} infinite`];
  return parts.filter(Boolean).join(", ");
}
