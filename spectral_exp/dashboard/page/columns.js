/** The columns of the runs table; its rows are those of runs_rows.js. */

import { bdi, h, icon } from "./dom.js";
import { formatAgo, formatDuration, formatProgress } from "./format.js";
import { numberText, sourcedNumber } from "./popover.js";
import { formatHash } from "./state.js";

// What is left out first for want of room has the highest rank.
const RANKS = [
  "status",
  "n",
  "warnings",
  "p_better",
  "setting",
  "best",
  "further setting",
  "train_s",
  "tokens",
  "parameters",
  "updated",
  "monitoring_share",
  "certificate",
];
const FIRST_SETTINGS = 3;

/** Return the columns for an answer of `api/groups`. */
export function runColumns(answer, page) {
  const columns = allColumns(answer, page);
  const settings = tellingSettings(answer);
  for (const column of columns) {
    const place = settings.indexOf(column.id);
    const name = place < FIRST_SETTINGS ? "setting" : "further setting";
    const rank = RANKS.indexOf(place < 0 ? column.id : name) + Math.max(0, place) / columns.length;
    // A phone scrolls sideways, with the numbers and the state of the runs.
    if (rank >= 0 && !(isNarrow() && column.id === "status")) column.rank = rank;
  }
  return columns;
}

/** Return the ids of the columns of settings; those that tell the most groups apart come first. */
function tellingSettings({ rows, settings }) {
  const count = (name) => new Set(rows.map((row) => row.settings[name])).size;
  const counted = settings.map(({ name }) => [`setting:${name}`, count(name)]);
  return counted.sort(([, a], [, b]) => b - a).map(([id]) => id);
}

function allColumns(answer, page) {
  const hasBaseline = answer.baseline !== null && answer.rows.some((row) => row.difference);
  const numbers = metricColumns(answer, hasBaseline);
  const state = [statusColumn(), countColumn()];
  return [
    shownColumn(page),
    labelColumn(page),
    // On a phone the numbers come first: little else is in sight.
    ...(isNarrow() ? [...numbers, ...state] : [...state, ...numbers]),
    ...answer.settings.map(settingColumn),
    numberColumn("parameters", "Parameters", (row) => row.numbers.parameters),
    numberColumn("tokens", "Tokens", (row) => row.numbers.tokens),
    numberColumn("train_s", "Train time, s", (row) => row.numbers.train_s),
    numberColumn("monitoring_share", "Monitoring", (row) => row.numbers.monitoring_share, {
      hint: "Share of the training time for which monitoring held training up",
    }),
    warningsColumn(),
    certificateColumn(),
    updatedColumn(page),
  ];
}

/** Matches a phone, for which the columns have another order. */
export const narrowScreen = window.matchMedia("(max-width: 700px)");

function isNarrow() {
  return narrowScreen.matches;
}

function countColumn() {
  return {
    id: "n",
    title: "n",
    hint: "Runs with a value, of all runs of the group if there are others",
    align: "right",
    text: ({ kind, group }) => (kind === "group" ? countText(group) : ""),
    sort: ({ group }) => group?.n ?? null,
  };
}

function countText({ n, n_used: used }) {
  return used !== undefined && used !== n ? `${used} of ${n}` : String(n);
}

function shownColumn(page) {
  return {
    id: "shown",
    title: "Shown",
    isTitleHidden: true,
    hint: "Shown in the charts",
    width: 36,
    sticky: true,
    text: () => "",
    cell: (row) => {
      if (row.kind === "run") return "";
      return h("input", {
        type: "checkbox",
        class: `swatch series-${row.style.color}`,
        checked: page.isShown(row.id),
        "aria-label": `Show ${row.label} in the charts`,
        data: { control: "shown" },
        onchange: () => page.toggleShown(row.id),
      });
    },
  };
}

function labelColumn(page) {
  return {
    id: "label",
    title: "Group",
    sticky: true,
    isHeader: true,
    extra: 40,
    maxWidth: isNarrow() ? 168 : 320,
    text: ({ label, tags }) => [label, ...tags].join("  "),
    sort: ({ label }) => label,
    cell: (row) => {
      const name = bdi(row.label, { title: row.label });
      const run = row.runs.length === 1 ? row.runs[0] : null;
      const link = run
        ? h(
            "a",
            { class: "label", href: formatHash("run", run.key), data: { control: "open" } },
            name,
          )
        : h("span", { class: "label" }, name);
      return h(
        "div",
        { class: `label-cell ${row.kind}` },
        row.kind === "group" && row.group.n > 1
          ? expander(row, page)
          : h("span", { class: "indent" }),
        row.isPinned && h("span", { class: "pinned", title: "Pinned" }, icon("pin")),
        link,
        row.tags.map((tag) => h("span", { class: "tag" }, bdi(tag))),
        row.isArchived && h("span", { class: "tag archived" }, "archived"),
      );
    },
  };
}

function expander(row, page) {
  const isOpen = page.isOpen(row.id);
  const button = h(
    "button",
    {
      type: "button",
      class: `expander ${isOpen ? "open" : ""}`,
      "aria-expanded": String(isOpen),
      "aria-label": `Runs of ${row.label}`,
      data: { control: "expand" },
      onclick: () => page.toggleOpen(row.id),
    },
    icon("chevron"),
  );
  return button;
}

function statusColumn() {
  return {
    id: "status",
    title: "Status",
    maxWidth: 260,
    extra: 14,
    text: (row) => statusText(row),
    sort: (row) => statusText(row),
    cell: (row) => {
      const names = row.run ? [row.run.status] : Object.keys(row.group.status);
      const worst = STATUS_ORDER.find((name) => names.includes(name)) ?? names[0];
      return statusMark(worst, statusText(row));
    },
  };
}

