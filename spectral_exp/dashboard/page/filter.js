/** The filter box: conditions in the grammar of `--where`, as removable chips, with completion. */

import { ApiError, ServerGone, getJson } from "./client.js";
import { bdi, fill, h, icon } from "./dom.js";
import { plural } from "./format.js";

const COMPLETE_MS = 120;

export class FilterBox {
  /** @param {{onchange: function(string[])}} options */
  constructor({ onchange }) {
    this.onchange = onchange;
    this.conditions = [];
    this.items = [];
    this.active = -1;
    this.timer = null;
    this.chips = h("span", { class: "chips" });
    this.input = h("input", {
      type: "text",
      role: "combobox",
      autocomplete: "off",
      spellcheck: "false",
      "aria-label": "Filter runs",
      "aria-expanded": "false",
      "aria-controls": "filter-list",
      "aria-autocomplete": "list",
      placeholder: "Filter, for example optimizer=rgd or seed<3",
      oninput: () => this.complete(),
      onkeydown: (event) => this.onKey(event),
      onblur: () => this.close(),
      onfocus: () => this.complete(),
    });
    this.list = h("ul", {
      id: "filter-list",
      role: "listbox",
      "aria-label": "Completions",
      hidden: true,
    });
    this.error = h("p", { class: "filter-error", role: "alert" });
    this.element = h(
      "div",
      { class: "filter" },
      h(
        "div",
        { class: "filter-box" },
        icon("search"),
        this.chips,
        this.input,
        h("kbd", null, "/"),
      ),
      this.list,
      this.error,
    );
  }

  /** Show conditions and what is wrong with them. */
  set(conditions, error) {
    if (conditions.join("\n") !== this.conditions.join("\n")) {
      this.conditions = conditions;
      fill(
        this.chips,
        conditions.map((condition, index) => this.chip(condition, index)),
      );
    }
    fill(this.error, error);
  }

  focus() {
    this.input.focus();
    this.input.select();
  }

  chip(condition, index) {
    const remove = () => {
      this.emit(this.conditions.filter((_, other) => other !== index));
      this.input.focus();
    };
    return h(
      "button",
      {
        type: "button",
        class: "chip",
        "aria-label": `Remove condition ${condition}`,
        onclick: remove,
      },
      bdi(condition),
      icon("close"),
    );
  }

  emit(conditions) {
    this.onchange(conditions);
  }

  add(text) {
    const condition = text.trim();
    this.input.value = "";
    this.close();
    if (condition) this.emit([...new Set([...this.conditions, condition])]);
  }

  onKey(event) {
    const isOpen = !this.list.hidden;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (isOpen) this.move(event.key === "ArrowDown" ? 1 : -1);
      else this.complete();
    } else if ((event.key === "Enter" || event.key === "Tab") && isOpen && this.active >= 0) {
      event.preventDefault();
      this.choose(this.items[this.active]);
    } else if (event.key === "Enter") this.add(this.input.value);
    else if (event.key === "Backspace" && this.input.value === "" && this.conditions.length) {
      this.emit(this.conditions.slice(0, -1));
    } else if (event.key === "Escape") {
      if (isOpen) this.close();
      else this.input.blur();
    }
  }

  move(offset) {
    this.active = (this.active + offset + this.items.length) % this.items.length;
    [...this.list.children].forEach((item, index) => {
      item.setAttribute("aria-selected", String(index === this.active));
      if (index === this.active) item.scrollIntoView({ block: "nearest" });
    });
    this.input.setAttribute("aria-activedescendant", `filter-item-${this.active}`);
  }

  // A condition is taken as it is; after a name its values are offered.
  choose({ text, runs }) {
    if (runs !== null) this.add(text);
    else {
      this.input.value = `${text}=`;
      this.complete();
    }
  }

  complete() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.load(this.input.value), COMPLETE_MS);
  }

  async load(text) {
    let items = [];
    try {
      const answer = await getJson("api/complete", { text });
      items = answer.items;
    } catch (error) {
      // Completion is a convenience: the filter works without it.
      if (!(error instanceof ApiError || error instanceof ServerGone)) throw error;
    }
    if (this.input.value !== text || document.activeElement !== this.input) return;
    this.show(items.filter((item) => item.text !== text));
  }

  show(items) {
    this.items = items;
    this.active = -1;
    fill(
      this.list,
      items.map((item, index) =>
        h(
          "li",
          {
            role: "option",
            id: `filter-item-${index}`,
            "aria-selected": "false",
            // Before the input loses the focus, which closes the list.
            onpointerdown: (event) => {
              event.preventDefault();
              this.choose(item);
            },
          },
          bdi(item.text),
          item.runs !== null && h("span", { class: "count" }, plural(item.runs, "run")),
        ),
      ),
    );
    this.list.hidden = items.length === 0;
    this.input.setAttribute("aria-expanded", String(items.length > 0));
    this.input.removeAttribute("aria-activedescendant");
  }

  close() {
    clearTimeout(this.timer);
    this.show([]);
  }
}
