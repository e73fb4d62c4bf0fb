/** The comparison of two to eight groups: tables, difference over steps, figures, settings. */

import { ApiError, ServerGone, getJson, isExport, saved } from "./client.js";
import { resolveColors } from "./colors.js";
import { button, choice, emptyState, menuButton, setOptions, throttle } from "./controls.js";
import { bdi, fill, h, icon } from "./dom.js";
import { GroupsModel, groupQuery, selectionOf } from "./groups.js";
import { copyText, openDialog } from "./popover.js";
import { DiffSection, DifferenceSection } from "./compare_sections.js";
import { FiguresSection } from "./compare_figures.js";
import { comparisonTable, tableSources } from "./compare_table.js";
import { exportItem } from "./save.js";
import { idList, lastHash, patchParams, setHash } from "./state.js";

const MAX_GROUPS = 8;
const REFRESH_MS = 3000;

export class ComparePage {
  constructor(main, { store, params }) {
    this.store = store;
    this.params = params;
    /** Why the server does not answer the present question, or null. */
    this.problem = null;
    this.groups = new GroupsModel(store);
    this.groups.addEventListener("change", () => this.draw());
    this.loadSoon = throttle(() => this.load(), REFRESH_MS);
    this.chips = h("div", { class: "group-chips" });
    this.metric = choice("Metric", [], "", (metric) => patchParams({ metric }));
    this.baseline = choice("Baseline", [], "", (baseline) => patchParams({ baseline }));
    this.controls = h(
      "div",
      { class: "controls" },
      this.metric,
      this.baseline,
      button("Copy as command", () => this.copyCommand()),
      exportItem().map(({ label, act }) => button(label, act)),
    );
    this.message = h("div");
    this.tables = h("section", { "aria-label": "Tables" });
    this.difference = new DifferenceSection();
    this.figures = new FiguresSection();
    this.diff = new DiffSection(store);
    this.content = h(
      "div",
      null,
      this.tables,
      this.difference.element,
      this.figures.element,
      this.diff.element,
    );
    main.append(
      h("h1", null, "Compare"),
      this.chips,
      this.controls,
      this.message,
      this.content,
    );
    this.update(params);
  }

  destroy() {
    this.isDestroyed = true;
    this.loadSoon.cancel();
    this.groups.destroy();
    this.difference.destroy();
    this.diff.destroy();
    this.figures.destroy();
  }

  update(params) {
    this.params = params;
    this.groups.setQuery(groupQuery(params));
    this.draw();
  }

  /** The chosen groups that there are, in the order in which they were chosen. */
  get chosen() {
    const { answer } = this.groups;
    if (!answer) return [];
    const byId = new Map(answer.rows.map((group) => [group.id, group]));
    const ids = idList(this.params, "groups") ?? [];
    return ids
      .map((id) => byId.get(id))
      .filter(Boolean)
      .slice(0, MAX_GROUPS);
  }

  /** Replace runs in the address by their groups. */
  resolveRuns(answer) {
    const runs = new Set(idList(this.params, "runs") ?? []);
    const ofRuns = answer.rows.filter(({ keys }) => keys.some((key) => runs.has(key)));
    const ids = [...(idList(this.params, "groups") ?? []), ...ofRuns.map(({ id }) => id)];
    patchParams({ groups: [...new Set(ids)].join(","), runs: null });
  }

  draw() {
    const { answer, error } = this.groups;
    if (!answer) {
      this.controls.hidden = this.content.hidden = true;
      fill(
        this.message,
        error
          ? emptyState("The runs cannot be compared.", error.message)
          : h("p", { class: "loading", role: "status" }, "Reading runs"),
      );
      return;
    }
    if (this.params.has("runs") && this.store.facts.complete) {
      this.resolveRuns(answer);
      return;
    }
    const { chosen } = this;
    this.drawControls(answer, chosen);
    this.controls.hidden = chosen.length < 2;
    if (chosen.length < 2) {
      this.content.hidden = true;
      fill(this.message, isExport ? savedState() : choiceState(chosen.length, answer.rows.length));
      return;
    }
    const question = JSON.stringify([this.groups.answeredQuery, chosen.map(({ id }) => id)]);
    if (question !== this.question) this.problem = null;
    this.drawProblem(error ?? this.problem);
    if (question !== this.question) {
      this.question = question;
      this.load();
    } else this.loadSoon();
  }

  /** Show what is wrong; of a question without an answer nothing else is shown. */
  drawProblem(problem) {
    fill(this.message, problem && h("p", { class: "notice" }, problem.message));
    this.content.hidden = this.problem !== null;
  }

