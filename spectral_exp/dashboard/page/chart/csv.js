/** The rows of a chart as CSV. */

/** Return the rows of the visible series: raw points, bins or bands, whatever is shown. */
export function exportCsv({ list, view }) {
  const names = ["x", "value", "min", "max", "low", "high", "count", "nan", "posinf", "neginf"];
  const lines = [["series", ...names].join(",")];
  for (const series of list.filter(({ key }) => !view.hidden.includes(key))) {
    const isBin = !series.isRaw && !series.isBand;
    const hasRange = isBin || series.hasExtremes;
    const columns = [
      series.x,
      series.mid,
      hasRange ? series.lo : null,
      hasRange ? series.hi : null,
      series.low,
      series.high,
      series.count,
      series.nan,
      series.posinf,
      series.neginf,
    ];
    const label = quoted(series.label);
    for (let row = 0; row < series.n; row += 1) {
      lines.push(
        [label, ...columns.map((column) => (column ? numberText(column[row]) : ""))].join(","),
      );
    }
  }
  return `${lines.join("\n")}\n`;
}

function numberText(value) {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  return String(value);
}

/** Quote a label; a spreadsheet takes one that begins like a formula for a formula. */
function quoted(label) {
  const safe = /^[=+\-@\t\r]/.test(label) ? `'${label}` : label;
  return `"${safe.replace(/"/g, '""')}"`;
}
