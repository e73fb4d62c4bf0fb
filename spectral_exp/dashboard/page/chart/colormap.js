/** A perceptually uniform map of shares to colours. */

import { mix } from "./theme.js";

/** Equal steps in Oklab, from dark violet over blue and green to a light yellow. */
export const STOPS = [
  "#191224",
  "#221b3f",
  "#25285a",
  "#1f3874",
  "#054b86",
  "#025e89",
  "#02718f",
  "#088595",
  "#089999",
  "#06ac99",
  "#39bd94",
  "#75c991",
  "#a3d396",
  "#c9dda6",
  "#e6e8c2",
  "#f9f5e8",
];

/** Stops nearest to the background, which something differs from even where it is rare. */
const LEAST = 2;

/**
 * Return a function from 0..1 to a colour. Small shares come close to the background but keep
 * apart from it; 0 is the background itself, null.
 *
 * @param {boolean} isDark Whether the background is dark.
 */
export function colorMap(isDark) {
  const stops = isDark ? STOPS : [...STOPS].reverse();
  const last = stops.length - 1;
  return (share) => {
    if (!(share > 0)) return null;
    const place = LEAST + Math.min(share, 1) * (last - LEAST);
    const index = Math.min(Math.floor(place), last - 1);
    return mix(stops[index], stops[index + 1], place - index);
  };
}
