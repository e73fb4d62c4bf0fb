/** The page of one run: its head, and tabs that are built when they are opened. */

import { ApiError, ServerGone, getJson, isExport } from "./client.js";
import { throttle } from "./controls.js";
import { fill, h } from "./dom.js";
import { editMarks, toggleArchive, togglePin } from "./marks.js";
import { CurvesTab, SystemTab, hasSystemMetrics } from "./run_curves.js";
import { EvaluationsTab, hasEvaluations } from "./run_evaluations.js";
import { CheckpointsTab, CostTab, FilesTab } from "./run_facts.js";
import { RunHead, copyRunCommand } from "./run_head.js";
import { InsideTab } from "./run_inside.js";
import { LogTab } from "./run_log.js";
import { SamplesTab } from "./run_samples.js";
import { SettingsTab } from "./run_settings.js";
import { formatHash, lastHash, navigate, patchParams, setHash } from "./state.js";

const REFRESH_MS = 2000;

/** A tab is a class with `update(facts, params)`, `watched()` and `destroy()`. */
const TABS = [
  { name: "curves", label: "Curves", Tab: CurvesTab },
  { name: "inside", label: "Inside", Tab: InsideTab },
  { name: "samples", label: "Samples", Tab: SamplesTab },
  {
    name: "evaluations",
    label: "Evaluations",
    Tab: EvaluationsTab,
    isPresent: hasEvaluations,
  },
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
    this.head = new RunHead(store);
    this.tabs = h("div", { class: "tabs", role: "tablist", "aria-label": "Parts of the run" });
    this.tabs.addEventListener("keydown", (event) => this.onTabKey(event));
    this.body = h("section", {
      class: "tab-body",
      role: "tabpanel",
      id: "tab-body",
      tabindex: "-1",
    });
    main.append(this.head.element, this.tabs, this.head.message, this.body);
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
    this.tabs.hidden = true;
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
    await this.store.ready;
    if (this.isDestroyed) return;
    if (this.isGone()) {
      this.drawHead();
      return;
    }
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

  drawHead() {
    const { row, facts, error } = this;
    const isDeleted = this.isGone();
    if (row) this.setTitle(row.id);
    this.head.draw({ row, facts, error, isDeleted });
  }

  isGone() {
    const { loaded, facts, rows } = this.store;
    return loaded && facts.complete && !rows.has(this.key) && !isExport;
  }

  get row() {
    return this.store.rows.get(this.key) ?? this.facts?.row ?? null;
  }

  // Tabs

  get present() {
    return TABS.filter(({ isPresent }) => !isPresent || (this.facts && isPresent(this.facts)));
  }

  get chosen() {
    const wanted = this.params.get("tab");
    return this.present.find(({ name }) => name === wanted) ?? TABS[0];
  }

  drawTabs() {
    const chosen = this.chosen.name;
    this.tabs.hidden = !this.facts;
    const signature = JSON.stringify([chosen, this.present.map(({ name }) => name), !this.facts]);
    if (signature === this.tabsSignature) return;
    this.tabsSignature = signature;
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
    const selected = this.tabs.querySelector("[aria-selected=true]");
    scrollSideways(this.tabs, selected);
    if (hadFocus) selected.focus({ preventScroll: true });
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
      { key: "c", label: "Copy as command", act: () => this.row && copyRunCommand(this.row) },
      {
        key: "u",
        label: "Back to the runs",
        act: () => {
          setHash(lastHash("runs"));
        },
      },
    ];
  }

  /** Change parameters of this page. */
  patch(changes) {
    patchParams(changes);
  }
}

/** Bring an item of a strip into sight; the page around it stays where it is. */
function scrollSideways(strip, item) {
  const [outer, inner] = [strip.getBoundingClientRect(), item.getBoundingClientRect()];
  if (inner.left < outer.left) strip.scrollLeft -= outer.left - inner.left;
  else if (inner.right > outer.right) strip.scrollLeft += inner.right - outer.right;
}
