// The page: an image, a prompt on it or a search for everything, and the masks that come of it.

import { Engine } from "./engine.js";
import { leastAtFirst, masksFrom, search } from "./everything.js";
import { $, milliseconds, say, shows } from "./notes.js";
import { maskFile, readImage } from "./pixels.js";
import { markExample, offerExamples, offerFiles } from "./sources.js";
import { Stage, empty } from "./stage.js";

const NOTHING = { points: [], box: null };
const HINT = "Point at an object, or drag a box around it.";
const SLOW = 300; // milliseconds of the decoder, above which nothing is shown before a click
const COLOUR = [45, 150, 255];


let loading; // of the model
let image = null; // {size, rgba, bitmap, name, example}
let encoding = Promise.resolve(); // of that image
let busy = false; // with encoding
let prompt = NOTHING;
let history = []; // the prompts before
let chosen = null; // which of the four masks
let found = null; // everything, in place of a prompt: what `search` gave, none while it searches
let decoderTime = 0;

const engine = new Engine((share) => say(`Loading the model: ${Math.floor(100 * share)} %`, share));
const stage = new Stage($("stage"), {
  point: ([x, y], turned) => change({ ...prompt, points: [...prompt.points, { x, y, label: label(turned) }] }),
  box: (box) => change({ ...prompt, box }),
  preview,
  undo,
  clear,
});

const label = (turned) => Number(document.querySelector("[name=label]:checked").value) ^ turned;

async function load(form) {
  const { forms, bytes, threads, ...loaded } = await engine.call("load", { form });
  $("bytes").textContent = `${(bytes / 2 ** 20).toFixed(1)} MiB, ${loaded.imgSize} px`;
  $("runs").textContent = `WebAssembly, ${threads} thread${threads > 1 ? "s" : ""}`;
  $("forms").hidden = forms.length < 2;
  $("form").replaceChildren(...forms.map((name) => new Option(name, name, false, name === loaded.form)));
  say("Choose an image.");
}

function startLoading(form) {
  loading = load(form);
  loading.catch((error) => say(error.message, null, true));
}

const open = shows(async (blob, name, example) => {
  let read;
  try {
    read = await readImage(blob);
  } catch {
    throw new Error(`${name}: this browser cannot read it as an image; PNG and JPEG always work.`);
  }
  image = { ...read, name, example };
  setBusy(true);
  [prompt, history, found] = [NOTHING, [], null];
  stage.show(image);
  markExample($("images"), example);
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
  $("everything").disabled = value;
}

function change(next) {
  history.push(prompt);
  prompt = next;
  found = null;
  showPrompt();
}

function undo() {
  if (!history.length) return;
  prompt = history.pop();
  found = null;
  showPrompt();
}

function clear() {
  if (found || !empty(prompt)) change(NOTHING);
}

function showPrompt() {
  stage.showPrompt(prompt);
  $("undo").disabled = !history.length;
  $("clear").disabled = empty(prompt);
  if (empty(prompt) && !busy) say(HINT);
  ask({ prompt });
}

/** What a click here would give, while there is no prompt and the model is quick. */
function preview(place) {
  if (found || !empty(prompt) || busy || decoderTime > SLOW) return;
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
    if (!found) showAnswer(null);
    return;
  }
  const of = image;
  await encoding;
  const { predictedIou, best, milliseconds: took } = await engine.call("decode", { prompt: given });
  const mask = await engine.call("mask", { index: best, size: stage.shown });
  decoderTime = took;
  $("decoder").textContent = milliseconds(took);
  const current = tried ? empty(prompt) && !found : given === prompt;
  if (of !== image || !current) return;
  stage.showMasks([{ mask, colour: COLOUR }], tried);
  if (!tried) showAnswer(predictedIou, best);
});

/** predictedIou: of the four masks; null without an answer, whose mask is taken away. */
function showAnswer(predictedIou, best = null) {
  if (!predictedIou) stage.showMasks([]);
  chosen = best;
  $("masks").hidden = false;
  $("found").hidden = true;
  $("masks").disabled = $("download").disabled = !predictedIou;
  $("download").textContent = "Download mask";
  for (const input of document.querySelectorAll("[name=mask]")) {
    const index = Number(input.value);
    input.checked = index === best;
    const shown = predictedIou ? predictedIou[index].toFixed(2) : "–";
    input.parentElement.querySelector(".iou").textContent = shown;
  }
  if (predictedIou) say(`Predicted IoU ${predictedIou[best].toFixed(2)}. More points make it better.`);
}

const choose = shows(async (event) => {
  chosen = Number(event.target.value);
  const of = prompt;
  const mask = await engine.call("mask", { index: chosen, size: stage.shown });
  if (of === prompt) stage.showMasks([{ mask, colour: COLOUR }]);
});

const least = () => Number($("least").value);

const findEverything = shows(async () => {
  if (!empty(prompt)) change(NOTHING);
  const mine = (found = []);
  const stopped = () => found !== mine;
  showAnswer(null);
  const progress = (share) => stopped() || say("Searching; a click ends it.", share);
  progress(0);
  await encoding;
  const all = await search(engine, image.size, progress, stopped);
  if (!all || stopped()) return;
  found = all;
  $("least").value = leastAtFirst(found);
  $("clear").disabled = false;
  await showFound();
});

async function showFound() {
  const [of, limit] = [found, least()];
  $("masks").hidden = true;
  $("found").hidden = false;
  $("level").textContent = limit.toFixed(2);
  const masks = await masksFrom(engine, found, limit, stage.shown);
  if (of !== found || limit !== least()) return;
  stage.showMasks(masks);
  $("download").disabled = !masks.length;
  $("download").textContent = "Download label map";
  const count = `${masks.length} of ${found.length} masks have this predicted IoU or more.`;
  say(found.length ? count : "The model is sure of no mask in this image.");
}

const download = shows(async () => {
  const { size, name } = image;
  const one = async () => ({ mask: await engine.call("mask", { index: chosen, size }), level: 255 });
  const masks = await (found ? masksFrom(engine, found, least(), size) : Promise.all([one()]));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await maskFile(masks, size));
  link.download = `${name.replace(/\.[^.]*$/, "")}_${found ? "labels" : "mask"}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
});

const showPage = shows(async () => {
  const response = await fetch(new URL("./page.json", import.meta.url), { cache: "no-cache" });
  const { title, examples } = await response.json();
  $("title").textContent = document.title = title;
  await offerExamples(examples, $("images"), open);
});

$("undo").addEventListener("click", undo);
$("clear").addEventListener("click", clear);
$("everything").addEventListener("click", findEverything);
$("least").addEventListener("input", shows(showFound));
$("masks").addEventListener("change", choose);
$("download").addEventListener("click", download);
$("form").addEventListener("change", ({ target }) => {
  startLoading(target.value);
  found = null;
  if (image) shows(encode)().then(showPrompt);
});
offerFiles($("file"), stage.element, open);
startLoading();
showPage();
