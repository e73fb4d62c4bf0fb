/** Offers a file to the browser for saving. */

/**
 * @param {string} name
 * @param {string|Blob} content
 * @param {string} type MIME type of a text
 */
export function saveFile(name, content, type) {
  const blob = content instanceof Blob ? content : new Blob([content], { type });
  const url = URL.createObjectURL(blob);
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
