/** The page of one run: its head, and tabs that are built when they are opened. */

import { ApiError, ServerGone, getJson, isExport } from "./client.js";
import { statusMark, runStatusText } from "./columns.js";
import { button, emptyState, menuButton, throttle } from "./controls.js";
import { bdi, fill, h, icon } from "./dom.js";
import { formatAgo, formatTime } from "./format.js";
import { editMarks, toggleArchive, togglePin } from "./marks.js";
import { copyText } from "./popover.js";
import { CheckpointsTab, CostTab, FilesTab } from "./run_facts.js";
import { CurvesTab, SystemTab, hasSystemMetrics } from "./run_curves.js";
import { InsideTab } from "./run_inside.js";
import { LogTab } from "./run_log.js";
import { SamplesTab } from "./run_samples.js";
import { SettingsTab } from "./run_settings.js";
import { formatHash, navigate, patchParams } from "./state.js";

const REFRESH_MS = 2000;

/** A tab is a class with `update(facts, params)`, `watched()` and `destroy()`. */
const TABS = [
  { name: "curves", label: "Curves", Tab: CurvesTab },
  { name: "inside", label: "Inside", Tab: InsideTab },
  { name: "samples", label: "Samples", Tab: SamplesTab },
  { name: "log", label: "Log", Tab: LogTab },
  { name: "settings", label: "Settings", Tab: SettingsTab },
  { name: "checkpoints", label: "Checkpoints", Tab: CheckpointsTab },
  { name: "cost", label: "Cost", Tab: CostTab },
  { name: "system", label: "System", Tab: SystemTab, isPresent: hasSystemMetrics },
  { name: "files", label: "Files", Tab: FilesTab },
];

export class RunPage {
  constructor(main, { store, key, params, setTitle }) {
    this.store = store;
    this.key = key;
    this.params = params;
    this.setTitle = setTitle;
    this.facts = null;
    this.error = null;
    this.tab = null;
    this.tabName = null;
    this.head = h("header", { class: "run-head" });
    this.tabs = h("div", { class: "tabs", role: "tablist", "aria-label": "Parts of the run" });
    this.tabs.addEventListener("keydown", (event) => this.onTabKey(event));
    this.body = h("section", {
      class: "tab-body",
      role: "tabpanel",
      id: "tab-body",
      tabindex: "-1",
    });
    this.message = h("div");
    main.append(this.head, this.tabs, this.message, this.body);
    this.stopWatching = store.watch(key);
    this.loadSoon = throttle(() => this.load(), REFRESH_MS);
    this.onChange = ({ detail }) => {
      if (detail.removed.has(key) || detail.changed.has(key)) this.drawHead();
      if (detail.changed.has(key)) this.loadSoon();
    };
    this.onWatched = ({ detail: keys }) => {
      this.tab?.watched?.(keys);
      if (keys.has(key)) this.loadSoon();
    };
    store.addEventListener("change", this.onChange);
    store.addEventListener("watched", this.onWatched);
    this.drawHead();
    this.load();
  }

  destroy() {
    this.store.removeEventListener("change", this.onChange);
    this.store.removeEventListener("watched", this.onWatched);
    this.loadSoon.cancel();
    this.stopWatching();
    this.closeTab();
    this.isDestroyed = true;
  }

  async load() {
    try {
      const facts = await getJson(`api/run/${encodeURIComponent(this.key)}`);
      if (this.isDestroyed) return;
      this.facts = facts;
      this.error = null;
    } catch (error) {
      if (!(error instanceof ApiError || error instanceof ServerGone)) throw error;
      if (this.isDestroyed) return;
      this.error = error;
    }
    this.drawHead();
    this.drawTabs();
    this.drawTab();
  }

  update(params) {
    this.params = params;
    this.drawTabs();
    this.drawTab();
  }

  get row() {
    return this.store.rows.get(this.key) ?? this.facts?.row ?? null;
  }

  // Head ------------------------------------------------------------------------------------------

  drawHead() {
    const { row } = this;
    const isDeleted = this.store.loaded && !this.store.rows.has(this.key) && !isExport;
    fill(this.message, this.messageContent(isDeleted));
    if (!row) {
      fill(this.head, h("h1", null, "Run"));
      return;
    }
    this.setTitle(row.id);
    const hint = this.facts?.path ?? row.path;
    fill(
      this.head,
      h(
        "div",
        { class: "run-title" },
        h(
          "a",
          {
            class: "icon-button",
            href: "#/runs",
            "aria-label": "Back to the runs",
            title: "Back to the runs",
          },
          icon("back"),
        ),
        h("span", { class: `swatch-mark series-${row.color ?? 0}` }),
        h("h1", null, bdi(row.id, { title: hint })),
        isDeleted ? statusMark("failed", "deleted") : statusMark(row.status, runStatusText(row)),
        row.pinned && h("span", { class: "pinned", title: "Pinned" }, icon("pin")),
        (row.tags ?? []).map((tag) => h("span", { class: "tag" }, bdi(tag))),
        row.archived && h("span", { class: "tag archived" }, "archived"),
        this.actions(row),
      ),
      this.progress(row),
      row.note && h("p", { class: "run-note" }, bdi(row.note)),
      h("p", { class: "run-path" }, bdi(hint ?? "")),
      this.factsLine(row),
    );
  }

