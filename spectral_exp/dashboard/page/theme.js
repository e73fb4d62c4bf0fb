/** Light, dark, or as the system has it. Charts draw again on the event `themechange`. */

import { saved } from "./client.js";

const ORDER = ["auto", "light", "dark"];
const STORAGE_KEY = "spectral-exp-theme";
const systemIsDark = window.matchMedia("(prefers-color-scheme: dark)");

let choice = "auto";

/** Apply the choice of the file or the stored one, and follow the system. */
export function startTheme() {
  const wanted = [saved?.theme, readStored()].filter((name) => ORDER.includes(name));
  choice = wanted.find((name) => name !== "auto") ?? "auto";
  systemIsDark.addEventListener("change", apply);
  apply();
}

/** Return the present choice: "auto", "light" or "dark". */
export function themeChoice() {
  return choice;
}

/** Go to the next choice and return it. */
export function nextTheme() {
  choice = ORDER[(ORDER.indexOf(choice) + 1) % ORDER.length];
  try {
    localStorage.setItem(STORAGE_KEY, choice);
  } catch (error) {
    // A browser that keeps nothing for this page keeps the choice until it is closed.
    if (!(error instanceof DOMException)) throw error;
  }
  apply();
  return choice;
}

function readStored() {
  try {
    return localStorage.getItem(STORAGE_KEY);
  } catch (error) {
    if (error instanceof DOMException) return null;
    throw error;
  }
}

function apply() {
  const isDark = choice === "dark" || (choice === "auto" && systemIsDark.matches);
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
  window.dispatchEvent(new Event("themechange"));
}
