/** The controls above the runs table. */

import { isExport, saved } from "./client.js";
import { button, checkbox, choice, menuButton, setOptions } from "./controls.js";
import { toCsv, toLatex, toMarkdown } from "./copy_table.js";
import { fill, h } from "./dom.js";
import { FilterBox } from "./filter.js";
import { editMarks, toggleArchive, togglePin } from "./marks.js";
import { copyText, openDialog, toast } from "./popover.js";
import { addressItem, exportItem, saveFile } from "./save.js";
import { navigate, patchParams, setHash } from "./state.js";

const NO_BASELINE = "";
const MAX_COMPARED = 8;

export class RunsToolbar {
  constructor(page) {
    this.page = page;
    this.filter = new FilterBox({ onchange: (where) => patchParams({ where, show: null }) });
    this.metric = choice("Metric", [], "", (metric) =>
      patchParams({ metric, sort: null, desc: null }),
    );
    this.at = choice("At", [], "final", (at) => this.changeAt(at));
    this.baseline = choice("Baseline", [], NO_BASELINE, (baseline) => patchParams({ baseline }));
    this.archived = checkbox("Archived", false, (on) => patchParams({ archived: on ? "1" : null }));
    this.compare = button("Compare", () => this.openComparison(), {
      title: isExport
        ? "Show the comparison that this file holds"
        : "Compare the groups that are shown",
    });
    this.columnCount = h("span", { class: "count" });
    this.columns = menuButton("Columns", () => this.columnItems());
    this.columns.insertBefore(this.columnCount, this.columns.lastChild);
    this.element = h(
      "div",
      { class: "toolbar" },
      this.filter.element,
      h(
        "div",
        { class: "controls" },
        this.metric,
        this.at,
        this.baseline,
        this.archived,
        h(
          "div",
          { class: "toolbar-actions" },
          this.compare,
          this.columns,
          menuButton("Export", () => this.exportItems()),
          menuButton("More actions", () => this.actionItems(), {
            iconName: "more",
            iconOnly: true,
          }),
        ),
      ),
    );
  }

  draw(params, answer, error) {
    this.filter.set(params.getAll("where"), answer || params.has("where") ? error?.message : null);
    this.archived.input.checked = params.get("archived") === "1";
    if (!answer) return;
    const metrics = answer.metrics.map(({ name }) => name);
    setOptions(this.metric.select, metrics, answer.metric.name);
    const at = answer.at;
    setOptions(
      this.at.select,
      [
        { value: "final", label: "Final" },
        { value: "best", label: "Best" },
        ...(at.startsWith("step:") ? [{ value: at, label: `Step ${at.slice(5)}` }] : []),
        { value: "choose", label: "Step…" },
      ],
      at,
    );
    const labels = answer.rows.map(({ label }) => label);
    setOptions(
      this.baseline.select,
      answer.baseline === null ? [{ value: NO_BASELINE, label: "None" }, ...labels] : labels,
      answer.baseline ?? NO_BASELINE,
    );
    const { size } = this.page.shown ?? new Set();
    this.compare.disabled = isExport ? !saved.comparison : size < 2;
  }

  changeAt(at) {
    if (at !== "choose") {
      patchParams({ at });
      return;
    }
    const present = this.page.groups.answer.at;
    this.at.select.value = present;
    const input = h("input", {
      type: "number",
      min: 1,
      step: 1,
      required: true,
      value: present.startsWith("step:") ? present.slice(5) : "",
    });
    const choose = (event) => {
      event.preventDefault();
      dialog.close();
      patchParams({ at: `step:${input.value}` });
    };
    const explanation = "Each run counts with its last value up to this step.";
    const form = h(
      "form",
      { class: "form", onsubmit: choose },
      h("label", null, h("span", null, "Step"), input),
      h("p", { class: "faint" }, explanation),
      h(
        "div",
        { class: "row end" },
        button("Show", null, { type: "submit", class: "button primary" }),
      ),
    );
    const dialog = openDialog("Values at a step", form);
    input.focus();
  }

  openComparison() {
    if (isExport) {
      setHash(saved.comparison);
      return;
    }
    const { page } = this;
    const ids = [...page.shown].slice(0, MAX_COMPARED);
    if (page.shown.size > MAX_COMPARED) toast(`Comparing the first ${MAX_COMPARED} groups.`);
    const params = new URLSearchParams();
    for (const name of ["where", "group_by", "metric", "at", "baseline", "archived"]) {
      for (const value of page.params.getAll(name)) params.append(name, value);
    }
    params.set("groups", ids.join(","));
    navigate("compare", "", params);
  }

  tableContent() {
    const columns = this.page.columns.filter(({ isTitleHidden }) => !isTitleHidden);
    const rows = this.page.rows.filter(({ kind }) => kind === "group");
    // A column without any text says nothing in a copy.
    return [columns.filter((column) => rows.some((row) => column.text(row))), rows];
  }

  /** Show how many of the columns are in the table. */
  drawColumns() {
    const { all, columns } = this.page.table;
    const count = (list) => list.filter(({ isTitleHidden }) => !isTitleHidden).length;
    const [shown, total] = [count(columns), count(all)];
    fill(this.columnCount, shown < total && `${shown} of ${total}`);
  }

  columnItems() {
    const { page } = this;
    const shown = new Set(page.table.columns.map(({ id }) => id));
    const items = page.table.all
      .filter(({ rank }) => rank !== undefined)
      .map(({ id, title }) => ({
        label: title,
        checked: shown.has(id),
        act: () => page.toggleColumn(id),
      }));
    const automatic = {
      label: "As many as fit",
      act: () => patchParams({ col: null }),
    };
    return [...items, null, automatic];
  }

  exportItems() {
    const content = () => this.tableContent();
    return [
      {
        label: "Copy as Markdown",
        act: () => copyText(toMarkdown(...content()), "the table as Markdown"),
      },
      { label: "Copy as LaTeX", act: () => copyText(toLatex(...content()), "the table as LaTeX") },
      { label: "Copy as CSV", act: () => copyText(toCsv(...content()), "the table as CSV") },
      { label: "Save as CSV", act: () => saveFile("runs.csv", toCsv(...content()), "text/csv") },
      null,
      { label: "Copy as command", hint: "c", act: () => this.page.copyCommand() },
      ...addressItem(),
      ...exportItem(),
    ];
  }

  actionItems() {
    const { page } = this;
    const { store } = page;
    const row = page.rows.find(({ id }) => id === page.active);
    const runs = row?.runs ?? [];
    const disabled = runs.length === 0;
    const of = row ? `: ${row.label}` : "";
    return [
      { label: `Pin${of}`, hint: "p", disabled, act: () => togglePin(store, runs) },
      {
        label: `Archive or restore${of}`,
        hint: "h",
        disabled,
        act: () => toggleArchive(store, runs),
      },
      { label: `Edit tags${of}`, hint: "m", disabled, act: () => editMarks(store, runs) },
      null,
      { label: "Expand or collapse all", hint: "g", act: () => page.toggleAll() },
    ];
  }
}