  messageContent(isDeleted) {
    if (isDeleted) {
      return h(
        "p",
        { class: "notice" },
        "This run is no longer in the folder. Shown is what was read before. ",
        h("a", { href: "#/runs" }, "Go to the runs"),
      );
    }
    if (this.error) {
      if (this.facts) return h("p", { class: "notice" }, this.error.message);
      return emptyState(
        "This run cannot be shown.",
        this.error.message,
        h("a", { href: "#/runs" }, "Go to the runs"),
      );
    }
    if (!this.facts) return h("p", { class: "loading", role: "status" }, "Reading the run");
    const { problems } = this.facts;
    if (!problems?.length) return null;
    return h(
      "div",
      { class: "notice" },
      h("strong", null, "Problems"),
      h(
        "ul",
        null,
        problems.map((text) => h("li", null, text)),
      ),
    );
  }

  actions(row) {
    const { store } = this;
    return h(
      "div",
      { class: "actions" },
      button("Compare", () => navigate("compare", "", { runs: row.key })),
      menuButton(
        "Actions",
        () => [
          { label: row.pinned ? "Unpin" : "Pin", hint: "p", act: () => togglePin(store, [row]) },
          {
            label: row.archived ? "Restore" : "Archive",
            hint: "h",
            act: () => toggleArchive(store, [row]),
          },
          { label: "Edit tags and note", hint: "m", act: () => editMarks(store, [row]) },
          null,
          { label: "Copy as command", hint: "c", act: () => this.copyCommand() },
          { label: "Copy the path", act: () => copyText(row.path, "the path") },
          { label: "Copy the address", act: () => copyText(location.href, "the address") },
        ],
        { iconName: "more", iconOnly: true },
      ),
    );
  }

  progress(row) {
    if (row.status === "completed" || !row.max_steps || row.step === null) return null;
    const share = Math.min(1, row.step / row.max_steps);
    const bar = h("span", { style: { width: `${100 * share}%` } });
    return h(
      "div",
      {
        class: "progress",
        role: "progressbar",
        "aria-label": "Steps",
        "aria-valuemin": "0",
        "aria-valuemax": row.max_steps,
        "aria-valuenow": row.step,
      },
      bar,
    );
  }

  factsLine(row) {
    const now = this.store.now();
    const facts = [
      ["Seed", row.seed],
      ["Started", formatTime(row.started_s)],
      ["Updated", formatAgo(row.updated_s, now)],
      ...(this.facts?.metrics ?? [])
        .filter(({ name, last }) => last && SUMMARY.has(name))
        .map(({ title, last }) => [title, last]),
    ];
    return h(
      "dl",
      { class: "facts" },
      facts
        .filter(([, value]) => value !== null && value !== undefined && value !== "")
        .map(([title, value]) => h("div", null, h("dt", null, title), h("dd", null, value))),
    );
  }

  copyCommand() {
    const text = `spectral-exp dashboard ${shellQuote(this.row.path)}`;
    copyText(text, "the command");
  }

  // Tabs --------------------------------------------------------------------------------------------

  get present() {
    return TABS.filter(({ isPresent }) => !isPresent || (this.facts && isPresent(this.facts)));
  }

  get chosen() {
    const wanted = this.params.get("tab");
    return this.present.find(({ name }) => name === wanted) ?? TABS[0];
  }

  drawTabs() {
    const chosen = this.chosen.name;
    const hadFocus = this.tabs.contains(document.activeElement);
    fill(
      this.tabs,
      this.present.map(({ name, label }) =>
        h(
          "a",
          {
            role: "tab",
            id: `tab-${name}`,
            href: formatHash("run", this.key, name === "curves" ? {} : { tab: name }),
            "aria-selected": String(name === chosen),
            "aria-controls": "tab-body",
            tabindex: name === chosen ? "0" : "-1",
          },
          label,
        ),
      ),
    );
    this.body.setAttribute("aria-labelledby", `tab-${chosen}`);
    if (hadFocus) this.tabs.querySelector("[aria-selected=true]").focus();
  }

  onTabKey(event) {
    const offset = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!offset) return;
    event.preventDefault();
    this.moveTab(offset);
  }

  moveTab(offset) {
    const names = this.present.map(({ name }) => name);
    const index = names.indexOf(this.chosen.name) + offset;
    const name = names[(index + names.length) % names.length];
    navigate("run", this.key, name === "curves" ? {} : { tab: name });
  }

  drawTab() {
    if (!this.facts) return;
    const { name, Tab } = this.chosen;
    if (name !== this.tabName) {
      this.closeTab();
      this.tabName = name;
      this.tab = new Tab(this.body, this);
    }
    this.tab.update(this.facts, this.params);
  }

  closeTab() {
    this.tab?.destroy?.();
    this.tab = null;
    this.tabName = null;
    this.body.replaceChildren();
  }

  get shortcuts() {
    const onRow = (act) => () => this.row && act(this.store, [this.row]);
    return [
      { key: "]", label: "Next tab", act: () => this.moveTab(1) },
      { key: "[", label: "Previous tab", act: () => this.moveTab(-1) },
      {
        key: "/",
        label: "Search in this tab",
        act: () => this.body.querySelector("input[type=search]")?.focus(),
      },
      { key: "p", label: "Pin", act: onRow(togglePin) },
      { key: "h", label: "Hide: archive, or restore", act: onRow(toggleArchive) },
      { key: "m", label: "Edit tags and note", act: onRow(editMarks) },
      { key: "l", label: "Logarithmic y in the charts", act: () => this.tab?.toggleLog?.() },
      { key: "c", label: "Copy as command", act: () => this.copyCommand() },
      { key: "u", label: "Up to the runs", act: () => navigate("runs") },
    ];
  }

  /** Change parameters of this page. */
  patch(changes) {
    patchParams(changes);
  }
}

const SUMMARY = new Set(["loss", "val_loss", "val_bpb", "tokens_per_s"]);

function shellQuote(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`;
}