  drawControls(answer, chosen) {
    const styles = resolveColors(chosen);
    const ids = chosen.map(({ id }) => id);
    const set = (groups) => patchParams({ groups: groups.join(",") });
    const chip = ({ id, label, n }) =>
      h(
        "span",
        { class: `group-chip series-${styles.get(id).color}` },
        h("span", { class: "swatch-mark" }),
        bdi(label, { title: label }),
        h("small", null, `n=${n}`),
        !isExport &&
          h(
            "button",
            {
              type: "button",
              "aria-label": `Remove ${label}`,
              onclick: () => set(ids.filter((other) => other !== id)),
            },
            icon("close"),
          ),
      );
    const others = answer.rows.filter(({ id }) => !ids.includes(id));
    const add =
      !isExport &&
      others.length > 0 &&
      chosen.length < MAX_GROUPS &&
      menuButton(
        "Add group",
        () => others.map(({ id, label }) => ({ label, act: () => set([...ids, id]) })),
        { iconName: "plus" },
      );
    // The menu button stays while it is open: it is replaced only with the groups.
    const signature = JSON.stringify([
      chosen.map(({ id, label, n }) => [id, label, n]),
      others.map(({ id }) => id),
    ]);
    if (signature !== this.chipSignature) {
      this.chipSignature = signature;
      fill(this.chips, chosen.map(chip), add);
    }
    setOptions(
      this.metric.select,
      answer.metrics.map(({ name }) => name),
      answer.metric.name,
    );
    this.baselineGroup = chosen.find(({ label }) => label === answer.baseline) ?? chosen[0];
    setOptions(
      this.baseline.select,
      chosen.map(({ label }) => label),
      this.baselineGroup?.label ?? "",
    );
    // A file holds the answers to one question.
    for (const { select } of [this.metric, this.baseline]) select.disabled = isExport;
  }

  async load() {
    const { question, chosen } = this;
    if (chosen.length < 2) return;
    const query = {
      ...this.groups.answeredQuery,
      metric: this.groups.answer.metric.name,
      baseline: this.baselineGroup.label,
      groups: chosen.map(({ id }) => id),
    };
    try {
      const answer = await getJson("api/compare", query);
      if (this.question !== question || this.isDestroyed) return;
      this.problem = null;
      this.drawProblem(null);
      this.command = answer.command;
      this.shownTables = answer.tables;
      fill(this.tables, answer.tables.map(comparisonTable), notes(answer.notes));
      this.figures.update(query, JSON.stringify([question, answer.tables]));
    } catch (error) {
      if (!(error instanceof ApiError || error instanceof ServerGone)) throw error;
      if (this.question !== question || this.isDestroyed) return;
      if (error instanceof ApiError) this.problem = error;
      this.drawProblem(error);
    }
    if (this.isDestroyed || this.problem) return;
    this.difference.update(this.baselineGroup, chosen, {
      ...selectionOf(this.groups.answeredQuery),
      metric: query.metric,
    });
    this.diff.update(chosen);
  }

  showSources() {
    if (!this.shownTables) return;
    openDialog("Sources", h("div", { class: "sources" }, this.shownTables.map(tableSources)));
  }

  copyCommand() {
    const command = this.command ?? this.groups.answer?.command;
    if (command) copyText(command, "the command");
  }

  get shortcuts() {
    return [
      {
        key: "i",
        label: "Show where the numbers come from",
        act: () => this.showSources(),
      },
      { key: "c", label: "Copy as command", act: () => this.copyCommand() },
      {
        key: "u",
        label: "Back to the runs",
        act: () => {
          setHash(lastHash("runs"));
        },
      },
    ];
  }
}

function choiceState(count, all) {
  if (all < 2) {
    return emptyState("Nothing to compare yet", "A comparison needs two groups of runs.");
  }
  const text = count
    ? "Add at least one more group."
    : "Add groups above, or show groups on the runs page and press Compare.";
  return emptyState("Choose two to eight groups", text);
}

function savedState() {
  const { comparison } = saved;
  return comparison
    ? emptyState("This is not in the file", h("a", { href: comparison }, "Show its comparison"))
    : emptyState("This file holds no comparison", "A file saved from the page Compare has one.");
}

function notes(parts) {
  const count = parts.reduce((total, part) => total + part.notes.length, 0);
  const list = (items) =>
    h(
      "ul",
      null,
      items.map((text) => h("li", null, text)),
    );
  return (
    count > 0 &&
    h(
      "details",
      { class: "notes", open: true },
      h("summary", null, "Notes ", h("span", { class: "count" }, count)),
      parts.map(({ title, notes: items }) => [h("h3", null, title), list(items)]),
    )
  );
}
