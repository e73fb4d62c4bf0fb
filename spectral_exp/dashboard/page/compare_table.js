/** A table of the comparison as the server has formatted it. */

import { bdi, h } from "./dom.js";

/**
 * @param {{title: string, columns: string[], is_text: boolean[],
 *   rows: Array<Array<{text: string, bold: boolean}>>}} table
 */
export function comparisonTable({ title, columns, is_text: isText, rows }) {
  const props = (index) => ({ class: isText[index] ? null : "number" });
  const head = (text, index) => h("th", { ...props(index), scope: "col" }, text);
  const cell = ({ text, bold }, index) =>
    h("td", props(index), h("span", { class: bold ? "separated" : null }, bdi(text)));
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
        h("thead", null, h("tr", null, columns.map(head))),
        h(
          "tbody",
          null,
          rows.map((row) => h("tr", null, row.map(cell))),
        ),
      ),
    ),
  );
}
