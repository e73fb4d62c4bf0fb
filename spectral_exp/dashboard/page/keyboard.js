/** Keys of the page and of the present view, and the overlay that lists them. */

import { h } from "./dom.js";
import { openDialog } from "./popover.js";

/** @typedef {{key: string, label: string, act: function(KeyboardEvent)}} Shortcut */

/** @type {Shortcut[]} */
let pageShortcuts = [];
/** @type {Shortcut[]} */
let viewShortcuts = [];

/** Listen for keys; `shortcuts` work in every view. */
export function startKeyboard(shortcuts) {
  pageShortcuts = [...shortcuts, { key: "?", label: "Show this help", act: showHelp }];
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
    if (document.querySelector("dialog[open]")) return;
    const shortcut = [...viewShortcuts, ...pageShortcuts].find(({ key }) => key === event.key);
    if (!shortcut) return;
    event.preventDefault();
    shortcut.act(event);
  });
}

/** Set the keys of the present view. */
export function setViewShortcuts(shortcuts) {
  viewShortcuts = shortcuts;
}

function isTyping(target) {
  return (
    target instanceof Element && target.matches("input:not([type=checkbox]), textarea, select")
  );
}

/** Show all keys. */
export function showHelp() {
  const rows = (shortcuts) =>
    shortcuts.map(({ key, label }) =>
      h("tr", null, h("td", null, h("kbd", null, key)), h("td", null, label)),
    );
  const table = (title, shortcuts) =>
    shortcuts.length > 0 && [
      h("h3", null, title),
      h("table", { class: "keys" }, h("tbody", null, rows(shortcuts))),
    ];
  openDialog(
    "Keyboard and mouse",
    h(
      "div",
      { class: "help" },
      h("div", null, table("This page", viewShortcuts), table("Everywhere", pageShortcuts)),
      h(
        "div",
        null,
        h("h3", null, "Charts"),
        h("table", { class: "keys" }, h("tbody", null, CHART_HELP())),
      ),
    ),
  );
}

const CHART_HELP = () =>
  [
    ["Drag", "Zoom to a range of x, in all charts"],
    ["Wheel, pinch", "Zoom at the pointer"],
    ["Double click", "Show everything again"],
    ["← →", "Move the cursor of the focused chart"],
    ["Cross", "The value is NaN"],
    ["Triangle", "The value lies outside the chart or is infinite"],
  ].map(([what, meaning]) =>
    h("tr", null, h("td", null, h("kbd", null, what)), h("td", null, meaning)),
  );
