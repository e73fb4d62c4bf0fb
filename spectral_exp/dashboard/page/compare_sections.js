/** Parts of the comparison: the difference over steps, and what differs between two runs. */

import { Chart } from "./chart/chart.js";
import { choice, setOptions } from "./controls.js";
import { fetchDifference } from "./difference.js";
import { fill, h } from "./dom.js";
import { RunChoice } from "./run_choice.js";
import { loadDiff } from "./run_settings.js";

/** The difference of two groups over steps: from where on is it separated? */
export class DifferenceSection {
  constructor() {
    this.host = h("div", { class: "chart-host" });
    this.verdict = h("p", { class: "lead", role: "status" });
    this.notes = h("p", { class: "lead faint" });
    this.other = choice("Group", [], "", () => this.load());
    this.title = h("h2", null, "Difference over steps");
    this.element = h(
      "section",
      { "aria-label": "Difference over steps" },
      h("div", { class: "section-head" }, this.title, this.other),
      this.verdict,
      h("div", { class: "chart-card", hidden: true }, this.host),
      this.notes,
    );
  }

  destroy() {
    this.chart?.destroy();
  }

  update(baseline, chosen, selection) {
    this.baseline = baseline;
    this.selection = selection;
    this.others = chosen.filter(({ id }) => id !== baseline.id);
    const present = this.others.find(({ id }) => id === this.other.select.value) ?? this.others[0];
    setOptions(
      this.other.select,
      this.others.map(({ id, label }) => ({ value: id, label })),
      present.id,
    );
    this.other.hidden = this.others.length < 2;
    this.load();
  }

  async load() {
    const group = this.others.find(({ id }) => id === this.other.select.value);
    const turn = (this.turn = {});
    const result = await fetchDifference(group, this.baseline, this.selection);
    if (this.turn !== turn || !this.element.isConnected) return;
    fill(this.verdict, result.sentence);
    fill(this.notes, result.notes?.join("; "));
    this.host.parentElement.hidden = result.series.length === 0;
    if (!result.series.length) return;
    this.chart ??= new Chart(this.host, {
      title: "Difference over steps",
      xLabel: "Step",
      yLabel: "",
      legend: true,
    });
    this.chart.setData(result.series, { yScale: "linear", xKind: "count" });
  }
}

/** What differs in configuration, code and environment between two of the runs. */
export class DiffSection {
  constructor(store) {
    this.store = store;
    this.first = new RunChoice(store, {
      label: "Run",
      except: null,
      onchange: (key) => this.choose({ a: key }),
    });
    this.second = new RunChoice(store, {
      label: "and",
      except: null,
      onchange: (key) => this.choose({ b: key }),
    });
    this.host = h("div");
    this.element = h(
      "section",
      { "aria-label": "Differences in configuration, code and environment" },
      h(
        "div",
        { class: "section-head" },
        h("h2", null, "Configuration, code, environment"),
        this.first.element,
        this.second.element,
      ),
      this.host,
    );
  }

  destroy() {
    this.first.destroy();
    this.second.destroy();
  }

  update(chosen) {
    if (!this.pair) this.choose({ a: chosen[0].keys[0], b: chosen[1].keys[0] });
  }

  async choose(change) {
    this.pair = { ...this.pair, ...change };
    const { a, b } = this.pair;
    this.first.set(a);
    this.second.set(b);
    if (!a || !b) {
      fill(this.host);
      return;
    }
    const content = await loadDiff(a, b);
    if (this.pair.a === a && this.pair.b === b) fill(this.host, content);
  }
}
