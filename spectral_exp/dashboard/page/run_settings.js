/** The settings of a run and what else made it; differences from the defaults or another run. */

import { ApiError, ServerGone, getJson } from "./client.js";
import { checkbox, emptyState } from "./controls.js";
import { bdi, fill, h } from "./dom.js";
import { RunChoice } from "./run_choice.js";
import { simpleTable } from "./run_facts.js";

const DEFAULTS = "defaults";
const SECTIONS = [
  ["attempts", "Attempts"],
  ["data", "Data"],
  ["model", "Model"],
  ["code", "Code"],
  ["packages", "Packages"],
  ["hardware", "Hardware"],
  ["results", "Results"],
];

export class SettingsTab {
  constructor(host, page) {
    this.page = page;
    this.diffHost = h("div");
    this.tableHost = h("div");
    this.sectionsHost = h("div", { class: "sections" });
    this.search = h("input", {
      type: "search",
      placeholder: "Find settings",
      "aria-label": "Find settings",
      oninput: () => this.drawTable(),
    });
    this.onlyChanged = checkbox("Only changed", false, () => this.drawTable());
    this.against = new RunChoice(page.store, {
      label: "Difference to",
      except: page.key,
      extra: [{ value: DEFAULTS, label: "The defaults" }],
      onchange: (key) => page.patch({ against: key }),
    });
    host.append(
      h("div", { class: "controls" }, this.search, this.onlyChanged, this.against.element),
      this.diffHost,
      this.tableHost,
      this.sectionsHost,
    );
  }

  destroy() {
    this.against.destroy();
  }

  update(facts, params) {
    const against = params.get("against") ?? "";
    this.against.set(against);
    if (against !== this.shownDiff) this.showDiff(against);
    const signature = JSON.stringify([facts.settings, ...SECTIONS.map(([name]) => facts[name])]);
    if (signature === this.signature) return;
    this.signature = signature;
    this.facts = facts;
    this.drawTable();
    this.drawSections();
  }

  async showDiff(against) {
    this.shownDiff = against;
    this.onlyChanged.input.checked = against === DEFAULTS;
    if (this.facts) this.drawTable();
    if (!against || against === DEFAULTS) {
      fill(this.diffHost);
      return;
    }
    const differences = await loadDiff(this.page.key, against);
    if (this.shownDiff !== against) return;
    const title = (text) => h("h2", null, text);
    fill(this.diffHost, title("Differences"), differences, title("All settings"));
  }

  drawTable() {
    const { settings, has_defaults: hasDefaults } = this.facts;
    const text = this.search.value.trim().toLowerCase();
    const matches = ({ name, value }) => `${name} ${value}`.toLowerCase().includes(text);
    // Runs of earlier versions have not recorded the defaults.
    const isChanged = (item) => (hasDefaults ? item.changed : item.overridden);
    const onlyChanged = this.onlyChanged.input.checked;
    const shown = settings.filter((item) => matches(item) && (!onlyChanged || isChanged(item)));
    const columns = [
      {
        title: "Setting",
        cell: (item) => h("span", { class: isChanged(item) ? "changed" : null }, bdi(item.name)),
      },
      { title: "Value", cell: ({ value }) => bdi(value) },
      hasDefaults && { title: "Default", cell: defaultOf },
      {
        title: "Origin",
        cell: ({ overridden }) => overridden && h("span", { class: "tag" }, "command line"),
      },
    ].filter(Boolean);
    fill(
      this.tableHost,
      shown.length
        ? simpleTable("Settings", columns, shown)
        : emptyState(settings.length ? "No setting matches." : "No settings are recorded."),
    );
  }

  drawSections() {
    const { overrides } = this.facts;
    const parts = SECTIONS.map(([name, title]) => section(title, this.facts[name])).filter(Boolean);
    const lines = overrides?.length
      ? h("pre", { class: "block", tabindex: "0" }, overrides.join("\n"))
      : null;
    fill(this.sectionsHost, lines && h("section", null, h("h2", null, "Overrides"), lines), parts);
  }
}

/** Return the differences of two runs, as `config-diff` prints them. */
export async function loadDiff(a, b) {
  try {
    const { sections } = await getJson("api/diff", { a, b });
    const differing = sections.filter(({ lines }) => lines.length);
    const same = sections.filter(({ lines }) => !lines.length).map(({ title }) => title);
    return [
      differing.map(({ title, lines }) => [
        h("h3", null, title),
        h("pre", { class: "block", tabindex: "0" }, lines.join("\n")),
      ]),
      same.length > 0 && h("p", { class: "lead" }, `The same in both: ${same.join(", ")}.`),
    ];
  } catch (error) {
    if (!(error instanceof ApiError || error instanceof ServerGone)) throw error;
    return h("p", { class: "notice" }, error.message);
  }
}

function defaultOf({ changed, default: value }) {
  if (!changed) return h("span", { class: "faint" }, "the same");
  return value === null ? h("span", { class: "faint" }, "none") : bdi(value);
}

function section(title, value) {
  if (value === null || value === undefined) return null;
  if (Array.isArray(value) ? value.length === 0 : Object.keys(value).length === 0) return null;
  return h(
    "section",
    null,
    h("h2", null, title),
    Array.isArray(value) ? listOf(value, title) : pairs(value),
  );
}

function listOf(items, label) {
  if (!items.every((item) => item && typeof item === "object")) {
    return h(
      "ul",
      null,
      items.map((item) => h("li", null, bdi(valueText(item)))),
    );
  }
  const names = [...new Set(items.flatMap((item) => Object.keys(item)))];
  const columns = names.map((name) => ({
    title: name.replaceAll("_", " "),
    cell: (item) => bdi(valueText(item[name] ?? "")),
  }));
  return simpleTable(label, columns, items);
}

function pairs(value) {
  const entries = flatten(value);
  return h(
    "dl",
    { class: "pairs" },
    entries.map(([name, text]) => [h("dt", null, bdi(name)), h("dd", null, bdi(text))]),
  );
}

function flatten(value, prefix = "") {
  return Object.entries(value).flatMap(([name, item]) => {
    if (item === null || item === undefined) return [];
    const path = prefix + name.replaceAll("_", " ");
    if (typeof item === "object" && !Array.isArray(item)) return flatten(item, `${path} · `);
    return [[path, valueText(item)]];
  });
}

function valueText(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}
