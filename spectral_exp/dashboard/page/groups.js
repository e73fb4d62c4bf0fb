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
  constructor(store) {
    super();
    this.store = store;
    this.answer = null;
    /** Whether all runs had been read when the answer was asked for. */
    this.isComplete = false;
    this.error = null;
    this.query = null;
    this.signature = "";
    this.controller = null;
    this.isStale = false;
    this.onStoreChange = throttle(() => this.refresh(), REFRESH_MS);
    store.addEventListener("change", this.onStoreChange);
  }

  destroy() {
    this.store.removeEventListener("change", this.onStoreChange);
    this.onStoreChange.cancel();
    this.controller?.abort();
  }

  /** Ask another question, unless it is the present one. */
  setQuery(query) {
    const signature = JSON.stringify(query);
    if (signature === this.signature) return;
    this.signature = signature;
    this.query = query;
    this.controller?.abort();
    this.controller = null;
    this.refresh();
  }

  /** Ask again. While an answer is under way, one more request follows it. */
  async refresh() {
    if (this.controller) {
      this.isStale = true;
      return;
    }
    const controller = (this.controller = new AbortController());
    this.isStale = false;
    const isComplete = this.store.facts.complete;
    try {
      this.answer = await getJson("api/groups", this.query, { signal: controller.signal });
      this.isComplete = isComplete;
      this.error = null;
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof ApiError || error instanceof ServerGone)) throw error;
      this.error = error;
    }
    this.controller = null;
    this.dispatchEvent(new Event("change"));
    if (this.isStale) this.onStoreChange();
  }
}

/** Return the names and titles of metrics, which come as names or as objects. */
export function metricChoices(metrics) {
  return metrics.map((metric) =>
    typeof metric === "string" ? { name: metric, title: metric } : metric,
  );
}
