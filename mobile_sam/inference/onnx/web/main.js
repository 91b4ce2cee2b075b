// The page: an image, a prompt on it, and the masks that answer it.

import { Engine } from "./engine.js";
import { maskFile, readImage } from "./pixels.js";
import { Stage } from "./stage.js";

const NOTHING = { points: [], box: null };
const HINT = "Point at an object, or drag a box around it.";
const SLOW = 300; // milliseconds of the decoder, above which nothing is shown before a click

const $ = (id) => document.getElementById(id);
const milliseconds = (value) => `${value < 10 ? value.toFixed(1) : value.toFixed(0)} ms`;
const empty = (prompt) => !prompt.box && !prompt.points.length;

let loading; // of the model
let image = null; // {size, rgba, bitmap, name}
let encoding = Promise.resolve(); // of that image
let prompt = NOTHING;
let history = []; // the prompts before
let shownIndex = null; // of the four masks
let decoderTime = 0;
let busy = false; // with encoding

const engine = new Engine((share) => {
  $("progress").value = share;
  say(`Loading the model: ${Math.floor(100 * share)} %`);
});
const stage = new Stage($("stage"), {
  point: ([x, y], turned) => change({ ...prompt, points: [...prompt.points, { x, y, label: label(turned) }] }),
  box: (box) => change({ ...prompt, box }),
  preview,
  undo,
  clear: () => empty(prompt) || change(NOTHING),
});

function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("wrong", wrong);
}

/** Runs a handler, and shows the sentence of what it throws. */
function shows(handler) {
  return async (...values) => {
    try {
      return await handler(...values);
    } catch (error) {
      say(error.message, true);
    }
  };
}

const label = (turned) => Number(document.querySelector("[name=label]:checked").value) ^ turned;

// ── The model and images ──────────────────────────────────────────────────────────────────────

async function load(form) {
  $("progress").hidden = false;
  let loaded;
  try {
    loaded = await engine.call("load", { form });
  } finally {
    $("progress").hidden = true;
  }
  const { forms, bytes, threads } = loaded;
  $("bytes").textContent = `${(bytes / 2 ** 20).toFixed(1)} MiB, ${loaded.imgSize} px`;
  $("runs").textContent = threads > 1 ? `WebAssembly, ${threads} threads` : "WebAssembly, 1 thread";
  $("forms").hidden = forms.length < 2;
  $("form").replaceChildren(...forms.map((name) => new Option(name, name, false, name === loaded.form)));
  say("Choose an image.");
}

function startLoading(form) {
  loading = load(form);
  shows(() => loading)();
}

const open = shows(async (blob, name, example = null) => {
  let read;
  try {
    read = await readImage(blob);
  } catch {
    throw new Error(`${name}: this browser cannot read it as an image; PNG and JPEG always work.`);
  }
  image = { ...read, name, example };
  [prompt, history] = [NOTHING, []];
  stage.show(image);
  markExample();
  showPrompt();
  await encode();
});

async function encode() {
  const { rgba, size } = image;
  setBusy(true);
  encoding = loading.then(() => {
    say("Encoding the image…");
    return engine.call("encode", { rgba, size });
  });
  try {
    const { milliseconds: took } = await encoding;
    if (image.rgba !== rgba) return;
    $("encoder").textContent = milliseconds(took);
    say(HINT);
  } finally {
    if (image.rgba === rgba) setBusy(false);
  }
}

function setBusy(value) {
  busy = value;
  stage.element.setAttribute("aria-busy", String(value));
}

// ── The prompt and its answer ─────────────────────────────────────────────────────────────────

function change(next) {
  history.push(prompt);
  prompt = next;
  showPrompt();
}

function undo() {
  if (!history.length) return;
  prompt = history.pop();
  showPrompt();
}

function showPrompt() {
  stage.showPrompt(prompt);
  if (empty(prompt) && !busy) say(HINT);
  $("undo").disabled = !history.length;
  $("clear").disabled = empty(prompt);
  ask({ prompt });
}

/** What a click here would give, while there is no prompt and the model is quick. */
function preview(place) {
  if (!empty(prompt) || busy || decoderTime > SLOW) return;
  const points = place ? [{ x: place[0], y: place[1], label: 1 }] : [];
  ask({ prompt: { points, box: null }, tried: true });
}

