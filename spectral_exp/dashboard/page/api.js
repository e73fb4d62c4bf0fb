/** The numbers of curves and bands; requests and embedded answers are the business of client.js. */

import { ApiError, getBytes, isExport } from "./client.js";
import { decodeFrame } from "./frame.js";

/**
 * Fetch one metric of several runs. `params` are those of `api/curves`; an array is joined with
 * commas. Returns `{header, series: [{key, raw, points, nan, posinf, neginf, columns}]}`.
 */
export function fetchCurves(params, options = {}) {
  return fetchFrame("api/curves", "runs", params, options);
}

/** Fetch a measurement of the machines of several runs, as `fetchCurves` does. */
export function fetchSystem(params, options = {}) {
  return fetchFrame("api/system", "runs", params, options);
}

/** Fetch mean, interval and extremes of groups of runs: the columns are those of `api/band`. */
export function fetchBand(params, options = {}) {
  return fetchFrame("api/band", "groups", params, options);
}

async function fetchFrame(path, names, params, { signal } = {}) {
  if (isExport) return fetchSingly(path, names, params);
  return decodeFrame(await getBytes(path, params, { signal }));
}

// An exported file holds one answer for each run and group, so that any choice of them works.
async function fetchSingly(path, names, params) {
  const frames = [];
  for (const name of params[names]) {
    try {
      frames.push(decodeFrame(await getBytes(path, { ...params, [names]: [name] })));
    } catch (error) {
      // A run without this metric is left out.
      if (!(error instanceof ApiError)) throw error;
    }
  }
  const extents = frames.map(({ header }) => header.extent).filter(Boolean);
  const extent = extents.length
    ? [Math.min(...extents.map(([low]) => low)), Math.max(...extents.map(([, high]) => high))]
    : null;
  return {
    header: { ...frames[0]?.header, extent },
    series: frames.flatMap(({ series }) => series),
  };
}
