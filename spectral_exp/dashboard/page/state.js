/**
 * The state of a view is the hash of the address: `#/runs?where=seed=1&metric=val_bpb`,
 * `#/run/KEY?tab=log`, `#/compare?groups=A,B`. The server never sees it, and a copied address or an
 * exported file shows the same view.
 */

import { saved } from "./client.js";

// In a frame that a document brings with it (`srcdoc`) the address belongs to no page: the history
// refuses changes, and a link to a fragment leads to the page around it. The view is then kept here.
const hasAddress = ["http:", "https:", "file:"].includes(location.protocol);
let keptHash = location.hash || (saved?.view ?? "");

/** Show the first view, and follow links and the history. `show` is called for each view. */
export function startViews(show) {
  if (hasAddress) {
    if (keptHash !== location.hash) history.replaceState(null, "", keptHash);
    window.addEventListener("hashchange", show);
  } else document.addEventListener("click", followLink);
  window.addEventListener("routechange", show);
  show();
}

function followLink(event) {
  const link = event.target.closest?.("a[href^='#']");
  if (!link) return;
  event.preventDefault();
  setHash(link.getAttribute("href"));
}

/** Return the hash of the present view. */
export function currentHash() {
  return hasAddress ? location.hash : keptHash;
}

/** Return the address of the present view, or null if it has none. */
export function currentAddress() {
  return hasAddress ? location.href : null;
}

/** Go to another view, as a new entry of the history. */
export function setHash(hash) {
  if (hasAddress) location.hash = hash;
  else replaceHash(hash);
}

function replaceHash(hash) {
  if (hasAddress) history.replaceState(null, "", hash);
  else keptHash = hash;
  window.dispatchEvent(new Event("routechange"));
}

/** @typedef {{page: string, key: string, params: URLSearchParams}} Route */

/** @returns {Route} */
function parseHash(hash) {
  const [path, query = ""] = splitOnce(hash.replace(/^#\/?/, ""), "?");
  const [page, key = ""] = splitOnce(path, "/");
  return { page: page || "runs", key: decode(key), params: new URLSearchParams(query) };
}

/** Return the hash of a view; `params` is an object or URLSearchParams. */
export function formatHash(page, key = "", params = {}) {
  const search = params instanceof URLSearchParams ? params : toParams(params);
  // Commas, colons and the like are legal in a fragment and easier to read.
  const query = search.toString().replace(/%(2C|3A|2F|3C|3E|2A)/g, (code) => decode(code));
  return `#/${page}${key ? `/${encodeURIComponent(key)}` : ""}${query ? `?${query}` : ""}`;
}

/** @returns {Route} */
export function currentRoute() {
  return parseHash(currentHash());
}

/** Go to a page, as a new entry of the history. */
export function navigate(page, key, params) {
  setHash(formatHash(page, key, params));
}

/**
 * Change parameters of the present view. A value of null, "" or an empty list removes one.
 * Each change replaces the entry of the history, so that "back" leaves the view.
 */
export function patchParams(changes) {
  const { page, key, params } = currentRoute();
  for (const [name, value] of Object.entries(changes)) {
    params.delete(name);
    for (const item of listOf(value)) params.append(name, item);
  }
  replaceHash(formatHash(page, key, params));
}

const lastHashes = new Map(saved?.comparison ? [["compare", saved.comparison]] : []);

/** Remember the present view, for links back to it. */
export function rememberView() {
  lastHashes.set(currentRoute().page, currentHash());
}

/** Return the hash of a page as it was left, or without parameters; a file has one comparison. */
export function lastHash(page) {
  return lastHashes.get(page) || formatHash(page);
}

function toParams(values) {
  const params = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    for (const item of listOf(value)) params.append(name, item);
  }
  return params;
}

function listOf(value) {
  const items = Array.isArray(value) ? value : [value];
  return items.filter((item) => item !== null && item !== undefined && item !== "").map(String);
}

function splitOnce(text, separator) {
  const at = text.indexOf(separator);
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + 1)];
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch (error) {
    if (error instanceof URIError) return text;
    throw error;
  }
}

/** Return the ids in a comma-separated parameter, or null if the parameter is missing. */
export function idList(params, name) {
  return params.has(name) ? params.get(name).split(",").filter(Boolean) : null;
}
