/** The log of a run: read by windows of bytes around what is in sight, searched by the server. */

import { ApiError, ServerGone, getJson, isExport } from "./client.js";
import { button, checkbox, choice, emptyState, setOptions } from "./controls.js";
import { fill, h } from "./dom.js";
import { formatBytes, plural } from "./format.js";
import { askSavedLog } from "./saved_log.js";

const WINDOW_BYTES = 65536;
const MAX_WINDOWS = 16;
const NEAR_EDGE_PX = 600;
const ERROR_LINE = /\b(error|critical|traceback)\b/i;
const WARNING_LINE = /\bwarn(ing)?\b/i;

export class LogTab {
  constructor(host, page) {
    this.page = page;
    this.file = 0;
    this.windows = [];
    this.size = 0;
    this.isBusy = false;
    this.names = choice("File", [], "0", (file) => this.openFile(Number(file)));
    this.follow = checkbox("Follow", true, (on) => on && this.jumpToEnd());
    this.search = h("input", {
      type: "search",
      placeholder: "Search the log",
      "aria-label": "Search the log",
    });
    this.position = h("span", { class: "faint" });
    this.lines = h("div", { class: "log-lines" });
    this.scroller = h(
      "div",
      { class: "log", tabindex: "0", role: "region", "aria-label": "Log" },
      this.lines,
    );
    this.scroller.addEventListener("scroll", () => this.onScroll(), { passive: true });
    this.matches = h("div", { class: "matches", hidden: true });
    const form = h(
      "form",
      { role: "search", onsubmit: (event) => this.onSearch(event) },
      this.search,
    );
    host.append(
      h(
        "div",
        { class: "controls" },
        form,
        this.names,
        button("Start", () => this.jumpTo(0)),
        button("End", () => this.jumpToEnd()),
        button("Next warning", () => this.nextWarning()),
        !isExport && this.follow,
        this.position,
      ),
      this.matches,
      this.scroller,
    );
    this.jumpToEnd();
  }

  update() {}

  destroy() {
    this.isDestroyed = true;
  }

  /** Read what was appended, if the end is in sight. */
  watched(keys) {
    if (keys.has(this.page.key) && this.follow.input.checked) this.readForward(true);
  }

  openFile(file) {
    this.file = file;
    this.jumpToEnd();
  }

  async fetchWindow(parameters) {
    const path = `api/run/${encodeURIComponent(this.page.key)}/log`;
    try {
      const question = { file: this.file, ...parameters };
      return await (isExport ? askSavedLog(path, question) : getJson(path, question));
    } catch (error) {
      if (!(error instanceof ApiError || error instanceof ServerGone)) throw error;
      if (!this.isDestroyed) this.showMessage(error.message);
      return null;
    }
  }

  showMessage(text) {
    if (this.windows.length) fill(this.position, text);
    else fill(this.lines, emptyState("No log to show", text));
  }

  async jumpToEnd() {
    await this.replaceWith({ offset: -WINDOW_BYTES, size: WINDOW_BYTES });
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  /** Show the log from a byte on, with some lines before it. */
  async jumpTo(offset) {
    this.follow.input.checked = false;
    const start = Math.max(0, offset - WINDOW_BYTES / 4);
    await this.replaceWith({ offset: start, size: WINDOW_BYTES });
    this.reveal(offset);
  }

  async replaceWith(parameters) {
    const answer = await this.fetchWindow(parameters);
    if (!answer || this.isDestroyed) return;
    setOptions(
      this.names.select,
      answer.names.map((label, index) => ({ value: String(index), label })),
      String(this.file),
    );
    this.names.hidden = answer.names.length < 2;
    this.windows = [windowOf(answer)];
    this.size = answer.size;
    this.whole = answer.whole ?? null;
    fill(this.lines, this.windows[0].element);
    if (answer.size === 0) this.showMessage("It is empty.");
    this.drawPosition();
  }

  async readForward(stickToEnd) {
    const last = this.windows.at(-1);
    if (!last || this.isBusy) return;
    this.isBusy = true;
    const answer = await this.fetchWindow({ offset: last.end, size: WINDOW_BYTES });
    this.isBusy = false;
    if (!answer || this.isDestroyed) return;
    // A shorter file was rewritten.
    if (answer.size < this.size) {
      this.jumpToEnd();
      return;
    }
    this.size = answer.size;
    if (answer.end > last.end) {
      const atEnd = this.isAtEnd();
      const added = windowOf(answer);
      this.windows.push(added);
      this.lines.append(added.element);
      if (this.windows.length > MAX_WINDOWS) this.dropFirst();
      if (stickToEnd && atEnd) this.scroller.scrollTop = this.scroller.scrollHeight;
    }
    this.drawPosition();
  }

  async readBackward() {
    const first = this.windows[0];
    if (!first || first.start === 0 || this.isBusy) return;
    this.isBusy = true;
    const start = Math.max(0, first.start - WINDOW_BYTES);
    const answer = await this.fetchWindow({ offset: start, size: first.start - start });
    this.isBusy = false;
    if (!answer || this.isDestroyed || answer.offset >= first.start) return;
    const added = windowOf(answer);
    const before = this.scroller.scrollHeight;
    this.windows.unshift(added);
    this.lines.prepend(added.element);
    this.scroller.scrollTop += this.scroller.scrollHeight - before;
    if (this.windows.length > MAX_WINDOWS) this.windows.pop().element.remove();
    this.drawPosition();
  }

  dropFirst() {
    const before = this.scroller.scrollHeight;
    this.windows.shift().element.remove();
    this.scroller.scrollTop -= before - this.scroller.scrollHeight;
  }

  isAtEnd() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    return scrollHeight - scrollTop - clientHeight < 40;
  }

