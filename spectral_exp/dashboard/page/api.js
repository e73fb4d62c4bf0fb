/** The numbers of curves and bands; requests and embedded answers are the business of client.js. */

import { getBytes } from "./client.js";
import { decodeFrame } from "./frame.js";

/**
 * Fetch one metric of several runs. `params` are those of `api/curves`; an array is joined with
 * commas. Returns `{header, series: [{key, raw, points, nan, posinf, neginf, columns}]}`.
 */
export function fetchCurves(params, options = {}) {
  return fetchFrame("api/curves", params, options);
}

/** Fetch mean, interval and extremes of groups of runs: the columns are those of `api/band`. */
export function fetchBand(params, options = {}) {
  return fetchFrame("api/band", params, options);
}

async function fetchFrame(path, params, { signal } = {}) {
  return decodeFrame(await getBytes(path, params, { signal }));
}
