/** The legend below a chart: one button for each series, which shows or hides it. */

import { seriesColor } from "./theme.js";

export class Legend {
  constructor(chart, parent) {
    this.chart = chart;
    this.box = document.createElement("div");
    this.box.className = "chart-legend";
    this.written = "";
    parent.append(this.box);
    this.box.addEventListener("click", (event) => this.toggle(event));
    this.box.addEventListener("pointerover", (event) => this.highlight(event));
    this.box.addEventListener("pointerleave", () => chart.setView({ highlight: null }));
  }

  /** Write the entries again if they differ. */
  update() {
    const { list, view, theme } = this.chart;
    const entries = list.map((series) => ({
      key: series.key,
      label: series.label,
      color: seriesColor(theme, series),
      isHidden: view.hidden.includes(series.key),
    }));
    const text = JSON.stringify(entries);
    if (text === this.written) return;
    this.written = text;
    const focused = document.activeElement?.dataset?.key;
    this.box.replaceChildren(...entries.map(createEntry));
    for (const button of this.box.children) if (button.dataset.key === focused) button.focus();
  }

  toggle(event) {
    const key = event.target.closest("button")?.dataset.key;
    if (key === undefined) return;
    const { hidden } = this.chart.view;
    const changed = hidden.includes(key)
      ? hidden.filter((other) => other !== key)
      : [...hidden, key];
    this.chart.setView({ hidden: changed, highlight: null });
    this.chart.options.onHide?.(changed);
  }

  highlight(event) {
    const key = event.target.closest("button")?.dataset.key ?? null;
    if (key !== this.chart.view.highlight) this.chart.setView({ highlight: key });
  }
}

function createEntry({ key, label, color, isHidden }) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "chart-legend-entry";
  button.dataset.key = key;
  button.setAttribute("aria-pressed", String(!isHidden));
  button.title = label;
  const swatch = document.createElement("span");
  swatch.className = "chart-swatch";
  swatch.style.backgroundColor = color;
  const name = document.createElement("span");
  name.className = "chart-legend-name";
  name.textContent = label;
  button.append(swatch, name);
  return button;
}
