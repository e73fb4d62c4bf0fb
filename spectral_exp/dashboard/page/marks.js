/** Tags, note, pin and archive of runs, kept in the runs; a server with `--edit` writes them. */

import { ApiError, ServerGone, postJson } from "./client.js";
import { button, checkbox } from "./controls.js";
import { fill, h } from "./dom.js";
import { openDialog, toast } from "./popover.js";

/** Whether the server writes marks; if not, say how it would. */
function checkEditable(store) {
  if (store.facts.editable) return true;
  toast("Start the dashboard with --edit to change tags, notes, pins and the archive.");
  return false;
}

/** Send `changes` to each of `runs`; return null, or what the server objects to. */
async function changeMarks(store, runs, changes) {
  try {
    for (const run of runs) await postJson(`api/notes/${encodeURIComponent(run.key)}`, changes);
    return null;
  } catch (error) {
    if (!(error instanceof ApiError || error instanceof ServerGone)) throw error;
    return error.message;
  } finally {
    store.pollNow();
  }
}

/** Pin the runs, or unpin them if all are pinned. */
export async function togglePin(store, runs) {
  if (!checkEditable(store)) return;
  const pinned = !runs.every((run) => run.pinned);
  toast((await changeMarks(store, runs, { pinned })) ?? (pinned ? "Pinned." : "Unpinned."));
}

/** Archive the runs, or restore them if all are archived. Nothing is deleted. */
export async function toggleArchive(store, runs) {
  if (!checkEditable(store)) return;
  const archived = !runs.every((run) => run.archived);
  const done = archived ? "Archived. The files stay where they are." : "Restored.";
  toast((await changeMarks(store, runs, { archived })) ?? done);
}

/** Open a dialog for the tags and the note of one or more runs. */
export function editMarks(store, runs) {
  if (!checkEditable(store)) return;
  const common = runs[0].tags.filter((tag) => runs.every((run) => run.tags.includes(tag)));
  const isOne = runs.length === 1;
  const tags = h("input", {
    type: "text",
    value: common.join(", "),
    name: "tags",
    autocomplete: "off",
  });
  const note = h("textarea", { rows: "4", name: "note", value: isOne ? (runs[0].note ?? "") : "" });
  const archived = checkbox(
    "Archived",
    runs.every((run) => run.archived),
    () => {},
  );
  const pinned = checkbox(
    "Pinned",
    runs.every((run) => run.pinned),
    () => {},
  );

  const problem = h("p", { class: "form-error", role: "alert" });

  const save = async (event) => {
    event.preventDefault();
    const wanted = splitTags(tags.value);
    const objection = await changeMarks(store, runs, {
      add_tags: wanted.filter((tag) => !common.includes(tag)),
      remove_tags: common.filter((tag) => !wanted.includes(tag)),
      archived: archived.input.checked,
      pinned: pinned.input.checked,
      ...(isOne && { note: note.value }),
    });
    if (objection === null) dialog.close();
    else fill(problem, objection);
  };
  const form = h(
    "form",
    { class: "form", onsubmit: save },
    h("label", null, h("span", null, isOne ? "Tags" : "Tags that all have"), tags),
    h("p", { class: "faint" }, "Separated by commas."),
    isOne && h("label", null, h("span", null, "Note"), note),
    h("div", { class: "row" }, pinned, archived),
    problem,
    h(
      "div",
      { class: "row end" },
      button("Save", null, { type: "submit", class: "button primary" }),
    ),
  );
  const dialog = openDialog(
    isOne ? `Marks of ${runs[0].id}` : `Marks of ${runs.length} runs`,
    form,
  );
  tags.focus();
}

function splitTags(text) {
  return [
    ...new Set(
      text
        .split(",")
        .map((tag) => tag.trim())
        .filter(Boolean),
    ),
  ];
}
