/**
 * Requests to the server. In an exported file the answers are in the document itself, under the
 * address that would be asked without the parameters of a window or a poll.
 */

/** The server answered with an error; `message` is its sentence. */
export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.name = "ApiError";
    this.status = status;
  }
}

/** Nothing answered. */
export class ServerGone extends Error {
  constructor() {
    super("The server does not answer.");
    this.name = "ServerGone";
  }
}

// An exported file holds one answer whatever the window, the poll or the state of the runs.
const WINDOW_PARAMETERS = new Set(["lo", "hi", "bins", "since", "watch", "seq", "quick"]);

const savedElement = document.getElementById("saved");

/**
 * What an exported file holds beside the page, or null: `answers` of the server, the `view` and
 * `theme` that it begins with, and the address of its `comparison`, or null.
 */
export const saved = savedElement ? JSON.parse(savedElement.textContent) : null;

/** Whether this page is an exported file. */
export const isExport = saved !== null;

/**
 * Return the relative address of an endpoint. An array is repeated (`where`) if it is wrapped in
 * `{each: [...]}` and joined with commas otherwise; empty values are left out.
 */
export function address(path, params = {}) {
  const query = queryOf(params).toString();
  return query ? `${path}?${query}` : path;
}

function queryOf(params, leaveOut = new Set()) {
  const query = new URLSearchParams();
  for (const name of Object.keys(params).sort()) {
    const value = params[name];
    if (leaveOut.has(name) || value === null || value === undefined || value === "") continue;
    if (value.each) for (const item of value.each) query.append(name, item);
    else if (Array.isArray(value)) {
      if (value.length) query.append(name, value.join(","));
    } else query.append(name, String(value));
  }
  return query;
}

/** GET an endpoint and return its JSON. Throws ApiError, ServerGone or AbortError. */
export async function getJson(path, params = {}, { signal } = {}) {
  if (isExport) return JSON.parse(new TextDecoder().decode(await savedAnswer(path, params)));
  return (await request(address(path, params), { signal })).json();
}

/** GET an endpoint and return its bytes as an ArrayBuffer. */
export async function getBytes(path, params = {}, { signal } = {}) {
  if (isExport) return savedAnswer(path, params);
  return (await request(address(path, params), { signal })).arrayBuffer();
}

/** Return the address of a picture of the server, or null if an exported file does not hold it. */
export function pictureAddress(path) {
  if (!isExport) return path;
  const picture = saved.answers[path]?.png;
  return picture === undefined ? null : `data:image/png;base64,${picture}`;
}

/** Return the address of a figure in a format; an exported file holds the SVG alone. */
export async function figureAddress(name, suffix, params) {
  const path = `api/figure/${encodeURIComponent(name)}.${suffix}`;
  if (!isExport) return address(path, params);
  const text = new TextDecoder().decode(await savedAnswer(path, params));
  return `data:image/svg+xml,${encodeURIComponent(text)}`;
}

/** POST JSON to an endpoint of a server that allows edits. */
export async function postJson(path, body) {
  const headers = { "Content-Type": "application/json", "X-Spectral-Edit": "1" };
  return (await request(path, { method: "POST", headers, body: JSON.stringify(body) })).json();
}

async function savedAnswer(path, params) {
  const query = queryOf(params, WINDOW_PARAMETERS).toString();
  const answer = saved.answers[query ? `${path}?${query}` : path];
  if (answer === undefined) throw new ApiError(404, "This is not part of the exported file.");
  const packed = Uint8Array.from(atob(answer.gzip), (character) => character.charCodeAt(0));
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(unpacked).arrayBuffer();
}

async function request(url, options) {
  let response;
  try {
    response = await fetch(url, { credentials: "same-origin", cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerGone();
  }
  if (!response.ok) throw new ApiError(response.status, await errorText(response));
  return response;
}

async function errorText(response) {
  const text = await response.text();
  try {
    const { error } = JSON.parse(text);
    if (typeof error === "string") return error;
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
  }
  return text.slice(0, 300) || `The server answered with status ${response.status}.`;
}
