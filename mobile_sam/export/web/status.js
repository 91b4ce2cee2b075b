// The status line: hints, progress and errors.

export const $ = (id) => document.getElementById(id);

/** share: progress from 0 to 1, or null. */
export function showStatus(text, share = null, isError = false) {
  $("status").textContent = text;
  $("status").classList.toggle("wrong", isError);
  $("progress").hidden = share === null;
  $("progress").value = share ?? 0;
}

/** Wraps an async handler so that the messages of its errors appear in the status line. */
export function showErrors(handler) {
  return (...values) => handler(...values).catch((error) => showStatus(error.message, null, true));
}

export const milliseconds = (value) => `${value < 10 ? value.toFixed(1) : value.toFixed(0)} ms`;
