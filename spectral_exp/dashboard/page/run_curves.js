/** The curves of a run, live, with another run beside it if wanted; system metrics likewise. */

import { ChartsPanel } from "./charts_panel.js";
import { resolveColors } from "./colors.js";
import { RunChoice } from "./run_choice.js";

const SYSTEM = /^(system|gpu|cpu|host)([/._]|$)/;

/** Whether a run has metrics of the machine. */
export function hasSystemMetrics(facts) {
  return facts.metrics.some(isSystem);
}

function isSystem({ name }) {
  return SYSTEM.test(name);
}

export class CurvesTab {
  constructor(host, page) {
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
    });
  }

  /** Whether a metric belongs to this tab. */
  includes(metric) {
    return !isSystem(metric);
  }

  update(facts, params) {
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
    const metrics = facts.metrics.filter((metric) => this.includes(metric));
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

export class SystemTab extends CurvesTab {
  includes(metric) {
    return isSystem(metric);
  }
}
