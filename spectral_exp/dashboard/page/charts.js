/** A grid of charts, one for each metric. Only charts in sight are loaded and drawn. */

import { ChartCard } from "./chart_card.js";
import { ChartLink } from "./chart/link.js";
import { emptyState } from "./controls.js";
import { fill, h } from "./dom.js";

/**
 * @typedef {Object} Source a group or a run to draw
 * @property {string} id
 * @property {string} label
 * @property {number} color
 * @property {number} dash
 * @property {string[]} keys its runs
 * @property {boolean} isGroup
 */

export class ChartsGrid {
  /**
   * @param {HTMLElement} host
   * @param {{onZoom: function([number, number]|null)}} options
   */
  constructor(host, { onZoom }) {
    this.onZoom = onZoom;
    this.cards = new Map();
    this.settings = { sources: [], selection: {}, x: "step", view: {}, link: new ChartLink() };
    this.element = h("div", { class: "charts" });
    host.append(this.element);
    this.observer = new IntersectionObserver((entries) => this.onVisible(entries), {
      rootMargin: "200px 0px",
    });
  }

  destroy() {
    this.observer.disconnect();
    for (const card of this.cards.values()) card.destroy();
    this.cards.clear();
    this.element.remove();
  }

  /**
   * Show a chart for each of `metrics`, in panels.
   * @param {Array<{name: string, title: string, kind?: string, unit?: string}>} metrics
   */
  setMetrics(metrics) {
    const signature = JSON.stringify(metrics.map(({ name, kind }) => [name, kind]));
    if (signature === this.signature) return;
    this.signature = signature;
    const wanted = new Set(metrics.map(({ name }) => name));
    for (const [name, card] of this.cards) if (!wanted.has(name)) this.drop(name, card);
    const panels = new Map();
    for (const metric of metrics) {
      const panel = panelOf(metric);
      panels.set(panel, [...(panels.get(panel) ?? []), this.cardOf(metric)]);
    }
    if (panels.size === 0) {
      fill(this.element, emptyState("No metrics to draw."));
      return;
    }
    const ordered = [...panels].sort(([a], [b]) => LAST.indexOf(a) - LAST.indexOf(b));
    fill(
      this.element,
      ordered.map(([panel, cards]) => panelSection(panel, cards, panels.size)),
    );
  }

  cardOf(metric) {
    if (!this.cards.has(metric.name)) {
      const card = new ChartCard(metric, {
        onZoom: (range) => this.onZoom(range),
      });
      card.element.dataset.metric = metric.name;
      card.setSettings(this.settings);
      this.cards.set(metric.name, card);
      this.observer.observe(card.element);
    }
    return this.cards.get(metric.name);
  }

  drop(name, card) {
    this.observer.unobserve(card.element);
    card.destroy();
    this.cards.delete(name);
  }

  /** Set what is drawn and how: `{sources, selection, x, band, view, fetchRuns}`. */
  setSettings(settings) {
    this.settings = { ...this.settings, ...settings };
    for (const card of this.cards.values()) card.setSettings(this.settings);
  }

  /** Load the curves of these runs again: they have grown or were cut back. */
  refresh(keys) {
    const isDrawn = ({ keys: drawn }) => drawn.some((key) => keys.has(key));
    if (!this.settings.sources.some(isDrawn)) return;
    for (const card of this.cards.values()) card.refresh();
  }

  onVisible(entries) {
    for (const { target, isIntersecting } of entries) {
      this.cards.get(target.dataset.metric)?.setVisible(isIntersecting);
    }
  }
}

// The panels that say nothing about the model come after all others.
const LAST = ["Cost", "Machine"];

function panelOf({ name, kind }) {
  if (kind) return kind[0].toUpperCase() + kind.slice(1);
  const at = name.search(/[/.]/);
  return at > 0 ? name.slice(0, at) : "";
}

function panelSection(panel, cards, count) {
  const grid = h(
    "div",
    { class: "chart-grid" },
    cards.map(({ element }) => element),
  );
  if (count === 1 && !panel) return grid;
  return h(
    "details",
    { class: "panel", open: true },
    h(
      "summary",
      null,
      h("span", null, panel || "General"),
      h("span", { class: "count" }, cards.length),
    ),
    grid,
  );
}
