/** A table that builds only the rows in sight. */

import { fill, h, icon } from "./dom.js";

const ROW_HEIGHT = 32;
const OVERSCAN = 12;
const CHUNK = 8;
const CELL_PADDING = 20;
const MAX_WIDTH = 320;

/**
 * @typedef {Object} Column
 * @property {string} id
 * @property {string} title
 * @property {string} [hint] shown on hover over the title
 * @property {"left"|"right"} [align]
 * @property {number} [width] fixed width in pixels; measured from the texts otherwise
 * @property {number} [extra] pixels beside the text
 * @property {boolean} [isTitleHidden] the title is there for screen readers
 * @property {boolean} [isOptional] left out if no row has a text
 * @property {number} [rank] the higher, the sooner it is left out for want of room; without one it
 *   is always shown
 * @property {boolean} [sticky] stays in place when the table scrolls sideways
 * @property {boolean} [isBold] whether texts may be bold, which takes more room
 * @property {function(Object): string} text used for copies and widths
 * @property {function(Object): Node|string} [cell]
 * @property {function(Object): number|string|null} [sort]
 */

export class VirtualTable {
  /**
   * @param {HTMLElement} host
   * @param {{label: string, onSort: function(string), onColumns: function(),
   *   rowProps: function(Object): Object}} options `onColumns` is called when another width shows
   *   other columns.
   */
  constructor(host, { label, onSort, onColumns, rowProps }) {
    this.onSort = onSort;
    this.onColumns = onColumns;
    this.rowProps = rowProps;
    this.all = [];
    /** The columns that are shown. */
    this.columns = [];
    this.chosen = null;
    this.rows = [];
    this.sort = { id: null, descending: false };
    this.first = -1;
    this.cols = h("colgroup");
    this.head = h("tr");
    this.body = h("tbody");
    this.table = h("table", { class: "grid" }, this.cols, h("thead", null, this.head), this.body);
    this.scroller = h(
      "div",
      { class: "table-scroll", tabindex: "0", role: "region", "aria-label": label },
      this.table,
    );
    this.scroller.addEventListener("scroll", () => this.drawWindow(false), { passive: true });
    this.observer = new ResizeObserver(() => {
      cancelAnimationFrame(this.frame);
      // Other columns may change the height, which an observer must not do.
      this.frame = requestAnimationFrame(() => this.fit());
    });
    this.observer.observe(this.scroller);
    host.append(this.scroller);
  }

  destroy() {
    this.observer.disconnect();
    cancelAnimationFrame(this.frame);
  }

  /**
   * Show `rows`. Of the columns with a rank those in the set `chosen` are shown; if it is null,
   * those for which there is room.
   */
  setContent(columns, rows, sort, chosen = null) {
    this.all = columns;
    this.rows = rows;
    this.sort = sort;
    this.chosen = chosen;
    this.measure();
    this.setColumns(this.fittingColumns());
    this.table.setAttribute("aria-rowcount", String(rows.length + 1));
  }

  /** Choose the columns anew if the table has another width, and draw what is in sight. */
  fit() {
    const columns = this.fittingColumns();
    if (!columns.length || isSame(columns, this.columns)) this.drawWindow(false);
    else {
      this.setColumns(columns);
      this.onColumns();
    }
  }

  setColumns(columns) {
    this.columns = columns;
    this.layOut();
    this.drawHead();
    this.drawWindow(true);
  }

  fittingColumns() {
    const { all, chosen, sort } = this;
    const isFixed = ({ id, rank }) => rank === undefined || id === sort.id;
    if (chosen) return all.filter((column) => isFixed(column) || chosen.has(column.id));
    const room = this.scroller.clientWidth;
    // An update that makes a text shorter exchanges no columns.
    const question = JSON.stringify([room, sort.id, all.map(({ id }) => id)]);
    if (question === this.fitted?.question) {
      const kept = all.filter(({ id }) => this.fitted.ids.has(id));
      if (widthOf(kept) <= room) return kept;
    }
    const shown = new Set(all.filter(isFixed));
    const optional = all.filter((column) => !shown.has(column));
    for (const column of optional.sort((a, b) => a.rank - b.rank)) {
      if (widthOf([...shown, column]) <= room) shown.add(column);
    }
    this.fitted = { question, ids: new Set([...shown].map(({ id }) => id)) };
    return all.filter((column) => shown.has(column));
  }

  /** Draw the rows in sight again, for example after a change of selection. */
  redraw() {
    this.drawWindow(true);
  }

  /** Scroll so that row `index` is in sight. */
  reveal(index) {
    const top = index * ROW_HEIGHT;
    const room = this.scroller.clientHeight - this.head.offsetHeight;
    if (top < this.scroller.scrollTop) this.scroller.scrollTop = top;
    else if (top + ROW_HEIGHT > this.scroller.scrollTop + room) {
      this.scroller.scrollTop = top + ROW_HEIGHT - room;
    }
    this.drawWindow(false);
  }

  measure() {
    const style = getComputedStyle(this.scroller);
    const font = `${style.fontSize} ${style.fontFamily}`;
    const [regular, bold] = [textMeasure(font), textMeasure(`700 ${font}`)];
    for (const column of this.all) {
      column.pixels = column.width ?? this.measureColumn(column, column.isBold ? bold : regular);
    }
  }

