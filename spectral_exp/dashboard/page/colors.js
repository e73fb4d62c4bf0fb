/**
 * Colours of groups and runs. The server chooses one by the configuration; two of the same colour
 * in one view get different ones here.
 */

const COLORS = 10;
const DASHES = 4;

/**
 * Give each of `items` (`{id, color}`) its own pair of colour and dash. The colour is the
 * one the server chose unless an item with a smaller id has it. With more than ten items the lines
 * differ in their dash.
 * @returns {Map<string, {color: number, dash: number}>}
 */
export function resolveColors(items) {
  const taken = new Set();
  const chosen = new Map();
  const sorted = [...items].sort((a, b) => (a.id < b.id ? -1 : a.id > b.id ? 1 : 0));
  for (const { id, color } of sorted) {
    const style = firstFree(color ?? 0, taken);
    taken.add(style.dash * COLORS + style.color);
    chosen.set(id, style);
  }
  return chosen;
}

function firstFree(color, taken) {
  for (let dash = 0; dash < DASHES; dash += 1) {
    for (let offset = 0; offset < COLORS; offset += 1) {
      const candidate = (color + offset) % COLORS;
      if (!taken.has(dash * COLORS + candidate)) return { color: candidate, dash };
    }
  }
  return { color, dash: 0 };
}
