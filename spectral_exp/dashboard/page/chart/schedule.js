/** Draws charts in animation frames: only those that changed and can be seen. */

/**
 * Milliseconds of a frame after which further charts wait for the next one. Each frame costs the
 * browser as much as a chart or two, so few long ones are drawn sooner than many short ones; with
 * the last chart a frame stays below the 50 ms that a user would notice.
 */
const BUDGET_MS = 24;

const waiting = new Set();
const charts = new Map();
let frame = 0;

// On paper everything is in view, and there is no next frame.
window.addEventListener("beforeprint", () => {
  for (const chart of charts.values()) chart.draw();
});

const observer = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      const chart = charts.get(target);
      if (!chart) continue;
      chart.isVisible = isIntersecting;
      if (isIntersecting && chart.isDirty) schedule(chart);
    }
  },
  { rootMargin: "100px" },
);

/** Draw a chart in the next frame, or as soon as it comes into view. */
export function schedule(chart) {
  if (!chart.isVisible) return;
  waiting.add(chart);
  frame ||= requestAnimationFrame(drawWaiting);
}

function drawWaiting() {
  frame = 0;
  const end = performance.now() + BUDGET_MS;
  try {
    for (const chart of waiting) {
      waiting.delete(chart);
      if (chart.isVisible) chart.draw();
      if (performance.now() > end) break;
    }
  } finally {
    // An error in one chart is reported and does not keep the others from being drawn.
    if (waiting.size) frame = requestAnimationFrame(drawWaiting);
  }
}

/** Follow whether the element of a chart can be seen. */
export function watchVisibility(chart, element) {
  charts.set(element, chart);
  observer.observe(element);
}

/** Forget a chart. */
export function unwatch(chart, element) {
  observer.unobserve(element);
  charts.delete(element);
  waiting.delete(chart);
}
