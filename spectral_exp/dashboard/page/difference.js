/** The paired difference of two groups over steps, as series of a chart and as a sentence. */

import { ApiError, ServerGone, getJson } from "./client.js";

/** @returns {Promise<{series: Object[], sentence: string}>} */
export async function fetchDifference(group, baseline, selection) {
  try {
    const answer = await getJson("api/difference", { a: group.id, b: baseline.id, ...selection });
    const title = `${group.label} minus ${baseline.label}`;
    if (!answer.steps.length) return { series: [], sentence: `${title}: no step that both have.` };
    return {
      series: [differenceBand(title, group, answer), zeroLine(answer.steps)],
      sentence: sentenceOf(title, answer),
    };
  } catch (error) {
    if (!(error instanceof ApiError || error instanceof ServerGone)) throw error;
    return { series: [], sentence: error.message };
  }
}

function differenceBand(label, { color }, { steps, mean, low, high, n }) {
  const numbers = (values) => Float64Array.from(values, (value) => value ?? Number.NaN);
  const columns = {
    x: numbers(steps),
    mean: numbers(mean),
    low: numbers(low),
    high: numbers(high),
  };
  const counts = Array.isArray(n) ? n : steps.map(() => n);
  return {
    key: "difference",
    label,
    kind: "band",
    color: color ?? 0,
    dash: 0,
    columns: { ...columns, n: numbers(counts) },
  };
}

function zeroLine(steps) {
  const x = Float64Array.of(steps[0], steps.at(-1));
  return {
    key: "zero",
    label: "no difference",
    kind: "curve",
    raw: true,
    color: 8,
    dash: 1,
    columns: { x, y: new Float64Array(2) },
  };
}

function sentenceOf(title, { separated_from: from, n }) {
  const seeds = Array.isArray(n) ? Math.max(...n) : n;
  const pairs = seeds ? `, ${seeds} paired seeds` : "";
  if (from === null || from === undefined) return `${title}${pairs}: not separated at the end.`;
  return `${title}${pairs}: the interval excludes zero from step ${from.toLocaleString("en-US")} on.`;
}
