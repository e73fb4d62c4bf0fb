/** The runs table as CSV, Markdown and LaTeX. */

/** Return the table as CSV. Numbers keep all their digits; bounds get columns of their own. */
export function toCsv(columns, rows) {
  const fields = columns.flatMap(csvFields);
  const lines = [fields.map(({ title }) => csvCell(title))];
  for (const row of rows) lines.push(fields.map(({ read }) => csvCell(read(row))));
  return lines.map((cells) => cells.join(",")).join("\r\n") + "\r\n";
}

function csvFields(column) {
  const { title, number, text } = column;
  if (!number) return [{ title, read: text }];
  const bound = (name) => ({ title: `${title} ${name}`, read: (row) => number(row)?.[name] ?? "" });
  const value = { title, read: (row) => number(row)?.value ?? number(row)?.text ?? "" };
  return [value, bound("low"), bound("high")];
}

function csvCell(value) {
  if (typeof value === "number") return String(value);
  let text = String(value);
  // A spreadsheet would compute such a text.
  if (/^[=+\-@\t\r]/.test(text) && !Number.isFinite(Number(text))) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Return the table as Markdown. */
export function toMarkdown(columns, rows) {
  const escape = (text) => text.replace(/[\\|`*_<>[\]]/g, "\\$&").replace(/\s+/g, " ");
  const line = (cells) => `| ${cells.join(" | ")} |`;
  const rule = columns.map(({ align }) => (align === "right" ? "---:" : "---"));
  const body = rows.map((row) => line(columns.map((column) => escape(column.text(row)))));
  return [line(columns.map(({ title }) => escape(title))), line(rule), ...body].join("\n") + "\n";
}

const LATEX = {
  "\\": "\\textbackslash{}",
  "~": "\\textasciitilde{}",
  "^": "\\textasciicircum{}",
  "–": "--",
  "−": "$-$",
  "±": "$\\pm$",
};

/** Return the table as LaTeX with the rules of booktabs. */
export function toLatex(columns, rows) {
  const escape = (text) =>
    text.replace(/[\\~^–−±&%$#_{}]/g, (character) => LATEX[character] ?? `\\${character}`);
  const line = (cells) => `  ${cells.join(" & ")} \\\\`;
  const cell = (column, row) => {
    const text = escape(column.text(row));
    return column.id === "difference" && row.difference?.separated ? `\\textbf{${text}}` : text;
  };
  return [
    `\\begin{tabular}{${columns.map(({ align }) => (align === "right" ? "r" : "l")).join("")}}`,
    "  \\toprule",
    line(columns.map(({ title }) => escape(title))),
    "  \\midrule",
    ...rows.map((row) => line(columns.map((column) => cell(column, row)))),
    "  \\bottomrule",
    "\\end{tabular}",
    "",
  ].join("\n");
}
