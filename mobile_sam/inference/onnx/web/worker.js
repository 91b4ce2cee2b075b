// The model, beside the page: its files, onnxruntime-web, and answers to the page's calls in turn.

import { Candidates } from "./candidates.js";
import { imageToModelFrame, tokens } from "./frame.js";
import { Upscaling } from "./masks.js";
import * as ort from "./runtime/ort.js";

const MODEL = new URL("./model/", import.meta.url);
const RUNTIME = new URL("./runtime/ort-wasm-simd-threaded", import.meta.url);
const SINGLE = 0, AMBIGUOUS = [1, 2, 3]; // of the decoder's masks

let about; // bundle.json
let encoder, decoder;
let image = null; // {size, embedding, upscaling, candidates, found}
let answer = null; // of the last prompt, see `ask`

/** Reads the model in one of its forms. Returns what the page shows of it. */
async function load({ form }) {
  ort.env.wasm.wasmPaths = { mjs: `${RUNTIME.href}.js`, wasm: `${RUNTIME.href}.wasm` };
  about ??= await (await fetched("bundle.json", { cache: "no-cache" })).json();
  const chosen = form ?? Object.keys(about.forms)[0];
  const files = about.forms[chosen];
  if (!files) throw new Error(`The model has no form ${chosen}.`);
  image = answer = null;
  await Promise.all([encoder?.release(), decoder?.release()]);
  const names = [files.encoder, files.decoder];
  const total = names.reduce((sum, name) => sum + about.bytes[name], 0);
  let have = 0;
  const progress = (bytes) => self.postMessage({ progress: (have += bytes) / total });
  [encoder, decoder] = []; // gone, should the next lines fail
  encoder = await ort.InferenceSession.create(await download(files.encoder, progress));
  decoder = await ort.InferenceSession.create(await download(files.decoder, progress));
  return {
    form: chosen, forms: Object.keys(about.forms), bytes: total, imgSize: about.img_size,
    threads: ort.env.wasm.numThreads,
  };
}

async function fetched(name, options = {}) {
  const url = new URL(name, MODEL);
  const response = await fetch(url, options);
  if (!response.ok) throw new Error(`The server has no ${url.pathname} (${response.status}).`);
  return response;
}

/** The bytes of a file of the model. progress: called with the count of those that came. */
async function download(name, progress) {
  // The digest keeps an older file of that name in the browser's cache from being taken for it.
  const response = await fetched(`${name}?${about.sha256[name].slice(0, 16)}`);
  const bytes = new Uint8Array(about.bytes[name]);
  let have = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    if (have + value.length > bytes.length) throw new Error(`${name} is longer than exported.`);
    bytes.set(value, have);
    have += value.length;
    progress(value.length);
  }
  if (have < bytes.length) throw new Error(`Of ${name} came ${have} of ${bytes.length} bytes.`);
  return bytes;
}

/** Encodes an image of RGBA bytes. Returns milliseconds that the encoder took. */
async function encode({ rgba, size }) {
  image = answer = null;
  const side = about.img_size;
  const frame = imageToModelFrame(rgba, size, side, about.pixel_mean, about.pixel_std);
  const began = performance.now();
  const outputs = await encoder.run({ images: new ort.Tensor("float32", frame, [1, 3, side, side]) });
  image = { size, embedding: outputs.image_embeddings };
  return { milliseconds: performance.now() - began };
}

/** The decoder's {logits, predictedIou} of prompts of T points each, in the model frame. */
async function ask(coords, labels, prompts = 1) {
  const side = about.img_size / 4;
  const points = labels.length / prompts;
  const tensor = (values, ...shape) => new ort.Tensor("float32", values, [prompts, ...shape]);
  const outputs = await decoder.run({
    image_embeddings: image.embedding,
    point_coords: tensor(coords, points, 2),
    point_labels: tensor(labels, points),
    mask_input: tensor(new Float32Array(prompts * side * side), 1, side, side),
    has_mask_input: tensor(new Float32Array(prompts)),
  });
  return { logits: outputs.low_res_masks.data, predictedIou: outputs.iou_predictions.data };
}

/**
 * Answers a prompt, see `tokens`. Returns predicted_iou of four masks, of which the first is for
 * clear prompts and three for ambiguous ones; which is best; and milliseconds that the decoder took.
 */
async function decode({ prompt }) {
  if (!image) throw new Error("There is no image yet.");
  const { coords, labels } = tokens(prompt, image.size, about.img_size);
  const began = performance.now();
  answer = await ask(coords, labels);
  const milliseconds = performance.now() - began;
  const ious = Array.from(answer.predictedIou);
  const clear = prompt.box || prompt.points.length > 1;
  const best = clear ? SINGLE : AMBIGUOUS.reduce((a, b) => (ious[b] > ious[a] ? b : a));
  return { predictedIou: ious, best, milliseconds };
}

/** One of the four masks of the last answer at a size: bytes of zeros and ones. */
async function mask({ index, size }) {
  const area = (about.img_size / 4) ** 2;
  return upscaled(answer.logits.subarray(index * area, (index + 1) * area), size);
}

function upscaled(logits, size) {
  if (String(image.upscaling?.size) !== String(size)) {
    image.upscaling = new Upscaling(image.size, about.img_size, about.img_size / 4, size);
  }
  return image.upscaling.mask(logits, about.mask_threshold);
}

/** Adds the masks of points [x, y] to the candidates. first: of them there are none before. */
async function scan({ points, first }) {
  const side = about.img_size / 4;
  if (first) image.candidates = new Candidates(image.size, about.img_size, side, about.mask_threshold);
  const all = points.map(([x, y]) =>
    tokens({ points: [{ x, y, label: 1 }], box: null }, image.size, about.img_size),
  );
  const joined = (name) => Float32Array.from(all.flatMap((one) => [...one[name]]));
  const { logits, predictedIou } = await ask(joined("coords"), joined("labels"), points.length);
  points.forEach((point, prompt) => {
    for (const index of AMBIGUOUS) {
      const place = 4 * prompt + index;
      const one = logits.subarray(place * side * side, (place + 1) * side * side);
      image.candidates.add(one, predictedIou[place], { point, index });
    }
  });
}

/** Ends a scan. Returns {predictedIou, area, point, index} of what it found, best first. */
async function sift() {
  image.found = image.candidates.best();
  image.candidates = null;
  return image.found.map(({ predictedIou, area, point, index }) => ({ predictedIou, area, point, index }));
}

/** One of the masks that were found, as `mask` gives it. */
async function found({ number, size }) {
  return upscaled(image.found[number].logits, size);
}

const CALLS = { load, encode, decode, mask, scan, sift, found };
let turn = Promise.resolve();
self.onmessage = ({ data: { number, call, values } }) => {
  turn = turn.then(async () => {
    try {
      self.postMessage({ number, value: await CALLS[call](values) });
    } catch (error) {
      self.postMessage({ number, error: error.message ?? String(error) });
    }
  });
};
