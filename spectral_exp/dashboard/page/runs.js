/** The runs page: filter, table of groups, charts. */

import { ChartsPanel, changesChartsAlone } from "./charts_panel.js";
import { resolveColors } from "./colors.js";
import { narrowScreen, runColumns } from "./columns.js";
import { emptyState } from "./controls.js";
import { bdi, fill, h } from "./dom.js";
import { GroupsModel, groupQuery, selectionOf } from "./groups.js";
import { editMarks, toggleArchive, togglePin } from "./marks.js";
import { copyText, openDialog, sourceDetails } from "./popover.js";
import { groupRows, runRows } from "./runs_rows.js";
import { RunsToolbar } from "./runs_toolbar.js";
import { formatHash, idList, navigate, patchParams } from "./state.js";
import { VirtualTable } from "./table.js";

const SHOWN_AT_FIRST = 8;
const CLOCK_MS = 10000;

export class RunsPage {
  constructor(main, { store, params }) {
    this.store = store;
    this.params = params;
    this.active = null;
    this.rows = [];
    this.columns = [];
    this.groups = new GroupsModel(store, { quick: true });
    this.groups.addEventListener("change", () => this.draw());
    this.toolbar = new RunsToolbar(this);
    this.message = h("div");
    this.notes = h("div", { class: "notes" });
    this.tableHost = h("section", { class: "table-host", "aria-label": "Groups" });
    this.chartsHost = h("section", { class: "charts-host", "aria-label": "Charts" });
    main.append(
      h("h1", { class: "for-screen-readers" }, "Runs"),
      this.toolbar.element,
      this.message,
      this.tableHost,
      this.notes,
      this.chartsHost,
    );
    this.table = new VirtualTable(this.tableHost, {
      label: "Groups of runs",
      onSort: (id) => this.sortBy(id),
      onColumns: () => this.toolbar.drawColumns(),
      rowProps: (row) => this.rowProps(row),
    });
    this.tableHost.addEventListener("click", (event) => this.onRowClick(event));
    this.charts = new ChartsPanel(this.chartsHost, store);
    // The ages in the table grow.
    this.clock = setInterval(() => this.table.redraw(), CLOCK_MS);
    this.onStatus = () => this.draw();
    store.addEventListener("status", this.onStatus);
    narrowScreen.addEventListener("change", this.onStatus);
    this.update(params);
  }

  destroy() {
    this.store.removeEventListener("status", this.onStatus);
    narrowScreen.removeEventListener("change", this.onStatus);
    clearInterval(this.clock);
    this.groups.destroy();
    this.table.destroy();
    this.charts.destroy();
  }

  update(params) {
    const { answer } = this.groups;
    const isOfCharts = answer && !answer.is_outline && changesChartsAlone(this.params, params);
    this.params = params;
    if (isOfCharts) {
      this.drawCharts(answer);
      return;
    }
    this.groups.setQuery(groupQuery(params));
    this.draw();
  }

  draw() {
    const { answer, error } = this.groups;
    if (answer) this.shown = this.shownIds(answer);
    this.toolbar.draw(this.params, answer, error);
    const isEmpty = !answer || answer.rows.length === 0;
    this.tableHost.hidden = isEmpty;
    // The first groups, whose curves are shown, are known once all are compared.
    this.chartsHost.hidden = isEmpty || answer.is_outline;
    fill(this.message, this.messageContent());
    this.toolbar.element.hidden = this.hasNoRuns();
    if (isEmpty) {
      fill(this.notes);
      return;
    }
    this.drawTable(answer);
    if (answer.is_outline) return;
    this.drawNotes(answer);
    this.drawCharts(answer);
  }

  hasNoRuns() {
    const { facts, rows, loaded } = this.store;
    return loaded && rows.size === 0 && facts.complete;
  }

  messageContent() {
    const { answer, error } = this.groups;
    const { facts } = this.store;
    if (this.hasNoRuns()) return noRuns(facts);
    if (answer?.is_outline) return loading(`Comparing ${answer.rows.length} groups`);
    if (answer?.rows.length) return answer.problem && h("p", { class: "notice" }, answer.problem);
    if (error && answer) return null;
    if (error) return emptyState("The runs cannot be grouped.", error.message, allRunsLink());
    if (!answer || !facts.complete)
      return loading("Reading runs");
    if (answer.left_out.length && !this.params.getAll("where").length) {
      return emptyState("No run can be compared yet.", ...answer.left_out.map(leftOutText));
    }
    return emptyState("No run meets the filter.", allRunsLink());
  }

