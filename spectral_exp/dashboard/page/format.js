/** Texts for durations, sizes and counts. Measured values come as text from the server. */

const UNITS = ["B", "kB", "MB", "GB", "TB"];

/** Return a number of bytes as text. */
export function formatBytes(bytes) {
  if (bytes === null || bytes === undefined) return "";
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit && value < 100 ? value.toFixed(1) : Math.round(value)} ${UNITS[unit]}`;
}

/** Return a number of seconds as text with two units at most. */
export function formatDuration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "";
  const total = Math.max(0, Math.round(seconds));
  if (total < 60) return `${total} s`;
  if (total < 3600) return `${Math.floor(total / 60)} min ${total % 60} s`;
  if (total < 86400) return `${Math.floor(total / 3600)} h ${Math.floor((total % 3600) / 60)} min`;
  return `${Math.floor(total / 86400)} d ${Math.floor((total % 86400) / 3600)} h`;
}

/** Return how long ago `then` was at `now`, both in seconds since the epoch. */
export function formatAgo(then, now) {
  if (!then) return "";
  const seconds = Math.max(0, now - then);
  if (seconds < 5) return "just now";
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} d ago`;
}

/** Return a date and time in the reader's zone, sortable as text. */
export function formatTime(seconds) {
  if (!seconds) return "";
  const date = new Date(seconds * 1000);
  const two = (value) => String(value).padStart(2, "0");
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

/** Return an integer with separators of thousands. */
export function formatCount(value) {
  if (value === null || value === undefined) return "";
  return Number(value).toLocaleString("en-US", { maximumFractionDigits: 0 });
}

/** Return "1 run", "2 runs". */
export function plural(count, noun) {
  return `${formatCount(count)} ${noun}${count === 1 ? "" : "s"}`;
}

/** Return the step of a run as text, with its last step if that is known. */
export function formatProgress(row) {
  if (row.step === null || row.step === undefined) return "";
  const last = row.max_steps ? `/${formatCount(row.max_steps)}` : "";
  return `${formatCount(row.step)}${last}`;
}
