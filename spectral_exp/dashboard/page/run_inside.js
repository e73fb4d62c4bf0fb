/** Plots of the inside of the model under one step slider, and spectra over time from numbers. */

import { HeatMap } from "./chart/heatmap.js";
import { ApiError, ServerGone, getJson, isExport, pictureAddress } from "./client.js";
import { button, emptyState, menuButton } from "./controls.js";
import { bdi, fill, h, icon } from "./dom.js";
import { formatCount } from "./format.js";
import { RunChoice } from "./run_choice.js";
import { chartItems } from "./save.js";

const PLAY_MS = 700;

export class InsideTab {
  constructor(host, page) {
    this.page = page;
    this.facts = null;
    this.otherFacts = null;
    this.timer = null;
    this.heatMaps = new Map();
    this.input = h("input", {
      type: "range",
      min: 0,
      max: 0,
      value: 0,
      "aria-label": "Step",
      oninput: () => this.goTo(Number(this.input.value)),
    });
    this.output = h("output", { class: "step" });
    this.playButton = button("", () => this.togglePlay(), {
      class: "icon-button",
      "aria-label": "Play",
    });
    this.other = new RunChoice(page.store, {
      label: "Beside",
      except: page.key,
      onchange: (key) => page.patch({ beside: key }),
    });
    this.controls = h(
      "div",
      { class: "controls step-controls" },
      this.playButton,
      this.input,
      this.output,
      this.other.element,
    );
    this.plots = h("div", { class: "plots" });
    this.spectra = h("div", { class: "spectra" });
    this.empty = h("div");
    host.append(this.controls, this.empty, this.plots, this.spectra);
    this.drawPlayButton();
  }

  destroy() {
    clearInterval(this.timer);
    this.other.destroy();
    for (const { map } of this.heatMaps.values()) map.destroy();
  }

  update(facts, params) {
    this.facts = facts;
    this.params = params;
    const beside = params.get("beside") ?? "";
    this.other.set(beside);
    if (beside !== this.beside) this.loadOther(beside);
    this.draw();
  }

  async loadOther(key) {
    this.beside = key;
    this.otherFacts = null;
    if (!key) return;
    try {
      const facts = await getJson(`api/run/${encodeURIComponent(key)}`);
      if (this.beside !== key) return;
      this.otherFacts = facts;
    } catch (error) {
      if (!(error instanceof ApiError || error instanceof ServerGone)) throw error;
    }
    this.draw();
  }

  draw() {
    const both = [this.facts, this.otherFacts].filter(Boolean);
    const steps = both.flatMap(({ plots }) => plots.flatMap(stepsOf));
    this.steps = [...new Set(steps)].sort((a, b) => a - b);
    const hasPlots = this.steps.length > 0;
    const hasSpectra = both.some(({ spectra }) => spectra?.length);
    this.controls.hidden = !hasPlots;
    const leftOut = both.flatMap(({ left_out: sentences }) => sentences ?? []);
    fill(
      this.empty,
      leftOut.map((text) => h("p", { class: "notice" }, text)),
      !hasPlots &&
        !hasSpectra &&
        !leftOut.length &&
        this.emptyState(),
    );
    if (hasPlots) this.drawPlots();
    else fill(this.plots);
    this.drawSpectra();
  }

  emptyState() {
    if (isExport || this.page.row?.status === "completed") return emptyState("No plots");
    return emptyState("No plots yet", "Plots appear at each plot interval of the run.");
  }

  /** The chosen step, or the newest: a slider at its end follows the run. */
  get step() {
    const wanted = this.params.get("step");
    return wanted === null ? this.steps.at(-1) : Number(wanted);
  }

  drawPlots() {
    const index = lastAtMost(this.steps, this.step) ?? 0;
    this.input.max = String(this.steps.length - 1);
    this.input.value = String(index);
    this.input.disabled = this.playButton.disabled = this.steps.length < 2;
    this.input.setAttribute("aria-valuetext", `Step ${this.steps[index]}`);
    fill(this.output, `Step ${formatCount(this.steps[index])}`);
    const names = new Map();
    for (const facts of [this.facts, this.otherFacts]) {
      for (const { name, title } of facts?.plots ?? []) names.set(name, title);
    }
    const signature = JSON.stringify([[...names], this.beside, this.otherFacts !== null]);
    if (signature !== this.signature) {
      this.signature = signature;
      this.figures = [...names].map(([name, title]) => this.plotFigures(name, title));
      fill(
        this.plots,
        this.figures.map(({ element }) => element),
      );
    }
    for (const figure of this.figures) figure.show(this.steps[index]);
  }