  // Rows

  drawTable(answer) {
    const sort = { id: this.params.get("sort"), descending: this.params.get("desc") === "1" };
    this.openIds = new Set(idList(this.params, "open") ?? []);
    this.styles = resolveColors(answer.rows.filter(({ id }) => this.shown.has(id)));
    const columns = runColumns(answer, this);
    const column = columns.find(({ id, sort: value }) => id === sort.id && value);
    const { store, styles } = this;
    const groups = groupRows(answer, { store, styles, column, descending: sort.descending });
    this.rows = groups.flatMap((row) =>
      this.openIds.has(row.id) ? [row, ...runRows(row)] : [row],
    );
    this.columns = columns.filter(
      ({ isOptional, text }) => !isOptional || this.rows.some((row) => text(row)),
    );
    if (!this.rows.some(({ id }) => id === this.active)) this.active = null;
    const chosen = this.params.has("col") ? new Set(this.params.getAll("col")) : null;
    this.table.setContent(this.columns, this.rows, sort, chosen);
    this.toolbar.drawColumns();
  }

  /** Show or hide a column; from then on the columns no longer depend on the width. */
  toggleColumn(id) {
    const ranked = this.table.columns.filter(({ rank }) => rank !== undefined);
    const ids = new Set(ranked.map((column) => column.id));
    if (!ids.delete(id)) ids.add(id);
    patchParams({ col: ids.size ? [...ids] : "none" });
  }

  // Without a choice, the baseline and the best groups once all runs are read: an update that
  // changes the order does not exchange the curves.
  shownIds(answer) {
    const chosen = idList(this.params, "show");
    if (chosen) return new Set(chosen);
    const ids = new Set(answer.rows.map(({ id }) => id));
    const question = JSON.stringify(this.groups.answeredQuery);
    if (this.shownFor !== question) this.firstShown = [];
    this.shownFor = this.groups.isComplete ? question : null;
    const sorted = groupRows(answer, { store: this.store, styles: new Map() });
    const baseline = sorted.filter(({ isBaseline }) => isBaseline);
    const order = [...this.firstShown, ...[...baseline, ...sorted].map(({ id }) => id)];
    const wanted = [...new Set(order)].filter((id) => ids.has(id));
    this.firstShown = wanted.slice(0, SHOWN_AT_FIRST);
    return new Set(this.firstShown);
  }

  rowProps(row) {
    const classes = [`row-${row.kind}`, row.id === this.active && "active"].filter(Boolean);
    return { class: classes.join(" ") };
  }

  // What the columns ask

  isShown(id) {
    return this.shown.has(id);
  }

  isOpen(id) {
    return this.openIds.has(id);
  }

  now() {
    return this.store.now();
  }

  toggleShown(id) {
    const shown = new Set(this.shown);
    if (!shown.delete(id)) shown.add(id);
    // An empty list is a choice too, unlike a missing one.
    patchParams({ show: shown.size ? [...shown].join(",") : "none" });
  }

  toggleOpen(id) {
    const open = new Set(this.openIds);
    if (!open.delete(id)) open.add(id);
    patchParams({ open: [...open].join(",") });
  }

  sortBy(id) {
    const present = this.params.get("sort");
    const descending = this.params.get("desc") === "1";
    if (id !== present) patchParams({ sort: id, desc: null });
    else if (!descending) patchParams({ desc: "1" });
    else patchParams({ sort: null, desc: null });
  }

  // Charts and notes

  drawCharts(answer) {
    const sources = answer.rows
      .filter(({ id }) => this.shown.has(id))
      .map((group) => ({
        id: group.id,
        label: group.label,
        keys: group.keys,
        isGroup: true,
        ...this.styles.get(group.id),
      }));
    const metrics = answer.metrics.filter(({ curve }) => curve);
    const first = metrics.findIndex(({ name }) => name === answer.metric.name);
    if (first > 0) metrics.unshift(...metrics.splice(first, 1));
    this.charts.draw({
      params: this.params,
      metrics,
      sources,
      selection: selectionOf(this.groups.answeredQuery),
    });
  }

