/** The end of a log in an exported file, which answers questions as the server does. */

import { getJson } from "./client.js";

const MAX_MATCHES = 200;
const WARNING = /\[(?:WARNING|ERROR|CRITICAL)\]|^Traceback |Warning: /;

const encoder = new TextEncoder();
const logs = new Map();

/**
 * Return a part of a log, its lines with a text, or its warnings; see `api/run/KEY/log`. Bytes are
 * those of the saved text; `whole` is the size of the file that it is the end of.
 */
export async function askSavedLog(path, { file, offset, size, search, level, after }) {
  const log = await loadLog(path, file);
  const known = { file, names: log.names, size: log.size, whole: log.whole };
  if (search || level) return { ...known, ...findLines(log, after, search, level) };
  return { ...known, ...windowOf(log, offset, size) };
}

async function loadLog(path, file) {
  const id = `${path} ${file}`;
  if (!logs.has(id)) logs.set(id, prepare(await getJson(path, { file })));
  return logs.get(id);
}

function prepare({ names, text, held, size: whole }) {
  const lines = text.match(/[^\n]*\n|[^\n]+$/g) ?? [];
  const starts = [];
  let size = 0;
  for (const line of lines) {
    starts.push(size);
    size += encoder.encode(line).length;
  }
  return { names, lines, starts, size, whole: held < whole ? whole : null };
}

// Windows hold whole lines: from the one with the first byte to the last that begins before the end.
function windowOf({ lines, starts, size: whole }, offset, size) {
  const from = offset < 0 ? Math.max(0, whole + offset) : offset;
  const first = offset < 0 ? lineFrom(starts, from) : lineAt(starts, from);
  const next = lineFrom(starts, from + size);
  return {
    offset: starts[first] ?? whole,
    end: starts[next] ?? whole,
    text: lines.slice(first, next).join(""),
    starts: starts.slice(first, next),
  };
}

function findLines({ lines, starts, size }, after, search, level) {
  const wanted = search?.toLowerCase();
  const isMatch = level
    ? (line) => WARNING.test(line)
    : (line) => line.toLowerCase().includes(wanted);
  const matches = [];
  let index = lineFrom(starts, after);
  for (; index < lines.length && matches.length < MAX_MATCHES; index += 1) {
    if (isMatch(lines[index])) {
      matches.push({ offset: starts[index], line: lines[index].trimEnd() });
    }
  }
  return { matches, more: index < lines.length, next: starts[index] ?? size };
}

/** Return the index of the first line that begins at a byte or after it. */
function lineFrom(starts, offset) {
  const index = starts.findIndex((start) => start >= offset);
  return index < 0 ? starts.length : index;
}

/** Return the index of the line that holds a byte. */
function lineAt(starts, offset) {
  return Math.max(0, lineFrom(starts, offset + 1) - 1);
}