// The first that a group has gives its mark.
const STATUS_ORDER = [
  "failed",
  "diverged",
  "damaged",
  "not_saved",
  "running",
  "interrupted",
  "unfinished",
  "pruned",
  "stopped_early",
  "completed",
];

/** Return a status with its mark; the text says the same as the colour. */
export function statusMark(status, text = status) {
  return h("span", { class: `status status-${statusClass(status)}`, title: text }, text);
}

function statusClass(status) {
  return STATUS_ORDER.includes(status) ? status : "other";
}

function nameOf(status) {
  return status.replaceAll("_", " ");
}

function statusText(row) {
  if (row.run) return runStatusText(row.run);
  const counts = Object.entries(row.group.status);
  if (row.runs.length === 1) return runStatusText(row.runs[0]);
  if (counts.length === 1 && counts[0][0] === "completed") return "completed";
  return counts.map(([name, count]) => `${count} ${nameOf(name)}`).join(", ");
}

/** Return the status of a run with its progress unless it is completed. */
export function runStatusText(run) {
  if (!run.status) return "";
  const progress = formatProgress(run);
  if (run.status === "completed" || !progress) return nameOf(run.status);
  const left = run.status === "running" && run.eta_s ? `, ${formatDuration(run.eta_s)} left` : "";
  return `${nameOf(run.status)} ${progress}${left}`;
}

function metricColumns(answer, hasBaseline) {
  const { metric, at, baseline } = answer;
  const unit = metric.unit ? `, ${metric.unit}` : "";
  const better = metric.direction ? `, ${directionText(metric.direction)}` : "";
  const columns = [
    numberColumn("value", metric.title || metric.name, (row) => row.numbers.value, {
      hint: `${metric.name} at ${at}${unit}${better}; mean over the seeds with its 95 % interval`,
    }),
  ];
  if (hasBaseline) columns.push(...differenceColumns(baseline));
  columns.push(
    numberColumn("best", "Best", (row) => row.numbers.best, {
      hint: "Best value, which flatters a run that was measured often",
    }),
  );
  return columns;
}

/** Return a direction as words. */
function directionText(direction) {
  return { lower: "lower is better", higher: "higher is better" }[direction] ?? String(direction);
}

function differenceColumns(baseline) {
  return [
    {
      id: "difference",
      title: "Difference",
      hint: `Minus the value of ${baseline}, with its 95 % interval; bold if separated (Holm)`,
      align: "right",
      isBold: true,
      number: ({ difference }) => difference,
      text: ({ difference, isBaseline }) => (isBaseline ? "baseline" : numberText(difference)),
      sort: ({ difference }) => difference?.value ?? null,
      cell: ({ difference, isBaseline }) => {
        if (isBaseline) return h("span", { class: "faint" }, "baseline");
        if (!difference) return "";
        const element = sourcedNumber(difference, {
          class: difference.separated ? "separated" : "",
        });
        const verdict =
          difference.verdict ?? (difference.separated ? "separated" : "not separated");
        element.append(h("span", { class: "for-screen-readers" }, `, ${verdict}`));
        return element;
      },
    },
    numberColumn(
      "p_better",
      "P(better)",
      ({ difference }) => difference?.probability_of_improvement,
      {
        hint: `Probability that a random run of the group is better than one of ${baseline}`,
      },
    ),
  ];
}

function numberColumn(id, title, read, { hint } = {}) {
  return {
    id,
    title,
    hint,
    align: "right",
    number: read,
    text: (row) => numberText(read(row)),
    sort: (row) => read(row)?.value ?? null,
    cell: (row) => (read(row) ? sourcedNumber(read(row)) : ""),
  };
}

function settingColumn({ name, short }) {
  return {
    id: `setting:${name}`,
    title: short,
    hint: name,
    maxWidth: 220,
    text: ({ group }) => group?.settings[name] ?? "",
    sort: ({ group }) => settingValue(group?.settings[name]),
    cell: ({ kind, group }) =>
      kind === "group" && bdi(group.settings[name] ?? "", { title: group.settings[name] ?? "" }),
  };
}

function settingValue(text) {
  const number = Number(text);
  return text !== undefined && text !== "" && Number.isFinite(number) ? number : text;
}

function warningsColumn() {
  return {
    id: "warnings",
    isOptional: true,
    title: "Warnings",
    align: "right",
    text: ({ warnings }) => (warnings.length ? String(warnings.length) : ""),
    sort: ({ warnings }) => warnings.length,
    cell: ({ warnings }) => {
      if (!warnings.length) return "";
      const number = {
        text: String(warnings.length),
        source: { formula: warnings },
      };
      return sourcedNumber(number, { class: "warning-count" });
    },
  };
}

function certificateColumn() {
  return {
    id: "certificate",
    isOptional: true,
    title: "Certificate",
    hint: "What is proven about exact continuation after a resume",
    maxWidth: 180,
    text: ({ certificate }) => certificate ?? "",
    sort: ({ certificate }) => certificate ?? null,
    cell: ({ certificate }) => certificate && h("span", { title: certificate }, certificate),
  };
}

function updatedColumn(page) {
  const updated = ({ runs }) => Math.max(0, ...runs.map((run) => run.updated_s ?? 0));
  return {
    id: "updated",
    title: "Updated",
    align: "right",
    text: (row) => formatAgo(updated(row), page.now()),
    sort: updated,
  };
}
