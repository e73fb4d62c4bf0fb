/** The curves of a run, live, with another run beside it if wanted, and those of its machine. */

import { fetchSystem } from "./api.js";
import { ChartsPanel } from "./charts_panel.js";
import { ApiError, ServerGone, getJson } from "./client.js";
import { resolveColors } from "./colors.js";
import { fill, h } from "./dom.js";
import { RunChoice } from "./run_choice.js";

/** Whether the machine of a run was measured. */
export function hasSystemMetrics(facts) {
  return facts.has_system;
}

export class CurvesTab {
  constructor(host, page, options = {}) {
    this.page = page;
    this.other = new RunChoice(page.store, {
      label: "Beside",
      except: page.key,
      onchange: (key) => page.patch({ beside: key }),
    });
    this.panel = new ChartsPanel(host, page.store, {
      withBand: false,
      legend: true,
      extra: [this.other.element],
      ...options,
    });
  }

  update({ metrics }, params) {
    this.draw(metrics, params);
  }

  draw(metrics, params) {
    const beside = params.get("beside");
    this.other.set(beside);
    const rows = [this.page.row, this.page.store.rows.get(beside)].filter(Boolean);
    const styles = resolveColors(rows.map(({ key, color }) => ({ id: key, color })));
    const sources = rows.map((row) => ({
      id: row.key,
      label: row.id,
      keys: [row.key],
      isGroup: false,
      ...styles.get(row.key),
    }));
    this.panel.draw({ params, metrics, sources });
  }

  toggleLog() {
    this.panel.toggleLog();
  }

  destroy() {
    this.panel.destroy();
    this.other.destroy();
  }
}

/** The machine over the time since its first measurement. */
export class SystemTab extends CurvesTab {
  constructor(host, page) {
    super(host, page, { fetchRuns: fetchSystem, onlyX: "wall_s" });
    this.facts = null;
    this.metrics = null;
    this.problem = h("div", { role: "status" });
    host.prepend(this.problem);
  }

  update(facts, params) {
    this.params = params;
    if (this.metrics) this.draw(this.metrics, params);
    if (facts === this.facts) return;
    this.facts = facts;
    this.load();
  }

  // The facts of the run do not hold the metrics: the file takes a second to read if it is large.
  async load() {
    let problem = null;
    try {
      const answer = await getJson(`api/run/${encodeURIComponent(this.page.key)}/system`);
      this.metrics = answer.metrics;
    } catch (error) {
      if (!(error instanceof ApiError || error instanceof ServerGone)) throw error;
      problem = error.message;
    }
    if (this.isDestroyed) return;
    fill(this.problem, problem && h("p", { class: "notice" }, problem));
    if (this.metrics) this.draw(this.metrics, this.params);
  }

  destroy() {
    this.isDestroyed = true;
    super.destroy();
  }
}
