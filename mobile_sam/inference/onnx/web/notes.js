// What the page says: of its state, of what takes long, and of what went wrong.

export const $ = (id) => document.getElementById(id);

/** share: of something that takes long. */
export function say(text, share = null, wrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("wrong", wrong);
  $("progress").hidden = share === null;
  $("progress").value = share ?? 0;
}

/** Runs an async handler, and shows the sentence of what it throws. */
export function shows(handler) {
  return (...values) => handler(...values).catch((error) => say(error.message, null, true));
}

export const milliseconds = (value) => `${value < 10 ? value.toFixed(1) : value.toFixed(0)} ms`;
