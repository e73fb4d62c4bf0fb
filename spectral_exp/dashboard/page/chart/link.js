/** Several charts with one cursor and one zoom of x. */
export class ChartLink {
  constructor() {
    this.charts = new Set();
  }

  add(chart) {
    this.charts.add(chart);
  }

  remove(chart) {
    this.charts.delete(chart);
  }

  /** Show the cursor of `source` in all other charts. */
  shareCursor(source, x) {
    for (const chart of this.charts) if (chart !== source) chart.showCursor(x);
  }

  /** Zoom all other charts as `source` has been zoomed. */
  shareZoom(source, x) {
    for (const chart of this.charts) if (chart !== source) chart.followZoom(x);
  }
}
