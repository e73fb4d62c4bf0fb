/** Offers files to the browser for saving. */

import { address, isExport } from "./client.js";
import { copyText } from "./popover.js";
import { currentAddress, currentHash } from "./state.js";

/**
 * @param {string} name
 * @param {string|Blob} content
 * @param {string} type MIME type of a text
 */
export function saveFile(name, content, type) {
  const blob = content instanceof Blob ? content : new Blob([content], { type });
  const url = URL.createObjectURL(blob);
  saveAddress(url, name);
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

function saveAddress(url, name) {
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
}

/** Return the entry of a menu that copies the address of the present view, if it has one. */
export function addressItem() {
  if (currentAddress() === null) return [];
  return [{ label: "Copy the address", act: () => copyText(currentAddress(), "the address") }];
}

/** Return the entry of a menu that saves the present view as one file; an export has none. */
export function exportItem() {
  if (isExport) return [];
  const act = () => saveAddress(address("api/export", { hash: currentHash() }), "dashboard.html");
  return [{ label: "Save as one HTML file", act }];
}

/** Return the entries of a menu that save a chart; all are disabled while there is none. */
export function chartItems(name, chart) {
  const file = name.replace(/[^\w.-]+/g, "_");
  const save = (suffix, type, make) => ({
    label: `Save as ${suffix.toUpperCase()}`,
    disabled: !chart,
    act: async () => saveFile(`${file}.${suffix}`, await make(), type),
  });
  return [
    save("svg", "image/svg+xml", () => chart.toSVG()),
    save("png", "image/png", () => chart.toPNG()),
    ...(chart?.toCSV ? [save("csv", "text/csv", () => chart.toCSV())] : []),
  ];
}
