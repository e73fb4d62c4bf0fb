/** The figures of a comparison, drawn by the server as in a paper. */

import { ApiError, ServerGone, figureAddress, getJson, isExport } from "./client.js";
import { throttle } from "./controls.js";
import { fill, h } from "./dom.js";

// While runs grow, their figures are drawn again this often.
const REFRESH_MS = 30000;

const NO_FIGURES = "This file holds no figures; one saved from the page Compare has them.";

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
    const { signature, query } = this;
    if (!this.element.firstChild) {
      fill(this.element, h("p", { class: "loading", role: "status" }, "Drawing figures"));
    }
    try {
      const { figures, seq } = await getJson("api/compare", { ...query, figures: 1 });
      if (this.signature !== signature || this.isDestroyed) return;
      const theme = document.documentElement.dataset.theme;
      const shown = figures.filter((figure) => !figure.is_empty);
      const elements = await Promise.all(
        shown.map((figure) => figureElement(figure, { ...query, theme, seq })),
      );
      if (this.signature === signature && !this.isDestroyed) fill(this.element, elements);
    } catch (error) {
      if (!(error instanceof ApiError || error instanceof ServerGone)) throw error;
      fill(this.element, h("p", { class: "notice" }, isExport ? NO_FIGURES : error.message));
    }
  }
}

// In print a figure is light; an exported file cannot draw another format.
const SAVED_FORMATS = isExport ? ["svg"] : ["svg", "pdf", "png"];

async function figureElement({ name, caption }, query) {
  const src = await figureAddress(name, "svg", query);
  const image = h("img", { src, alt: caption, loading: "lazy", decoding: "async" });
  const links = SAVED_FORMATS.map(async (suffix) => {
    const choices = { ...query, theme: "light", download: isExport ? null : 1 };
    const href = await figureAddress(name, suffix, choices);
    return h("a", { href, download: `${name}.${suffix}` }, suffix.toUpperCase());
  });
  const title = h("h2", null, name.replaceAll("_", " "));
  return h(
    "figure",
    { class: "figure" },
    h("div", { class: "figure-head" }, title, await Promise.all(links)),
    image,
    h("figcaption", null, caption),
  );
}
