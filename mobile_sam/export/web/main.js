// The page: an image, a prompt on it or automatic masks, and the resulting masks.

import { masksAbove, initialThreshold, search } from "./automatic.js";
import { Engine } from "./engine.js";
import { maskFile, readImage } from "./pixels.js";
import { markExample, offerExamples, offerFiles } from "./sources.js";
import { Stage, isEmpty } from "./stage.js";
import { $, milliseconds, showErrors, showStatus } from "./status.js";

const NO_PROMPT = { points: [], box: null };
const HINT = "Point at an object, or drag a box around it.";
const MAX_PREVIEW_TIME = 300; // milliseconds of the decoder, above which there is no preview
const COLOUR = [45, 150, 255];

let loading; // promise of the model
let image = null; // {size, rgba, bitmap, name, example}
let encoding = Promise.resolve(); // of that image
let isEncoding = false;
let prompt = NO_PROMPT;
let history = []; // earlier prompts
let selected = null; // index of the displayed mask, of four
let automatic = null; // result of `search` in place of a prompt; [] while it searches
let decoderTime = 0;

const engine = new Engine((share) => showStatus(`Loading the model: ${Math.floor(100 * share)} %`, share));
const stage = new Stage($("stage"), {
  point: ([x, y], inverted) => change({ ...prompt, points: [...prompt.points, { x, y, label: label(inverted) }] }),
  box: (box) => change({ ...prompt, box }),
  preview,
  undo,
  clear,
});

const label = (inverted) => Number(document.querySelector("[name=label]:checked").value) ^ inverted;

async function load(form) {
  const { forms, bytes, threads, ...loaded } = await engine.call("load", { form });
  $("bytes").textContent = `${(bytes / 2 ** 20).toFixed(1)} MiB, ${loaded.imgSize} px`;
  $("runs").textContent = `WebAssembly, ${threads} thread${threads > 1 ? "s" : ""}`;
  $("forms").hidden = forms.length < 2;
  $("form").replaceChildren(...forms.map((name) => new Option(name, name, false, name === loaded.form)));
  showStatus("Choose an image.");
}

function startLoading(form) {
  loading = load(form);
  loading.catch((error) => showStatus(error.message, null, true));
}

const open = showErrors(async (blob, name, example) => {
  let pixels;
  try {
    pixels = await readImage(blob);
  } catch {
    throw new Error(`${name}: this browser cannot read it as an image; PNG and JPEG always work.`);
  }
  image = { ...pixels, name, example };
  setEncoding(true);
  [prompt, history, automatic] = [NO_PROMPT, [], null];
  stage.show(image);
  markExample($("images"), example);
  showPrompt();
  await encode();
});

async function encode() {
  const { rgba, size } = image;
  setEncoding(true);
  encoding = loading.then(() => {
    showStatus("Encoding the image…");
    return engine.call("encode", { rgba, size });
  });
  try {
    const result = await encoding;
    if (image.rgba !== rgba) return;
    $("encoder").textContent = milliseconds(result.milliseconds);
    showStatus(HINT);
  } finally {
    if (image.rgba === rgba) setEncoding(false);
  }
}

function setEncoding(value) {
  isEncoding = value;
  stage.element.setAttribute("aria-busy", String(value));
  $("everything").disabled = value;
}

function change(next) {
  history.push(prompt);
  prompt = next;
  automatic = null;
  showPrompt();
}

function undo() {
  if (!history.length) return;
  prompt = history.pop();
  automatic = null;
  showPrompt();
}

function clear() {
  if (automatic || !isEmpty(prompt)) change(NO_PROMPT);
}

function showPrompt() {
  stage.showPrompt(prompt);
  $("undo").disabled = !history.length;
  $("clear").disabled = isEmpty(prompt);
  if (isEmpty(prompt) && !isEncoding) showStatus(HINT);
  request({ prompt });
}

/** Previews the mask of a click here, if there is no prompt and the decoder is fast. */
function preview(position) {
  if (automatic || !isEmpty(prompt) || isEncoding || decoderTime > MAX_PREVIEW_TIME) return;
  const points = position ? [{ x: position[0], y: position[1], label: 1 }] : [];
  request({ prompt: { points, box: null }, isPreview: true });
}

let pending = null; // the newest request that has not started
let isPredicting = false;