let asked = null; // the latest that is not answered yet
let answering = false;

/** Answers the latest of what is asked; what came in between is passed over. */
async function ask(question) {
  asked = question;
  if (answering) return;
  answering = true;
  $("masks").setAttribute("aria-busy", "true");
  while (asked) {
    const next = asked;
    asked = null;
    await answer(next);
  }
  answering = false;
  $("masks").setAttribute("aria-busy", "false");
}

const answer = shows(async ({ prompt: given, tried = false }) => {
  if (empty(given)) {
    showAnswer(null);
    return;
  }
  const of = image;
  await encoding;
  const { predictedIou, best, milliseconds: took } = await engine.call("decode", { prompt: given });
  const mask = await engine.call("mask", { index: best, size: stage.shown });
  decoderTime = took;
  $("decoder").textContent = milliseconds(took);
  const current = tried ? empty(prompt) : given === prompt;
  if (of !== image || !current) return;
  stage.showMask(mask, tried);
  if (!tried) showAnswer(predictedIou, best);
});

/** predictedIou: of the four masks; null without an answer, whose mask is taken away. */
function showAnswer(predictedIou, best = null) {
  if (!predictedIou && image) stage.showMask(null);
  shownIndex = best;
  $("masks").disabled = $("download").disabled = !predictedIou;
  for (const input of document.querySelectorAll("[name=mask]")) {
    const index = Number(input.value);
    input.checked = index === best;
    input.parentElement.querySelector("output").textContent = predictedIou
      ? predictedIou[index].toFixed(2)
      : "–";
  }
  if (predictedIou) say(`Predicted IoU ${predictedIou[best].toFixed(2)}. More points make it better.`);
}

const choose = shows(async (event) => {
  shownIndex = Number(event.target.value);
  const of = prompt;
  const mask = await engine.call("mask", { index: shownIndex, size: stage.shown });
  if (of === prompt) stage.showMask(mask);
});

const download = shows(async () => {
  const mask = await engine.call("mask", { index: shownIndex, size: image.size });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await maskFile(mask, image.size));
  link.download = `${image.name.replace(/\.[^.]*$/, "")}_mask.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
});

// ── What the page is made of ──────────────────────────────────────────────────────────────────

const showPage = shows(async () => {
  const response = await fetch(new URL("./page.json", import.meta.url), { cache: "no-cache" });
  const { title, examples } = await response.json();
  $("title").textContent = document.title = title;
  const buttons = examples.map((path) => {
    const button = document.createElement("button");
    const picture = new Image();
    picture.src = path;
    picture.alt = `Example ${path.replace(/^.*\/|\.[^.]*$/g, "")}`;
    button.type = "button";
    button.append(picture);
    button.addEventListener("click", () => openExample(path));
    button.dataset.path = path;
    return button;
  });
  $("images").prepend(...buttons);
  if (examples.length) await openExample(examples[0]);
});

const openExample = shows(async (path) => {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`The server has no ${path} (${response.status}).`);
  await open(await response.blob(), path.replace(/^.*\//, ""), path);
});

function markExample() {
  for (const button of document.querySelectorAll("#images button")) {
    button.setAttribute("aria-pressed", String(button.dataset.path === image.example));
  }
}

$("file").addEventListener("change", ({ target }) => target.files[0] && open(target.files[0], target.files[0].name));
$("undo").addEventListener("click", undo);
$("clear").addEventListener("click", () => change(NOTHING));
$("masks").addEventListener("change", choose);
$("download").addEventListener("click", download);
$("form").addEventListener("change", ({ target }) => {
  startLoading(target.value);
  if (image) shows(encode)().then(() => ask({ prompt }));
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  stage.element.classList.add("dropping");
});
addEventListener("dragleave", () => stage.element.classList.remove("dropping"));
addEventListener("drop", (event) => {
  event.preventDefault();
  stage.element.classList.remove("dropping");
  const [file] = event.dataTransfer.files;
  if (file) open(file, file.name);
});
addEventListener("paste", ({ clipboardData }) => {
  const [file] = clipboardData.files;
  if (file) open(file, file.name);
});

startLoading();
showPage();
