/** The scores of a trained model on texts, which `spectral-exp evaluate` has recorded. */

import { bdi, fill, h } from "./dom.js";
import { formatAgo, formatCount, formatTime } from "./format.js";
import { simpleTable } from "./run_facts.js";

/** Whether a run has been evaluated. */
export function hasEvaluations({ evaluations }) {
  return evaluations.total > 0;
}

export class EvaluationsTab {
  constructor(host, page) {
    this.page = page;
    this.host = h("div");
    host.append(this.host);
  }

  update({ evaluations: { total, shown } }) {
    const signature = JSON.stringify(shown);
    if (signature === this.signature) return;
    this.signature = signature;
    fill(
      this.host,
      h("p", { class: "lead" }, EXPLANATION),
      simpleTable("Evaluations", columns(this.page.store.now()), shown),
      shown.length < total &&
        h("p", { class: "lead faint" }, `The newest ${shown.length} of ${formatCount(total)}.`),
    );
  }
}

const EXPLANATION =
  "Scores by spectral-exp evaluate, newest first. The standard error takes windows as " +
  "independent, which overlapping ones are not.";

function columns(now) {
  const count = (title, read) => ({
    title,
    align: "right",
    cell: (one) => formatCount(read(one)),
  });
  const number = (title, read) => ({ title, align: "right", cell: read });
  return [
    { title: "Text", cell: textOf },
    count("Step", ({ step }) => step),
    count("Window, tokens", ({ block_size: size }) => size),
    count("Stride", ({ stride }) => stride),
    number("Bits per byte", ({ bpb }) => bpb),
    number("Standard error", ({ standard_error_bpb: error }) => error),
    number("Loss, nats", ({ loss }) => loss),
    number("Perplexity", ({ perplexity }) => perplexity),
    count("Windows", ({ windows }) => windows),
    {
      title: "Evaluated",
      align: "right",
      cell: ({ saved_s: time }) => h("span", { title: formatTime(time) }, formatAgo(time, now)),
    },
  ];
}

function textOf({ text, part }) {
  return part ? `${part} text of the run` : bdi(text);
}
