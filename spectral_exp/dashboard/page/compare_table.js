/** A table of the comparison as the server has formatted it. */

import { bdi, h } from "./dom.js";
import { sourcedNumber } from "./popover.js";

/**
 * @param {{title: string, columns: Array<string|{title: string, align?: string}>,
 *   rows: Array<Array<string|{text: string, source?: Object, separated?: boolean}>>}} table
 */
export function comparisonTable({ title, columns, rows }) {
  const heads = columns.map((column) => (typeof column === "string" ? { title: column } : column));
  const isNumber = heads.map(
    (head, index) =>
      head.align === "right" ||
      (index > 0 && rows.every((row) => looksNumeric(textOf(row[index])))),
  );
  const className = (index) => (isNumber[index] ? "number" : null);
  return h(
    "section",
    { class: "comparison" },
    h("h2", null, title),
    h(
      "div",
      { class: "table-scroll plain", tabindex: "0", role: "region", "aria-label": title },
      h(
        "table",
        { class: "grid" },
        h(
          "thead",
          null,
          h(
            "tr",
            null,
            heads.map((head, index) =>
              h("th", { class: className(index), scope: "col" }, head.title),
            ),
          ),
        ),
        h(
          "tbody",
          null,
          rows.map((row) =>
            h(
              "tr",
              null,
              row.map((cell, index) => h("td", { class: className(index) }, cellContent(cell))),
            ),
          ),
        ),
      ),
    ),
  );
}

function textOf(cell) {
  return typeof cell === "object" && cell !== null ? (cell.text ?? "") : String(cell ?? "");
}

function looksNumeric(text) {
  return text === "" || /^[-+−]?[\d[(.]/.test(text);
}

function cellContent(cell) {
  if (cell === null || typeof cell !== "object") return bdi(cell ?? "");
  return sourcedNumber(cell, { class: cell.separated ? "separated" : "" });
}