  plotFigures(name, title) {
    const sides = [[this.page.key, this.facts]];
    if (this.otherFacts) sides.push([this.beside, this.otherFacts]);
    const pictures = sides.map(([key, facts]) => new PlotPicture(key, facts, name, title));
    const element = h(
      "section",
      { class: `plot ${sides.length > 1 ? "pair" : ""}` },
      h("h2", null, bdi(title)),
      h(
        "div",
        { class: "plot-row" },
        pictures.map((picture) => picture.element),
      ),
    );
    const show = (step) =>
      pictures.forEach((picture) => picture.show(step, this.factsOf(picture.key)));
    return { element, show };
  }

  factsOf(key) {
    return key === this.page.key ? this.facts : this.otherFacts;
  }

  goTo(index) {
    const isLast = index >= this.steps.length - 1;
    this.page.patch({ step: isLast ? null : this.steps[index] });
  }

  togglePlay() {
    if (this.timer === null) {
      this.timer = setInterval(() => {
        const next = Number(this.input.value) + 1;
        this.goTo(next >= this.steps.length ? 0 : next);
      }, PLAY_MS);
      if (Number(this.input.value) >= this.steps.length - 1) this.goTo(0);
    } else {
      clearInterval(this.timer);
      this.timer = null;
    }
    this.drawPlayButton();
  }

  drawPlayButton() {
    const label = this.timer === null ? "Play" : "Pause";
    fill(this.playButton, icon(label.toLowerCase()));
    this.playButton.setAttribute("aria-label", label);
    this.playButton.title = label;
  }

  drawSpectra() {
    const wanted = new Map();
    for (const [key, facts] of [
      [this.page.key, this.facts],
      [this.beside, this.otherFacts],
    ]) {
      for (const item of facts?.spectra ?? [])
        wanted.set(`${key} ${item.name}`, { key, row: facts.row, ...item });
    }
    for (const [id, entry] of this.heatMaps) {
      if (!wanted.has(id)) {
        entry.map.destroy();
        entry.element.remove();
        this.heatMaps.delete(id);
      }
    }
    for (const [id, item] of wanted) {
      if (!this.heatMaps.has(id)) this.heatMaps.set(id, this.addHeatMap(item));
      const entry = this.heatMaps.get(id);
      const count = JSON.stringify(item.steps);
      if (entry.count !== count) {
        entry.count = count;
        loadSpectra(entry, item);
      }
    }
  }

  addHeatMap({ name, title, row }) {
    const host = h("div", { class: "chart-host" });
    const note = h("p", { class: "faint" });
    const map = new HeatMap(host, { title, yLabel: "" });
    const heading = h("h2", null, bdi(title), h("small", null, this.otherFacts ? row.id : ""));
    const menu = menuButton(`Save ${title}`, () => chartItems(name, map), {
      iconName: "more",
      iconOnly: true,
    });
    const element = h(
      "section",
      { class: "chart-card", "aria-label": title },
      h("header", null, heading, menu),
      host,
      note,
    );
    this.spectra.append(element);
    return { element, note, map, count: null };
  }
}

async function loadSpectra(entry, { key, name }) {
  try {
    const data = await getJson(`api/run/${encodeURIComponent(key)}/spectra`, { name });
    entry.map.setData(data);
    fill(entry.note);
  } catch (error) {
    if (!(error instanceof ApiError || error instanceof ServerGone)) throw error;
    fill(entry.note, error.message);
  }
}

/** The picture of one plot of one run at the newest step up to the chosen one. */
class PlotPicture {
  constructor(key, facts, name, title) {
    this.key = key;
    this.name = name;
    this.image = h("img", { alt: "", decoding: "async" });
    this.caption = h("figcaption");
    this.title = title;
    this.element = h("figure", null, this.image, this.caption);
    this.run = facts.row.id;
  }

  show(step, facts) {
    const steps = facts.plots.find(({ name }) => name === this.name)?.steps ?? [];
    const index = lastAtMost(steps, step);
    const present = index === null ? null : steps[index];
    this.image.hidden = present === null;
    if (present === null) {
      fill(this.caption, bdi(this.run), ": none up to this step");
      return;
    }
    const [key, name] = [this.key, this.name].map(encodeURIComponent);
    const url = pictureAddress(`api/run/${key}/image/${name}/${present}`);
    if (this.image.getAttribute("src") !== url) this.image.src = url;
    this.image.alt = `${this.title} of ${this.run} at step ${present}`;
    fill(this.caption, bdi(this.run), `, step ${formatCount(present)}`);
  }
}

function stepsOf({ steps }) {
  return steps;
}

/** Return the index of the last of sorted `steps` that is at most `step`, or null. */
function lastAtMost(steps, step) {
  let found = null;
  for (let index = 0; index < steps.length && steps[index] <= step; index += 1) found = index;
  return found;
}
