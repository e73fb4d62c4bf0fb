/** Small windows above the page: the source of a number, menus, short messages. */

import { bdi, fill, h } from "./dom.js";

const MARGIN = 8;
let current = null;

/** Close the open popover, if there is one. */
export function closePopover() {
  if (!current) return;
  const { element, anchor, restoreFocus, expandable } = current;
  current = null;
  const hadFocus = element.contains(document.activeElement);
  element.remove();
  if (expandable) anchor.setAttribute("aria-expanded", "false");
  if (restoreFocus && hadFocus && anchor.isConnected) anchor.focus();
}

/** Show `content` below `anchor`. A pinned one stays until a click elsewhere or Escape. */
function open(anchor, content, { role, pinned, label }) {
  closePopover();
  const element = h(
    "div",
    { class: `popover popover-${role}`, role, "aria-label": label },
    content,
  );
  // Within a landmark, where screen readers look for it.
  document.getElementById("main").append(element);
  place(element, anchor.getBoundingClientRect());
  current = { element, anchor, pinned, restoreFocus: pinned, expandable: role === "menu" };
  return element;
}

function place(element, box) {
  const width = element.offsetWidth;
  const height = element.offsetHeight;
  const left = Math.min(box.left, window.innerWidth - width - MARGIN);
  const below = box.bottom + 4;
  const fits = below + height < window.innerHeight - MARGIN;
  const top = fits ? below : Math.max(MARGIN, box.top - height - 4);
  element.style.left = `${Math.max(MARGIN, left)}px`;
  element.style.top = `${top}px`;
}

document.addEventListener("pointerdown", (event) => {
  if (
    current &&
    !current.element.contains(event.target) &&
    !current.anchor.contains(event.target)
  ) {
    closePopover();
  }
});
document.addEventListener(
  "keydown",
  (event) => {
    if (event.key === "Escape" && current) {
      event.stopPropagation();
      closePopover();
    }
  },
  true,
);
window.addEventListener("resize", closePopover);
document.addEventListener(
  "scroll",
  (event) => {
    if (current && !current.element.contains(event.target)) closePopover();
  },
  true,
);

/** Whether there is a number to show. */
function isMissing(number) {
  return !number || number.text === undefined || number.text === "" || number.text === "-";
}

function intervalText({ interval_text: text }) {
  return text && text !== "-" ? text : "";
}

/** Return a number and its interval as plain text. */
export function numberText(number) {
  return isMissing(number) ? "" : `${number.text} ${intervalText(number)}`.trimEnd();
}

/**
 * Return a measured number with its interval; hovering or clicking shows where it comes from.
 * @param {{text: string, interval_text?: string, source?: Object}|null} number
 */
export function sourcedNumber(number, props = {}) {
  if (isMissing(number)) return h("span", { class: "none" }, "–");
  const interval = intervalText(number);
  const content = [number.text, interval && [" ", h("span", { class: "interval" }, interval)]];
  if (!number.source) return h("span", props, content);
  const element = h("span", { ...props, class: `sourced ${props.class ?? ""}` }, content);
  element.addEventListener("pointerenter", (event) => {
    if (event.pointerType === "mouse" && !current?.pinned) showSource(element, number, false);
  });
  element.addEventListener("pointerleave", () => {
    if (current && !current.pinned && current.anchor === element) closePopover();
  });
  element.addEventListener("click", (event) => {
    event.stopPropagation();
    showSource(element, number, true);
  });
  return element;
}

/** Show which runs, metric, step and formula a number comes from. */
function showSource(anchor, number, pinned) {
  open(anchor, sourceDetails(number), {
    role: pinned ? "dialog" : "tooltip",
    pinned,
    label: "Source",
  });
}

const SOURCE_ROWS = [
  ["metric", "Metric"],
  ["at", "At"],
  ["formula", "Formula"],
  ["runs", "Runs"],
  ["file", "File"],
];

/** Return a description list of the source of a number. */
export function sourceDetails(number) {
  const { source } = number;
  const list = h("dl", { class: "source" });
  for (const [name, title] of SOURCE_ROWS) {
    const value = source?.[name];
    if (value === null || value === undefined || value.length === 0) continue;
    const items = Array.isArray(value) ? value : [value];
    list.append(
      h("dt", null, title),
      h(
        "dd",
        null,
        items.map((item) => h("div", null, bdi(item))),
      ),
    );
  }
  return [h("div", { class: "source-value" }, numberText(number)), list];
}

/**
 * Open a menu below `anchor`. It closes after a choice, unless what is chosen can be checked.
 * @param {HTMLElement} anchor
 * @param {Array<{label: string, hint?: string, checked?: boolean, disabled?: boolean,
 *   act: function()}|null>} items null is a line between two parts.
 */
export function openMenu(anchor, items) {
  if (current?.anchor === anchor) {
    closePopover();
    return;
  }
  const buttons = items.map((item) => (item ? menuItem(item) : h("div", { role: "separator" })));
  const element = open(anchor, buttons, { role: "menu", pinned: true, label: "Menu" });
  anchor.setAttribute("aria-expanded", "true");
  element.addEventListener("keydown", moveInMenu);
  element.querySelector("button:not(:disabled)")?.focus();
}

function menuItem({ label, hint, checked, disabled, act }) {
  const isCheck = checked !== undefined;
  return h(
    "button",
    {
      type: "button",
      role: isCheck ? "menuitemcheckbox" : "menuitem",
      "aria-checked": isCheck ? String(checked) : null,
      disabled,
      onclick: ({ currentTarget: button }) => {
        if (isCheck) {
          button.setAttribute("aria-checked", String(button.ariaChecked !== "true"));
        } else closePopover();
        act();
      },
    },
    h("span", { class: "menu-label" }, label),
    hint && h("span", { class: "menu-hint" }, hint),
  );
}

function moveInMenu(event) {
  const offset = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!offset) return;
  event.preventDefault();
  const buttons = [...event.currentTarget.querySelectorAll("button:not(:disabled)")];
  const index = buttons.indexOf(document.activeElement) + offset;
  buttons[(index + buttons.length) % buttons.length].focus();
}

let toastTimer = null;

/** Show a short message, which screen readers read too. */
export function toast(text) {
  const element = document.getElementById("toast");
  fill(element, text);
  element.classList.add("shown");
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => element.classList.remove("shown"), 3500);
}

/** Copy `text` and say so; where copying is not allowed, show the text for copying by hand. */
export async function copyText(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    toast(`Copied ${what}.`);
  } catch {
    // Without HTTPS or the permission there is no clipboard.
    showText(`Copy ${what}`, text);
  }
}

/** Show a dialog with text to read or copy. */
function showText(title, text) {
  const area = h("textarea", { readonly: true, rows: "12", "aria-label": title, value: text });
  const dialog = openDialog(title, area);
  area.focus();
  area.select();
  return dialog;
}

/** Open a modal dialog, which Escape or its button closes. */
export function openDialog(title, ...content) {
  const close = () => dialog.close();
  const dialog = h(
    "dialog",
    { class: "dialog", "aria-label": title },
    h(
      "div",
      { class: "dialog-head" },
      h("h2", null, title),
      h("button", { type: "button", class: "button", onclick: close }, "Close"),
    ),
    content,
  );
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) close();
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}
