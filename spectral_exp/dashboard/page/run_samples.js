/** The texts that the model has generated, the newest first. */

import { emptyState } from "./controls.js";
import { fill, h } from "./dom.js";
import { formatCount } from "./format.js";

export class SamplesTab {
  constructor(host, page) {
    this.page = page;
    this.host = h("div", { class: "samples" });
    host.append(this.host);
  }

  update({ samples }) {
    const signature = JSON.stringify(samples);
    if (signature === this.signature) return;
    this.signature = signature;
    if (samples.length === 0) {
      fill(
        this.host,
        emptyState(
          this.page.row?.status === "completed" ? "No samples" : "No samples yet",
          "A run writes a sample at each evaluation if training.sample_tokens is above 0.",
        ),
      );
      return;
    }
    fill(
      this.host,
      [...samples]
        .reverse()
        .map(({ step, prompt, text }) =>
          h(
            "article",
            { class: "sample" },
            h("h2", null, `Step ${formatCount(step)}`),
            h("pre", { tabindex: "0" }, prompt && h("span", { class: "prompt" }, prompt), text),
          ),
        ),
    );
  }
}
