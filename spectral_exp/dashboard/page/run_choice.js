/** A choice of another run. */

import { choice, setOptions } from "./controls.js";

export class RunChoice {
  /**
   * @param {import("./store.js").RunStore} store
   * @param {{label: string, except: string, extra?: Array<{value: string, label: string}>,
   *   onchange: function(string)}} options
   */
  constructor(store, { label, except, extra = [], onchange }) {
    this.store = store;
    this.except = except;
    this.extra = extra;
    this.value = "";
    this.element = choice(label, [], "", onchange);
    this.draw = () => setOptions(this.element.select, this.options(), this.value);
    store.addEventListener("change", this.draw);
    this.draw();
  }

  destroy() {
    this.store.removeEventListener("change", this.draw);
  }

  set(value) {
    this.value = value ?? "";
    this.draw();
  }

  options() {
    const runs = [...this.store.rows.values()]
      .filter(({ key }) => key !== this.except)
      .sort((a, b) => String(a.id).localeCompare(String(b.id), "en", { numeric: true }))
      .map(({ key, id }) => ({ value: key, label: id }));
    return [{ value: "", label: "None" }, ...this.extra, ...runs];
  }
}
