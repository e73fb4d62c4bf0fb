/** Form controls with labels: choices, switches, sliders. */

import { fill, h, icon } from "./dom.js";
import { openMenu } from "./popover.js";

/**
 * Return a labelled `<select>`.
 * @param {string} label
 * @param {Array<string|{value: string, label: string}>} options
 * @param {string} value
 * @param {function(string)} onchange
 */
export function choice(label, options, value, onchange) {
  const select = h("select", { "aria-label": label, onchange: () => onchange(select.value) });
  const element = h("label", { class: "choice" }, h("span", null, label), select);
  setOptions(select, options, value);
  return Object.assign(element, { select });
}

/** Replace the options of a select; a value that is not among them is added. */
export function setOptions(select, options, value) {
  const items = options.map((item) =>
    typeof item === "string" ? { value: item, label: item } : item,
  );
  if (!items.some((item) => item.value === value)) items.unshift({ value, label: value });
  const signature = JSON.stringify(items);
  // An unchanged list stays as it is, so that an open drop-down is not closed by an update.
  if (select.dataset.signature !== signature) {
    select.dataset.signature = signature;
    fill(
      select,
      items.map((item) => h("option", { value: item.value }, item.label)),
    );
  }
  select.value = value;
}

/** Return a group of buttons of which one is pressed. */
export function segmented(label, options, value, onchange) {
  const buttons = options.map((option) =>
    h(
      "button",
      {
        type: "button",
        "aria-pressed": String(option.value === value),
        title: option.title ?? null,
        onclick: () => onchange(option.value),
      },
      option.label,
    ),
  );
  const element = h("div", { class: "segmented", role: "group", "aria-label": label }, buttons);
  element.set = (present) => {
    options.forEach((option, index) => {
      buttons[index].setAttribute("aria-pressed", String(option.value === present));
    });
  };
  return element;
}

/** Return a labelled slider; `show` makes the text beside it. */
export function slider(label, { min, max, step, value, oninput, show = String }) {
  const output = h("output", null, show(value));
  const input = h("input", {
    type: "range",
    min,
    max,
    step,
    value,
    oninput: () => {
      fill(output, show(Number(input.value)));
      oninput(Number(input.value));
    },
  });
  const element = h("label", { class: "slider" }, h("span", null, label), input, output);
  element.set = (present) => {
    input.value = present;
    fill(output, show(present));
  };
  return Object.assign(element, { input });
}

/** Return a labelled checkbox. */
export function checkbox(label, checked, onchange) {
  const input = h("input", { type: "checkbox", checked, onchange: () => onchange(input.checked) });
  return Object.assign(h("label", { class: "check" }, input, h("span", null, label)), { input });
}

/** Return a button that opens a menu; `items` is called when it opens. */
export function menuButton(label, items, { iconName = "down", iconOnly = false } = {}) {
  const button = h(
    "button",
    {
      type: "button",
      class: iconOnly ? "icon-button" : "button",
      "aria-haspopup": "menu",
      "aria-expanded": "false",
      "aria-label": iconOnly ? label : null,
      title: iconOnly ? label : null,
      onclick: () => openMenu(button, items()),
    },
    !iconOnly && label,
    icon(iconName),
  );
  return button;
}

/** Return a button. */
export function button(label, onclick, props = {}) {
  return h("button", { type: "button", class: "button", onclick, ...props }, label);
}

/** Return a message for a place without content. */
export function emptyState(title, ...details) {
  return h(
    "div",
    { class: "empty" },
    h("h2", null, title),
    details.filter(Boolean).map((line) => h("p", null, line)),
  );
}

/** Call `act` at most once per `ms`, and once more after the last call. */
export function throttle(act, ms) {
  let timer = null;
  let last = 0;
  const run = () => {
    timer = null;
    last = performance.now();
    act();
  };
  const throttled = () => {
    if (timer === null) timer = setTimeout(run, Math.max(0, last + ms - performance.now()));
  };
  throttled.cancel = () => {
    clearTimeout(timer);
    timer = null;
  };
  return throttled;
}
