/** A table of the comparison as the server has formatted it. */

import { bdi, h } from "./dom.js";
import { sourceDetails, sourcedNumber } from "./popover.js";

/**
 * @typedef {{title: string, columns: string[], is_text: boolean[],
 *   rows: Array<Array<{text: string, bold: boolean}>>, sources: Object[],
 *   formulas: Array<string|null>}} Table `sources` are those of the rows; a formula is that of a
 *   column if it is not that of the row
 */

// Longer texts of a narrow table are broken into lines of this many characters at least.
const LONG_TEXT = 32;

/** @param {Table} table */
export function comparisonTable(table) {
  const { title, columns, is_text: isText, rows } = table;
  const props = (index) => ({ class: isText[index] ? null : "number" });
  const head = (text, index) => h("th", { ...props(index), scope: "col" }, text);
  const cell = (row, { text, bold }, index) => {
    const style = { class: bold ? "separated" : "" };
    const content = isText[index]
      ? h("span", style, bdi(text))
      : sourcedNumber({ text, source: sourceOf(table, row, index) }, style);
    const isLong = isText[index] && text.length > LONG_TEXT;
    return h("td", isLong ? { class: "long" } : props(index), content);
  };
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
          rows.map((cells, row) =>
            h(
              "tr",
              null,
              cells.map((one, index) => cell(row, one, index)),
            ),
          ),
        ),
      ),
    ),
  );
}

function sourceOf({ sources, formulas }, row, index) {
  return { ...sources[row], formula: formulas[index] ?? sources[row].formula };
}

/** Return the sources of the numbers of a table, row by row, for a dialog. */
export function tableSources({ title, columns, is_text: isText, rows, sources, formulas }) {
  const first = isText.indexOf(false);
  const others = columns.flatMap((column, index) =>
    formulas[index] ? [`${column}: ${formulas[index]}`] : [],
  );
  const name = (cells) => cells.slice(0, first).map(({ text }) => text);
  return [
    h("h3", null, title),
    rows.map((cells, row) => sourceDetails({ text: name(cells).join(", "), source: sources[row] })),
    h("p", { class: "faint" }, others.join("; ")),
  ];
}
