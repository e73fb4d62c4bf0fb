/** The paired difference of two groups over steps, as series of a chart and as a sentence. */

import { ApiError, ServerGone, getJson } from "./client.js";

/** @returns {Promise<{series: Object[], sentence: string, notes?: string[]}>} */
export async function fetchDifference(group, baseline, selection) {
  try {
    const answer = await getJson("api/difference", {
      a: baseline.id,
      b: group.id,
      ...selection,
    });
    const title = `${group.label} minus ${baseline.label}`;
    if (!answer.steps.length) return { series: [], sentence: `${title}: no step that both have.` };
    return {
      series: [differenceBand(title, group, answer), zeroLine(answer.steps)],
      sentence: sentenceOf(title, answer),
      notes: answer.notes,
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
  return {
    key: "difference",
    label,
    kind: "band",
    color: color ?? 0,
    dash: 0,
    columns: { ...columns, n: numbers(n) },
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

function sentenceOf(title, { separated_from: from, n, paired }) {
  const isPaired = paired.every(Boolean);
  const pairs = `, n = ${Math.max(...n)}${isPaired ? " pairs of equal seed" : ", not paired"}`;
  if (from === null || from === undefined)
    return `${title}${pairs}: not separated at the last step.`;
  return `${title}${pairs}: separated from step ${from.toLocaleString("en-US")} on.`;
}