  layOut() {
    let left = 0;
    for (const column of this.columns) {
      column.left = left;
      if (column.sticky) left += column.pixels;
    }
    fill(
      this.cols,
      this.columns.map(({ pixels }) => h("col", { style: { width: `${pixels}px` } })),
      h("col"),
    );
    this.table.style.minWidth = `${widthOf(this.columns)}px`;
  }

  measureColumn(column, measureText) {
    let longest = "";
    for (const row of this.rows) {
      const text = column.text(row);
      if (text.length > longest.length) longest = text;
    }
    const title = measureText(column.title) + 18;
    const width = Math.max(title, measureText(longest) + (column.extra ?? 0)) + CELL_PADDING;
    return Math.min(column.maxWidth ?? MAX_WIDTH, Math.ceil(width));
  }

  drawHead() {
    const focused = document.activeElement?.closest("th")?.dataset.column;
    fill(
      this.head,
      this.columns.map((column) => this.headCell(column)),
      h("td", { class: "rest", "aria-hidden": "true" }),
    );
    if (focused) this.head.querySelector(`[data-column="${CSS.escape(focused)}"] button`)?.focus();
  }

  headCell(column) {
    const isSorted = this.sort.id === column.id;
    const direction = this.sort.descending ? "descending" : "ascending";
    const props = {
      ...cellProps(column),
      scope: "col",
      "aria-sort": isSorted ? direction : null,
      title: column.hint ?? column.title,
      data: { column: column.id },
    };
    const titleClass = column.isTitleHidden ? "for-screen-readers" : "head-text";
    if (!column.sort) return h("th", props, h("span", { class: titleClass }, column.title));
    const arrow = isSorted && icon("up");
    if (arrow && this.sort.descending) arrow.classList.add("turned");
    const onclick = () => this.onSort(column.id);
    return h(
      "th",
      props,
      h(
        "button",
        { type: "button", onclick },
        h("span", { class: "head-text" }, column.title),
        arrow,
      ),
    );
  }

  drawWindow(force) {
    const height = this.scroller.clientHeight || 600;
    const start = Math.floor(this.scroller.scrollTop / ROW_HEIGHT) - OVERSCAN;
    const first = Math.max(0, Math.floor(start / CHUNK) * CHUNK);
    const count = Math.ceil(height / ROW_HEIGHT) + 2 * OVERSCAN + CHUNK;
    if (!force && first === this.first && count === this.count) return;
    this.first = first;
    this.count = count;
    const last = Math.min(this.rows.length, first + count);
    const focus = this.focusedCell();
    const rows = [];
    for (let index = first; index < last; index += 1) rows.push(this.drawRow(index));
    fill(this.body, this.space(first), rows, this.space(this.rows.length - last));
    this.restoreFocus(focus);
  }

  space(count) {
    if (count <= 0) return null;
    const cell = h("td", { colspan: this.columns.length + 1 });
    const row = h("tr", { class: "space", "aria-hidden": "true" }, cell);
    row.style.height = `${count * ROW_HEIGHT}px`;
    return row;
  }

  drawRow(index) {
    const row = this.rows[index];
    const cells = this.columns.map((column) =>
      h(
        column.isHeader ? "th" : "td",
        { ...cellProps(column), scope: column.isHeader ? "row" : null },
        column.cell ? column.cell(row) : column.text(row),
      ),
    );
    const props = { ...this.rowProps(row), "aria-rowindex": index + 2, "data-id": row.id };
    return h("tr", props, cells, h("td", { class: "rest" }));
  }

  // Drawing replaces the cells; what had the focus is found again by its row and name.
  focusedCell() {
    const element = document.activeElement;
    if (!this.body.contains(element)) return null;
    const row = element.closest("tr").dataset.id;
    const name = element.dataset.control;
    return name ? { row, name } : null;
  }

  restoreFocus(focus) {
    if (!focus) return;
    const row = this.body.querySelector(`[data-id="${CSS.escape(focus.row)}"]`);
    row?.querySelector(`[data-control="${focus.name}"]`)?.focus({ preventScroll: true });
  }
}

function widthOf(columns) {
  return columns.reduce((total, { pixels }) => total + pixels, 0);
}

function isSame(columns, others) {
  return (
    columns.length === others.length && columns.every(({ id }, index) => id === others[index].id)
  );
}

function cellProps(column) {
  const classes = [column.align === "right" && "number", column.sticky && "sticky"].filter(Boolean);
  return {
    class: classes.join(" ") || null,
    style: column.sticky ? { left: `${column.left}px` } : null,
  };
}

function textMeasure(font) {
  const context = document.createElement("canvas").getContext("2d");
  context.font = font;
  return (text) => context.measureText(text).width;
}

/** Compare two values of a column; missing ones come last in either direction. */
export function compareValues(a, b, descending) {
  const noA = a === null || a === undefined || Number.isNaN(a);
  const noB = b === null || b === undefined || Number.isNaN(b);
  if (noA || noB) return noA - noB;
  const order =
    typeof a === "number" && typeof b === "number"
      ? a - b
      : String(a).localeCompare(String(b), "en", { numeric: true });
  return descending ? -order : order;
}
