/** The head of the page of a run: name, status, progress, marks, main numbers. */

import { runStatusText, statusMark } from "./columns.js";
import { button, emptyState, menuButton } from "./controls.js";
import { bdi, fill, h, icon } from "./dom.js";
import { formatAgo, formatCount, formatTime } from "./format.js";
import { editMarks, toggleArchive, togglePin } from "./marks.js";
import { copyText, sourcedNumber } from "./popover.js";
import { addressItem, exportItem } from "./save.js";
import { lastHash, navigate } from "./state.js";

// A longer name has a line of its own on a phone.
const LONG_NAME = 20;

const SUMMARY = new Set(["loss", "val_loss", "val_bpb", "tokens_per_s"]);

export class RunHead {
  /** @param {import("./store.js").RunStore} store */
  constructor(store) {
    this.store = store;
    this.signature = null;
    this.element = h("header", { class: "run-head" });
    this.message = h("div");
  }

  /** Draw what is known; an unchanged head stays as it is, with its focus and its open menu. */
  draw({ row, facts, error, isDeleted }) {
    const metrics = facts?.metrics ?? [];
    const age = row && formatAgo(row.updated_s, this.store.now());
    const signature = JSON.stringify([
      row,
      age,
      facts?.problems,
      facts && reasonOf(row, facts),
      metrics,
      error?.message,
      isDeleted,
    ]);
    if (signature === this.signature) return;
    this.signature = signature;
    fill(this.message, this.messageContent({ row, facts, error, isDeleted }));
    if (!row) {
      fill(this.element, h("h1", null, "Run"));
      return;
    }
    fill(
      this.element,
      this.title(row, isDeleted),
      this.progress(row),
      row.note && h("p", { class: "run-note" }, bdi(row.note)),
      h("p", { class: "run-path" }, bdi(row.path ?? "")),
      this.factsLine(row, metrics),
    );
  }

  title(row, isDeleted) {
    const back = "Back to the runs";
    return h(
      "div",
      { class: `run-title ${row.id.length > LONG_NAME ? "long-name" : ""}` },
      h(
        "div",
        { class: "run-name" },
        h(
          "a",
          { class: "icon-button", href: lastHash("runs"), "aria-label": back, title: back },
          icon("back"),
        ),
        h("span", { class: `swatch-mark series-${row.color ?? 0}` }),
        h("h1", null, bdi(row.id)),
      ),
      isDeleted
        ? statusMark("failed", "deleted")
        : statusMark(row.status ?? "", runStatusText(row)),
      row.pinned && h("span", { class: "pinned", title: "Pinned" }, icon("pin")),
      (row.tags ?? []).map((tag) => h("span", { class: "tag" }, bdi(tag))),
      row.archived && h("span", { class: "tag archived" }, "archived"),
      this.actions(row),
    );
  }

  messageContent({ row, facts, error, isDeleted }) {
    if (isDeleted && !facts) {
      const link = h("a", { href: lastHash("runs") }, "Go to the runs");
      return emptyState("There is no such run", "It may have been deleted or moved.", link);
    }
    if (isDeleted) {
      return h(
        "p",
        { class: "notice" },
        "This run is no longer in the folder. The page shows what was read before. ",
        h("a", { href: lastHash("runs") }, "Go to the runs"),
      );
    }
    if (error) {
      if (facts) return h("p", { class: "notice" }, error.message);
      return emptyState(
        "This run cannot be shown.",
        error.message,
        h("a", { href: lastHash("runs") }, "Go to the runs"),
      );
    }
    if (!facts) return h("p", { class: "loading", role: "status" }, "Reading the run");
    const { problems } = facts;
    const reason = reasonOf(row, facts);
    return [
      reason && h("p", { class: "notice" }, bdi(reason)),
      problems?.length > 0 &&
        h(
          "div",
          { class: "notice" },
          h("strong", null, "Problems"),
          h(
            "ul",
            null,
            problems.map((text) => h("li", null, text)),
          ),
        ),
    ];
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
          { label: "Copy as command", hint: "c", act: () => copyRunCommand(row) },
          { label: "Copy the path", act: () => copyText(row.path, "the path") },
          ...addressItem(),
          ...exportItem(),
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

  factsLine(row, metrics) {
    const now = this.store.now();
    const facts = [
      ["Seed", row.seed],
      ["Started", formatTime(row.started_s)],
      ["Updated", formatAgo(row.updated_s, now)],
      ...metrics
        .filter(({ name, last }) => last && SUMMARY.has(name))
        .map((metric) => [metric.title, lastValue(metric, row)]),
    ];
    return h(
      "dl",
      { class: "facts" },
      facts
        .filter(([, value]) => value !== null && value !== undefined && value !== "")
        .map(([title, value]) => h("div", null, h("dt", null, title), h("dd", null, value))),
    );
  }
}

/** Return why a run has ended before its time, as its results say, or null. */
function reasonOf(row, { results }) {
  if (["running", "completed"].includes(row?.status)) return null;
  const reasons = [results.error, results.pruned_because];
  return reasons.find((reason) => reason && typeof reason === "string") ?? null;
}

function lastValue({ name, last, last_step: step }, row) {
  const source = {
    metric: name,
    at: step === null ? null : `step ${formatCount(step)}`,
    formula: "last logged value",
    runs: row.id,
    file: "logs/metrics.jsonl",
  };
  return sourcedNumber({ text: last, source });
}

/** Copy the command that serves this run. */
export function copyRunCommand(row) {
  copyText(`spectral-exp dashboard ${shellQuote(row.path)}`, "the command");
}

function shellQuote(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'"'"'`)}'`;
}
