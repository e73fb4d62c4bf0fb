/** Starts the dashboard: bar, theme, keyboard, polling, and the view that the address names. */

import { isExport } from "./client.js";
import { ComparePage } from "./compare.js";
import { emptyState } from "./controls.js";
import { bdi, fill, h, iconButton, visible } from "./dom.js";
import { formatTime, plural } from "./format.js";
import { setViewShortcuts, showHelp, startKeyboard } from "./keyboard.js";
import { closePopover, toast } from "./popover.js";
import { RunPage } from "./run.js";
import { RunsPage } from "./runs.js";
import {
  currentRoute,
  formatHash,
  lastHash,
  navigate,
  rememberView,
  setHash,
  startViews,
} from "./state.js";
import { RunStore } from "./store.js";
import { nextTheme, startTheme, themeChoice } from "./theme.js";

const PAGES = { runs: RunsPage, run: RunPage, compare: ComparePage };
const TITLES = { runs: "Runs", run: "Run", compare: "Compare" };

const store = new RunStore();
const main = document.getElementById("main");
let view = null;
let shown = "";

/** Show the view that the address names, or let the present view take its new parameters. */
function route() {
  const { page, key, params } = currentRoute();
  const identity = `${page}/${key}`;
  rememberView();
  drawLinks(page);
  if (view && identity === shown) {
    view.update(params);
    return;
  }
  closePopover();
  view?.destroy();
  view = null;
  shown = identity;
  main.replaceChildren();
  main.className = `page-${page}`;
  setTitle(TITLES[page] ?? "Not found");
  const Page = PAGES[page];
  if (!Page) {
    fill(
      main,
      h("h1", { class: "for-screen-readers" }, "Not found"),
      emptyState("There is no such page.", h("a", { href: "#/runs" }, "Go to the runs")),
    );
    setViewShortcuts([]);
    return;
  }
  view = new Page(main, { store, key, params, setTitle });
  setViewShortcuts(view.shortcuts);
  window.scrollTo(0, 0);
}

function setTitle(title) {
  document.title = visible(`${title} · spectral_exp`);
}

const links = h("nav", { "aria-label": "Pages" });
const folder = h("span", { class: "folder" });
const connection = h("span", { class: "connection" });

function drawLinks(page) {
  const link = (name, label) =>
    h(
      "a",
      {
        href: page === name && !isExport ? formatHash(name) : lastHash(name),
        "aria-current": page === name ? "page" : null,
      },
      label,
    );
  fill(links, link("runs", "Runs"), link("compare", "Compare"));
}

function drawBar() {
  const theme = iconButton("auto", "", () => {
    nextTheme();
    drawTheme();
  });
  const drawTheme = () => {
    const name = { auto: "auto", light: "sun", dark: "moon" }[themeChoice()];
    const label = { auto: "as the system", light: "light", dark: "dark" }[themeChoice()];
    const fresh = iconButton(name, `Theme: ${label}`, null);
    theme.replaceChildren(...fresh.childNodes);
    theme.setAttribute("aria-label", `Theme: ${label}`);
    theme.title = `Theme: ${label}`;
  };
  drawTheme();
  fill(
    document.getElementById("bar"),
    h("button", { type: "button", class: "skip", onclick: () => main.focus() }, "Skip to content"),
    h("a", { class: "brand", href: "#/runs" }, "spectral_exp"),
    links,
    folder,
    h(
      "div",
      { class: "bar-end" },
      connection,
      theme,
      iconButton("help", "Keyboard help", showHelp),
    ),
  );
}

function drawStatus() {
  const { found, read, complete, folders } = store.facts;
  fill(folder, folders.length > 0 && bdi(folders.join(", "), { title: folders.join("\n") }));
  const reading = !complete && found > read;
  connection.className = `connection ${store.error ? "broken" : "live"}`;
  const text = connectionText(reading, found, read);
  fill(connection, h("span", { title: text }, text));
  drawBanner();
}

function connectionText(reading, found, read) {
  if (isExport) return "Exported file";
  if (store.error) return "Not connected";
  if (!store.loaded) return "Connecting";
  return reading ? `Reading ${read} of ${plural(found, "run")}` : "Live";
}

function drawBanner() {
  const banner = document.getElementById("banner");
  if (!store.error) {
    banner.replaceChildren();
    return;
  }
  const since = store.lastContact
    ? ` The page shows what was read at ${formatTime(store.lastContact)}.`
    : "";
  const retry = h(
    "button",
    { type: "button", class: "button", onclick: () => store.pollNow() },
    "Try now",
  );
  fill(banner, h("p", null, `${store.error.message}${since}`), retry);
}

window.addEventListener("unhandledrejection", (event) => {
  if (event.reason?.name === "AbortError") event.preventDefault();
  else toast(`Something went wrong: ${event.reason?.message ?? event.reason}`);
});

startTheme();
startKeyboard([
  { key: "1", label: "Go to the runs", act: () => navigate("runs") },
  { key: "2", label: "Go to the comparison", act: () => setHash(lastHash("compare")) },
  {
    key: "t",
    label: "Change the theme",
    act: () => document.querySelector("[aria-label^=Theme]").click(),
  },
]);
drawBar();
store.addEventListener("status", drawStatus);
drawStatus();
store.start();
startViews(route);
