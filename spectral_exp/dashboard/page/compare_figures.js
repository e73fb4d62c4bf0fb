/** The figures of a comparison, drawn by the server as in a paper. */

import { ApiError, ServerGone, address, getJson, isExport } from "./client.js";
import { throttle } from "./controls.js";
import { fill, h } from "./dom.js";

// While runs grow, their figures are drawn again this often.
const REFRESH_MS = 30000;

export class FiguresSection {
  constructor() {
    this.element = h("section", { class: "figures", "aria-label": "Figures" });
    this.loadSoon = throttle(() => this.load(), REFRESH_MS);
    this.onTheme = () => this.query && this.load();
    window.addEventListener("themechange", this.onTheme);
  }

  destroy() {
    this.isDestroyed = true;
    this.loadSoon.cancel();
    window.removeEventListener("themechange", this.onTheme);
  }

  /** Draw the figures of `query` unless they are drawn; `signature` stands for their content. */
  update(query, signature) {
    if (signature === this.signature) return;
    const isOther = JSON.stringify(query) !== JSON.stringify(this.query);
    this.signature = signature;
    this.query = query;
    if (isOther) this.load();
    else this.loadSoon();
  }

  async load() {
    // A file holds no figures: nothing can draw them.
    if (isExport) return;
    const { signature, query } = this;
    if (!this.element.firstChild) {
      fill(this.element, h("p", { class: "loading", role: "status" }, "Drawing figures"));
    }
    try {
      const { figures, seq } = await getJson("api/compare", { ...query, figures: 1 });
      if (this.signature !== signature || this.isDestroyed) return;
      const theme = document.documentElement.dataset.theme;
      const shown = figures.filter((figure) => !figure.is_empty);
      fill(
        this.element,
        shown.map((figure) => figureElement(figure, { ...query, theme, seq })),
      );
    } catch (error) {
      if (!(error instanceof ApiError || error instanceof ServerGone)) throw error;
      fill(this.element, h("p", { class: "notice" }, error.message));
    }
  }
}

function figureElement({ name, caption }, query) {
  const url = (suffix, more) =>
    address(`api/figure/${encodeURIComponent(name)}.${suffix}`, { ...query, ...more });
  const image = h("img", { src: url("svg"), alt: caption, loading: "lazy", decoding: "async" });
  const save = (suffix) =>
    h("a", { href: url(suffix, { download: 1, theme: "light" }) }, suffix.toUpperCase());
  return h(
    "figure",
    { class: "figure" },
    h(
      "div",
      { class: "figure-head" },
      h("h2", null, name.replaceAll("_", " ")),
      ["svg", "pdf", "png"].map(save),
    ),
    image,
    h("figcaption", null, caption),
  );
}
