/**
 * Decoding of the binary answers: a little-endian uint32 with the length of the header, the header
 * as JSON, padding up to a multiple of 8, then float64 columns.
 */

/**
 * Return `{header, series}`; each entry of `series` is that of the header with a `key` and with
 * `columns`, an object of Float64Arrays which are views of `buffer`.
 */
export function decodeFrame(buffer) {
  if (buffer.byteLength < 4) throw new Error("The answer ends before its header.");
  const length = new DataView(buffer).getUint32(0, true);
  if (4 + length > buffer.byteLength) throw new Error("The answer ends within its header.");
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const start = Math.ceil((4 + length) / 8) * 8;
  return { header, series: header.series.map((entry) => decodeEntry(buffer, start, entry)) };
}

function decodeEntry(buffer, start, entry) {
  const columns = {};
  for (const [index, name] of entry.columns.entries()) {
    const offset = start + 8 * (entry.offset + index * entry.n);
    if (offset + 8 * entry.n > buffer.byteLength) {
      throw new Error(`The answer ends within the column ${name}.`);
    }
    columns[name] = new Float64Array(buffer, offset, entry.n);
  }
  return { ...entry, key: entry.key ?? entry.id, columns };
}
