/** Checkpoints, cost and files of a run. */

import { address, isExport } from "./client.js";
import { emptyState } from "./controls.js";
import { bdi, fill, h } from "./dom.js";
import { formatAgo, formatBytes, formatCount, formatDuration, formatTime } from "./format.js";

/** Return a plain table; a column is `{title, cell(item), align}`. */
export function simpleTable(label, columns, items) {
  const props = ({ align }) => ({ class: align === "right" ? "number" : null });
  return h(
    "div",
    { class: "table-scroll plain", tabindex: "0", role: "region", "aria-label": label },
    h(
      "table",
      { class: "grid" },
      h(
        "thead",
        null,
        h(
          "tr",
          null,
          columns.map((c) => h("th", { ...props(c), scope: "col" }, c.title)),
        ),
      ),
      h(
        "tbody",
        null,
        items.map((item) =>
          h(
            "tr",
            null,
            columns.map((column) => h("td", props(column), column.cell(item))),
          ),
        ),
      ),
    ),
  );
}

export class CheckpointsTab {
  constructor(host, page) {
    this.page = page;
    this.host = h("div");
    host.append(this.host);
  }

  update({ checkpoints, certificate }) {
    const { row, store } = this.page;
    const newest = Math.max(...checkpoints.map(({ step }) => step ?? 0), 0);
    const atRisk = row.status === "running" && row.step ? Math.max(0, row.step - newest) : 0;
    fill(
      this.host,
      certificate && h("p", { class: "lead" }, certificate),
      atRisk > 0 &&
        h(
          "p",
          { class: "lead" },
          `${formatCount(atRisk)} steps since the newest checkpoint would be trained again after a crash.`,
        ),
      checkpoints.length
        ? simpleTable("Checkpoints", this.columns(store.now()), checkpoints)
        : emptyState("No checkpoints"),
    );
  }

  columns(now) {
    return [
      { title: "Checkpoint", cell: ({ name }) => bdi(name) },
      { title: "Step", align: "right", cell: ({ step }) => formatCount(step) },
      {
        title: "Size",
        align: "right",
        cell: ({ size_mb: size }) => formatBytes(size === null ? null : size * 1e6),
      },
      {
        title: "Saved",
        align: "right",
        cell: ({ saved_s: saved }) =>
          h("span", { title: formatTime(saved) }, formatAgo(saved, now)),
      },
      {
        title: "Until durable",
        align: "right",
        cell: ({ durable_s: durable }) =>
          durable === null || durable === undefined
            ? ""
            : durable < 10
              ? `${durable.toFixed(2)} s`
              : formatDuration(durable),
      },
      { title: "Kept", cell: ({ kept }) => kept ?? "" },
    ];
  }
}

export class CostTab {
  constructor(host) {
    this.host = h("div");
    host.append(this.host);
  }

  update({ cost, findings }) {
    fill(
      this.host,
      cost.length ? this.table(cost) : emptyState("No cost is recorded yet"),
      findings?.length > 0 &&
        h(
          "section",
          null,
          h("h2", null, "Findings"),
          h(
            "ul",
            { class: "findings" },
            findings.map(({ text }) => h("li", null, text)),
          ),
        ),
    );
  }

  table(cost) {
    return h(
      "dl",
      { class: "pairs sentences" },
      cost.map(({ label, text, value }) => [
        h("dt", null, label),
        h("dd", null, text ?? String(value)),
      ]),
    );
  }
}

export class FilesTab {
  constructor(host, page) {
    this.page = page;
    this.host = h("div");
    host.append(this.host);
  }

  update({ files }) {
    const signature = JSON.stringify(files);
    if (signature === this.signature) return;
    this.signature = signature;
    const now = this.page.store.now();
    const url = ({ id }) =>
      address(`api/run/${encodeURIComponent(this.page.key)}/file/${encodeURIComponent(id)}`);
    const columns = [
      {
        title: "File",
        cell: (file) =>
          file.viewable && !isExport
            ? h("a", { href: url(file), target: "_blank", rel: "noopener" }, bdi(file.name))
            : bdi(file.name),
      },
      { title: "Size", align: "right", cell: ({ size }) => formatBytes(size) },
      {
        title: "Modified",
        align: "right",
        cell: ({ modified_s: time }) =>
          h("span", { title: formatTime(time) }, formatAgo(time, now)),
      },
    ];
    fill(this.host, files.length ? simpleTable("Files", columns, files) : emptyState("No files"));
  }
}