  drawNotes(answer) {
    const left = [...this.store.leftOut, ...answer.left_out];
    const part = (title, items) =>
      items.length > 0 && [
        h("h3", null, title),
        h(
          "ul",
          null,
          items.map((item) => h("li", null, item)),
        ),
      ];
    const count = answer.notes.length + left.length;
    const isOpen = this.notes.querySelector("details")?.open ?? false;
    fill(
      this.notes,
      count > 0 &&
        h(
          "details",
          { open: isOpen },
          h("summary", null, "Notes ", h("span", { class: "count" }, count)),
          part("About this comparison", answer.notes),
          part("Left out", left.map(leftOutText)),
        ),
    );
  }

  // Keyboard and pointer

  onRowClick(event) {
    const row = event.target.closest("tr[data-id]");
    if (row) this.activate(row.dataset.id);
  }

  activate(id) {
    this.active = id;
    for (const row of this.table.body.rows) row.classList.toggle("active", row.dataset.id === id);
  }

  move(offset) {
    if (!this.rows.length) return;
    const index = this.rows.findIndex(({ id }) => id === this.active);
    const next = index < 0 ? 0 : Math.max(0, Math.min(this.rows.length - 1, index + offset));
    this.table.reveal(next);
    this.activate(this.rows[next].id);
  }

  withActive(act) {
    const row = this.rows.find(({ id }) => id === this.active);
    if (row) act(row, row.runs);
  }

  showSources(row) {
    const numbers = this.columns
      .filter((column) => column.number?.(row)?.source)
      .map((column) => [h("h3", null, column.title), sourceDetails(column.number(row))]);
    openDialog(`Sources: ${row.label}`, h("div", { class: "sources" }, numbers));
  }

  toggleAll() {
    const ids = this.rows.filter(({ kind }) => kind === "group").map(({ id }) => id);
    patchParams({ open: ids.every((id) => this.openIds.has(id)) ? null : ids.join(",") });
  }

  get shortcuts() {
    const onRow = (act) => () => this.withActive(act);
    const onGroup = (act) => onRow((row) => row.group && act(row));
    return [
      { key: "/", label: "Filter", act: () => this.toolbar.filter.focus() },
      { key: "j", label: "Next row", act: () => this.move(1) },
      { key: "k", label: "Previous row", act: () => this.move(-1) },
      {
        key: "o",
        label: "Open the run",
        act: onRow((_, [run]) => run && navigate("run", run.key)),
      },
      {
        key: "x",
        label: "Show or hide the group in the charts",
        act: onGroup(({ id }) => this.toggleShown(id)),
      },
      {
        key: "e",
        label: "Expand or collapse the group",
        act: onGroup(({ id }) => this.toggleOpen(id)),
      },
      { key: "g", label: "Expand or collapse all groups", act: () => this.toggleAll() },
      {
        key: "b",
        label: "Make the group the baseline",
        act: onGroup(({ label }) => patchParams({ baseline: label })),
      },
      {
        key: "i",
        label: "Show where the numbers come from",
        act: onRow((row) => this.showSources(row)),
      },
      { key: "p", label: "Pin", act: onRow((_, runs) => togglePin(this.store, runs)) },
      {
        key: "h",
        label: "Hide: archive, or restore",
        act: onRow((_, runs) => toggleArchive(this.store, runs)),
      },
      {
        key: "m",
        label: "Edit tags and note",
        act: onRow((_, runs) => editMarks(this.store, runs)),
      },
      { key: "l", label: "Logarithmic y in the charts", act: () => this.charts.toggleLog() },
      { key: "c", label: "Copy as command", act: () => this.copyCommand() },
    ];
  }

  copyCommand() {
    const command = this.groups.answer?.command;
    if (command) copyText(command, "the command");
  }
}

function allRunsLink() {
  return h("a", { href: formatHash("runs") }, "Show all runs");
}

function leftOutText({ path, reason }) {
  return [bdi(path), ": ", reason];
}

function loading(text) {
  return h("p", { class: "loading", role: "status" }, text);
}

function noRuns(facts) {
  return emptyState(
    "No runs yet",
    facts.folders.length > 0 && ["Looking in ", bdi(facts.folders.join(", ")), "."],
    "A run appears here as soon as it starts:",
    h("code", null, "python -m spectral_exp.train +experiment=wave_rgd"),
  );
}