  onScroll() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    if (scrollTop < NEAR_EDGE_PX) this.readBackward();
    const last = this.windows.at(-1);
    if (last && last.end < this.size && scrollHeight - scrollTop - clientHeight < NEAR_EDGE_PX) {
      this.readForward(false);
    }
  }

  drawPosition() {
    const [first, last] = [this.windows[0], this.windows.at(-1)];
    const all = first.start === 0 && last.end >= this.size;
    const loaded = all
      ? formatBytes(this.size)
      : `${formatBytes(last.end - first.start)} of ${formatBytes(this.size)} loaded`;
    const isEnd = this.whole !== null;
    fill(this.position, isEnd ? `${loaded}, the end of ${formatBytes(this.whole)}` : loaded);
  }

  // Search

  onSearch(event) {
    event.preventDefault();
    this.found = [];
    this.text = this.search.value;
    if (!this.text) {
      this.matches.hidden = true;
      return;
    }
    this.findMore(0);
  }

  async findMore(after) {
    const { text } = this;
    const answer = await this.fetchWindow({ search: text, after });
    if (!answer || this.text !== text || this.isDestroyed) return;
    this.found.push(...answer.matches);
    const next = answer.more && answer.matches.length > 0 ? answer.matches.at(-1).offset + 1 : null;
    this.drawMatches(next);
  }

  drawMatches(next) {
    const count = this.found.length;
    this.matches.hidden = false;
    fill(
      this.matches,
      h(
        "p",
        { role: "status" },
        `${next === null ? "" : "First "}${plural(count, "line")} with “${this.text}”`,
      ),
      h(
        "ul",
        null,
        this.found.map(({ offset, line }) =>
          h(
            "li",
            null,
            h("button", { type: "button", onclick: () => this.jumpTo(offset) }, line.trim() || " "),
          ),
        ),
      ),
      next !== null && button("Find more", () => this.findMore(next)),
    );
  }

  /** Go to the warning or error after the marked line; after the last one comes the first. */
  async nextWarning() {
    const after = this.markedOffset === undefined ? 0 : this.markedOffset + 1;
    let answer = await this.fetchWindow({ level: "warning", after });
    if (answer?.matches.length === 0 && after > 0) {
      answer = await this.fetchWindow({ level: "warning", after: 0 });
    }
    if (!answer) return;
    if (answer.matches.length) this.jumpTo(answer.matches[0].offset);
    else fill(this.position, "No warnings");
  }

  /** Mark the line at a byte and bring it into sight. */
  reveal(offset) {
    this.markedOffset = offset;
    this.lines.querySelector(".marked")?.classList.remove("marked");
    const window = this.windows.find(({ start, end }) => start <= offset && offset < end);
    const line = window && lineAt(window, offset);
    if (!line) return;
    line.classList.add("marked");
    this.scroller.scrollTop = line.offsetTop - this.scroller.clientHeight / 3;
    // Below a long head the log itself may be out of sight.
    line.scrollIntoView({ block: "nearest" });
  }
}

function windowOf({ offset, end, text, starts }) {
  const lines = text.split("\n");
  if (lines.at(-1) === "") lines.pop();
  const element = h(
    "div",
    null,
    lines.map((line) => h("div", { class: lineClass(line) }, line || " ")),
  );
  return { start: offset, end, starts, element };
}

function lineClass(line) {
  if (ERROR_LINE.test(line)) return "log-error";
  return WARNING_LINE.test(line) ? "log-warning" : null;
}

/** Return the element of the line that holds a byte of the file. */
function lineAt({ starts, element }, offset) {
  const next = starts.findIndex((start) => start > offset);
  return next < 0 ? element.lastElementChild : element.children[next - 1];
}