/** Predicts the masks of the newest request; requests that arrive in between are skipped. */
async function request(next) {
  pending = next;
  if (isPredicting) return;
  isPredicting = true;
  $("masks").setAttribute("aria-busy", "true");
  while (pending) {
    const current = pending;
    pending = null;
    await predict(current);
  }
  isPredicting = false;
  $("masks").setAttribute("aria-busy", "false");
}

const predict = showErrors(async ({ prompt: requested, isPreview = false }) => {
  if (isEmpty(requested)) {
    if (!automatic) showResult(null);
    return;
  }
  const requestedImage = image;
  await encoding;
  const result = await engine.call("decode", { prompt: requested });
  const { predictedIou, best } = result;
  const mask = await engine.call("mask", { index: best, size: stage.shown });
  decoderTime = result.milliseconds;
  $("decoder").textContent = milliseconds(decoderTime);
  const isCurrent = isPreview ? isEmpty(prompt) && !automatic : requested === prompt;
  if (requestedImage !== image || !isCurrent) return;
  stage.showMasks([{ mask, colour: COLOUR }], isPreview);
  if (!isPreview) showResult(predictedIou, best);
});

/** predictedIou: of the four masks; null removes the mask from the page. */
function showResult(predictedIou, best = null) {
  if (!predictedIou) stage.showMasks([]);
  selected = best;
  $("masks").hidden = false;
  $("found").hidden = true;
  $("masks").disabled = $("download").disabled = !predictedIou;
  $("download").textContent = "Download mask";
  for (const input of document.querySelectorAll("[name=mask]")) {
    const index = Number(input.value);
    input.checked = index === best;
    const text = predictedIou ? predictedIou[index].toFixed(2) : "–";
    input.parentElement.querySelector(".iou").textContent = text;
  }
  if (predictedIou) showStatus(`Predicted IoU ${predictedIou[best].toFixed(2)}. Add points to improve the mask.`);
}

const select = showErrors(async (event) => {
  selected = Number(event.target.value);
  const current = prompt;
  const mask = await engine.call("mask", { index: selected, size: stage.shown });
  if (current === prompt) stage.showMasks([{ mask, colour: COLOUR }]);
});

const threshold = () => Number($("least").value);

const segmentEverything = showErrors(async () => {
  if (!isEmpty(prompt)) change(NO_PROMPT);
  const ownResult = (automatic = []);
  const isStopped = () => automatic !== ownResult;
  showResult(null);
  const progress = (share) => isStopped() || showStatus("Searching; click to stop.", share);
  progress(0);
  await encoding;
  const result = await search(engine, image.size, progress, isStopped);
  if (!result || isStopped()) return;
  automatic = result;
  $("least").value = initialThreshold(automatic);
  $("clear").disabled = false;
  await showAutomatic();
});

async function showAutomatic() {
  const [current, limit] = [automatic, threshold()];
  $("masks").hidden = true;
  $("found").hidden = false;
  $("level").textContent = limit.toFixed(2);
  const masks = await masksAbove(engine, automatic, limit, stage.shown);
  if (current !== automatic || limit !== threshold()) return;
  stage.showMasks(masks);
  $("download").disabled = !masks.length;
  $("download").textContent = "Download label map";
  const count = `${masks.length} of ${automatic.length} masks have this predicted IoU or more.`;
  showStatus(automatic.length ? count : "The model found no stable mask in this image.");
}

const download = showErrors(async () => {
  const { size, name } = image;
  const promptMask = async () => ({ mask: await engine.call("mask", { index: selected, size }), level: 255 });
  const masks = await (automatic ? masksAbove(engine, automatic, threshold(), size) : Promise.all([promptMask()]));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await maskFile(masks, size));
  link.download = `${name.replace(/\.[^.]*$/, "")}_${automatic ? "labels" : "mask"}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
});

const showPage = showErrors(async () => {
  const response = await fetch(new URL("./page.json", import.meta.url), { cache: "no-cache" });
  const { title, examples } = await response.json();
  $("title").textContent = document.title = title;
  await offerExamples(examples, $("images"), open);
});

$("undo").addEventListener("click", undo);
$("clear").addEventListener("click", clear);
$("everything").addEventListener("click", segmentEverything);
$("least").addEventListener("input", showErrors(showAutomatic));
$("masks").addEventListener("change", select);
$("download").addEventListener("click", download);
$("form").addEventListener("change", ({ target }) => {
  startLoading(target.value);
  automatic = null;
  if (image) showErrors(encode)().then(showPrompt);
});
offerFiles($("file"), stage.element, open);
startLoading();
showPage();
