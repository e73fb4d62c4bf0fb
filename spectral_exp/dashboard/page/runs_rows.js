/** The rows of the runs table: groups and, below an open group, its runs. */

import { compareValues } from "./table.js";

/**
 * @typedef {Object} TableRow
 * @property {string} id
 * @property {"group"|"run"} kind
 * @property {Object|null} group the row of `api/groups`
 * @property {Object|null} run the row of `api/runs`
 * @property {Object[]} runs the run, or those of the group
 * @property {string} label
 * @property {Object} numbers by name of the column
 * @property {Object|null} difference
 * @property {{color: number, dash: number}} style
 */

/** Return the groups as rows in the order of `column`, or of the metric if it is undefined. */
export function groupRows(answer, { store, styles, column, descending }) {
  const rows = answer.rows.map((group) => groupRow(group, store, styles));
  const isHigher = answer.metric.direction === "higher";
  const value = (row) => row.numbers.value?.value ?? null;
  return rows.sort(
    (a, b) =>
      b.isPinned - a.isPinned ||
      (column
        ? compareValues(column.sort(a), column.sort(b), descending)
        : compareValues(value(a), value(b), isHigher)),
  );
}

function groupRow(group, store, styles) {
  const runs = group.keys.map((key) => store.rows.get(key)).filter(Boolean);
  return {
    id: group.id,
    kind: "group",
    group,
    run: null,
    runs,
    label: group.label,
    tags: group.tags ?? [],
    isPinned: runs.some(({ pinned }) => pinned),
    isArchived: runs.length > 0 && runs.every(({ archived }) => archived),
    isBaseline: group.is_baseline,
    difference: group.difference,
    numbers: group,
    warnings: group.warnings ?? [],
    certificate: group.certificate ?? null,
    style: styles.get(group.id) ?? { color: group.color, dash: 0 },
  };
}

/** Return the rows of the runs of a group. */
export function runRows(parent) {
  const numbers = new Map(parent.group.runs.map((entry) => [entry.key, entry]));
  return parent.runs.map((run) => runRow(run, numbers.get(run.key), parent));
}

function runRow(run, entry, parent) {
  const hasSeed = run.seed !== null && run.seed !== undefined;
  return {
    id: `run:${run.key}`,
    kind: "run",
    group: null,
    run,
    runs: [run],
    label: hasSeed ? `seed ${run.seed}  ${run.id}` : run.id,
    tags: run.tags ?? [],
    isPinned: run.pinned,
    isArchived: run.archived,
    isBaseline: false,
    difference: null,
    numbers: entry ? { value: entry, best: entry.best } : {},
    warnings: entry?.reason ? [entry.reason] : [],
    certificate: null,
    style: parent.style,
  };
}
