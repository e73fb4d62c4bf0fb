/** The groups of runs with their statistics, for the question that the address asks. */

import { ApiError, ServerGone, getJson } from "./client.js";
import { throttle } from "./controls.js";

const REFRESH_MS = 1000;

/** Return the parameters of `api/groups` from those of the address. */
export function groupQuery(params) {
  return {
    where: { each: params.getAll("where") },
    group_by: params.get("group_by"),
    metric: params.get("metric"),
    at: params.get("at"),
    baseline: params.get("baseline"),
    archived: params.get("archived"),
  };
}

/** Return the part of a query that chooses and splits runs: all that a chart depends on. */
export function selectionOf(query) {
  return { where: query.where, group_by: query.group_by, archived: query.archived };
}

/** Emits `change` when an answer or an error has come. */
export class GroupsModel extends EventTarget {
  /** With `quick`, the first answer may be an outline: groups that are not compared yet. */
  constructor(store, { quick = false } = {}) {
    super();
    this.store = store;
    this.quick = quick;
    /** The newest answer, and the question to which it is the answer. */
    this.answer = null;
    this.answeredQuery = null;
    /** Whether all runs had been read when the answer was asked for. */
    this.isComplete = false;
    this.error = null;
    this.query = null;
    this.controller = null;
    this.isStale = false;
    this.onStoreChange = throttle(() => {
      if (!this.isCurrent()) this.refresh();
    }, REFRESH_MS);
    store.addEventListener("change", this.onStoreChange);
  }

  destroy() {
    this.store.removeEventListener("change", this.onStoreChange);
    this.onStoreChange.cancel();
    this.controller?.abort();
  }

  /** Ask another question, unless it is the present one. */
  setQuery(query) {
    if (JSON.stringify(query) === JSON.stringify(this.query)) return;
    this.query = query;
    this.controller?.abort();
    this.controller = null;
    this.refresh();
  }

  /** Whether the answer holds all the changes that the store knows. */
  isCurrent() {
    if (this.answer === null || this.answer.is_outline || this.error !== null) return false;
    return this.answer.seq >= this.store.seq;
  }

  /** Ask again. While an answer is under way, one more request follows it. */
  async refresh() {
    if (this.controller) {
      this.isStale = true;
      return;
    }
    const controller = (this.controller = new AbortController());
    this.isStale = false;
    const { query } = this;
    const isComplete = this.store.facts.complete;
    const quick = this.quick && this.answer === null ? 1 : null;
    try {
      this.answer = await getJson("api/groups", { ...query, quick }, { signal: controller.signal });
      this.answeredQuery = query;
      this.isComplete = isComplete && !this.answer.is_outline;
      this.error = null;
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof ApiError || error instanceof ServerGone)) throw error;
      this.error = error;
    }
    this.controller = null;
    this.dispatchEvent(new Event("change"));
    if (this.answer?.is_outline && this.error === null) this.refresh();
    else if (this.isStale) this.onStoreChange();
  }
}
