/** The runs as the server knows them, kept up to date by polling. */

import { ApiError, ServerGone, getJson, isExport } from "./client.js";

const FAST_MS = 500;
const SLOW_MS = 5000;
const MAX_RETRY_MS = 10000;
const MAX_WATCHED = 200;

/**
 * Events: `change` (detail: {changed: Set of keys, removed: Set of keys}), `watched` (detail: keys
 * whose metrics, log or generation have changed), `status` (reading, connection, counts).
 */
export class RunStore extends EventTarget {
  constructor() {
    super();
    /** @type {Map<string, Object>} */
    this.rows = new Map();
    this.facts = { found: 0, read: 0, complete: false, editable: false, folders: [], where: [] };
    this.leftOut = [];
    this.loaded = false;
    this.error = null;
    this.lastContact = null;
    this.clockOffset = 0;
    this.seq = 0;
    this.watchCounts = new Map();
    this.watched = new Map();
    this.retryMs = 0;
    this.timer = null;
    this.turn = null;
    /** Resolved when the server has answered for the first time. */
    this.ready = new Promise((resolve) => {
      this.resolveReady = resolve;
    });
  }

  /** Read everything and go on polling while the page is visible. */
  start() {
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.pollNow();
    });
    return this.poll();
  }

  /** Return the server's clock in seconds since the epoch. */
  now() {
    return Date.now() / 1000 + this.clockOffset;
  }

  /** Watch the files of a run closely; call the result to stop. */
  watch(key) {
    this.watchCounts.set(key, (this.watchCounts.get(key) ?? 0) + 1);
    return () => {
      const count = this.watchCounts.get(key) - 1;
      if (count > 0) this.watchCounts.set(key, count);
      else {
        this.watchCounts.delete(key);
        this.watched.delete(key);
      }
    };
  }

  /** Poll at once, for example after an edit or when the page becomes visible. */
  pollNow() {
    if (isExport && this.loaded) return;
    clearTimeout(this.timer);
    this.poll();
  }

  async poll() {
    const turn = (this.turn = {});
    try {
      const path = this.loaded ? "api/changes" : "api/runs";
      const watch = [...this.watchCounts.keys()].slice(0, MAX_WATCHED);
      const answer = await getJson(path, { since: this.seq, watch });
      if (this.turn !== turn) return;
      this.take(answer);
    } catch (error) {
      if (!(error instanceof ServerGone || error instanceof ApiError)) throw error;
      if (this.turn !== turn) return;
      this.fail(error);
    }
    this.schedule();
  }

  take(answer) {
    const wasBroken = this.error !== null;
    this.error = null;
    this.retryMs = 0;
    this.lastContact = Date.now() / 1000;
    this.clockOffset = answer.now_s - this.lastContact;
    const before = JSON.stringify(this.facts);
    for (const name of Object.keys(this.facts)) {
      if (answer[name] !== undefined) this.facts[name] = answer[name];
    }
    if (answer.left_out) this.leftOut = answer.left_out;
    const changes = this.mergeRows(answer);
    this.mergeSteps(answer.watched ?? {}, changes.changed);
    const first = !this.loaded;
    this.loaded = true;
    this.resolveReady();
    this.seq = answer.seq;
    if (first || wasBroken || before !== JSON.stringify(this.facts)) this.emit("status");
    if (first || changes.changed.size || changes.removed.size) this.emit("change", changes);
    this.mergeWatched(answer.watched ?? {});
  }

  mergeRows(answer) {
    const changed = new Set();
    // After a restart of the server an answer holds everything there is.
    const removed = new Set(answer.reset ? this.rows.keys() : answer.removed);
    for (const row of answer.runs) {
      this.rows.set(row.key, row);
      changed.add(row.key);
      removed.delete(row.key);
    }
    for (const key of removed) this.rows.delete(key);
    return { changed, removed };
  }

  // The files of a watched run are read for each answer, its row a little later.
  mergeSteps(watched, changed) {
    for (const [key, state] of Object.entries(watched)) {
      const row = this.rows.get(key);
      if (!mayGrow(row) || state === null || state.loading !== null) continue;
      if (state.step === row.step) continue;
      this.rows.set(key, { ...row, step: state.step });
      changed.add(key);
    }
  }

  mergeWatched(watched) {
    const keys = new Set();
    for (const [key, state] of Object.entries(watched)) {
      // The run is gone; the answer names it among the removed ones.
      if (state === null) continue;
      const text = JSON.stringify(state);
      const known = this.watched.get(key);
      if (known !== undefined && known.text !== text) keys.add(key);
      this.watched.set(key, { text, state });
    }
    if (keys.size) this.emit("watched", keys);
  }

  fail(error) {
    this.error = error;
    this.retryMs = Math.min(MAX_RETRY_MS, Math.max(1000, this.retryMs * 2));
    this.emit("status");
  }

  schedule() {
    if (document.hidden || (isExport && this.loaded)) return;
    this.timer = setTimeout(() => this.poll(), this.delay());
  }

  delay() {
    if (this.retryMs) return this.retryMs;
    if (!this.facts.complete || this.isLoading()) return FAST_MS;
    for (const row of this.rows.values()) if (row.status === "running") return FAST_MS;
    for (const key of this.watchCounts.keys()) if (mayGrow(this.rows.get(key))) return FAST_MS;
    return SLOW_MS;
  }

  // A large file is read in parts while it is watched.
  isLoading() {
    return [...this.watched.values()].some(({ state }) => (state?.loading ?? null) !== null);
  }

  emit(type, detail = null) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** Whether a run trains, or was broken off and may be continued at any moment. */
function mayGrow(row) {
  return row?.status === "running" || row?.status === "unfinished";
}
