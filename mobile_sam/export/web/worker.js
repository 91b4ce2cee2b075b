// The worker: loads the model and onnxruntime-web, and executes the page's calls one after another.

import { Candidates } from "./candidates.js";
import { imageToModelFrame, tokens } from "./frame.js";
import * as ort from "./runtime/ort.js";
import { Upscaling } from "./upscaling.js";

const MODEL = new URL("./model/", import.meta.url);
const RUNTIME = new URL("./runtime/ort-wasm-simd-threaded", import.meta.url);
const SINGLE = 0, AMBIGUOUS = [1, 2, 3]; // indices of the decoder's masks

let bundle; // bundle.json
let encoder, decoder;
let image = null; // {size, embedding, upscaling, candidates, automatic}
let decoded = null; // result of the last prompt, see `runDecoder`

/** Loads the model in one of its forms. Returns the description that the page shows. */
async function load({ form }) {
  ort.env.wasm.wasmPaths = { mjs: `${RUNTIME.href}.js`, wasm: `${RUNTIME.href}.wasm` };
  bundle ??= await (await fetchFile("bundle.json", { cache: "no-cache" })).json();
  const selected = form ?? Object.keys(bundle.forms)[0];
  const files = bundle.forms[selected];
  if (!files) throw new Error(`The model has no form ${selected}.`);
  image = decoded = null;
  await Promise.all([encoder?.release(), decoder?.release()]);
  const names = [files.encoder, files.decoder];
  const total = names.reduce((sum, name) => sum + bundle.bytes[name], 0);
  let received = 0;
  const progress = (bytes) => self.postMessage({ progress: (received += bytes) / total });
  [encoder, decoder] = []; // released sessions must not remain if the next lines fail
  encoder = await ort.InferenceSession.create(await download(files.encoder, progress));
  decoder = await ort.InferenceSession.create(await download(files.decoder, progress));
  return {
    form: selected, forms: Object.keys(bundle.forms), bytes: total, imgSize: bundle.img_size,
    threads: ort.env.wasm.numThreads,
  };
}

async function fetchFile(name, options = {}) {
  const url = new URL(name, MODEL);
  const response = await fetch(url, options);
  if (!response.ok) throw new Error(`The server has no ${url.pathname} (${response.status}).`);
  return response;
}

/** Downloads a file of the model. progress: called with the number of bytes of each part. */
async function download(name, progress) {
  // The digest in the address keeps the browser from using a cached file of an older export.
  const response = await fetchFile(`${name}?${bundle.sha256[name].slice(0, 16)}`);
  const bytes = new Uint8Array(bundle.bytes[name]);
  let received = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    if (received + value.length > bytes.length) throw new Error(`${name} is longer than exported.`);
    bytes.set(value, received);
    received += value.length;
    progress(value.length);
  }
  if (received < bytes.length) {
    throw new Error(`${name}: received ${received} of ${bytes.length} bytes.`);
  }
  return bytes;
}

/** Encodes an image of RGBA bytes. Returns the milliseconds that the encoder took. */
async function encode({ rgba, size }) {
  image = decoded = null;
  const side = bundle.img_size;
  const frame = imageToModelFrame(rgba, size, side, bundle.pixel_mean, bundle.pixel_std);
  const started = performance.now();
  const outputs = await encoder.run({ images: new ort.Tensor("float32", frame, [1, 3, side, side]) });
  image = { size, embedding: outputs.image_embeddings };
  return { milliseconds: performance.now() - started };
}

/** Decodes prompts of T points each, in the model frame. Returns {logits, predictedIou}. */
async function runDecoder(coords, labels, prompts = 1) {
  const side = bundle.img_size / 4;
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
 * Decodes a prompt, see `tokens`. Returns predictedIou of four masks: the first is for clear prompts,
 * the other three for ambiguous ones; the index of the best; and the milliseconds of the decoder.
 */
async function decode({ prompt }) {
  if (!image) throw new Error("There is no image yet.");
  const { coords, labels } = tokens(prompt, image.size, bundle.img_size);
  const started = performance.now();
  decoded = await runDecoder(coords, labels);
  const milliseconds = performance.now() - started;
  const ious = Array.from(decoded.predictedIou);
  const isClear = prompt.box || prompt.points.length > 1;
  const best = isClear ? SINGLE : AMBIGUOUS.reduce((a, b) => (ious[b] > ious[a] ? b : a));
  return { predictedIou: ious, best, milliseconds };
}

/** Returns one of the four masks of the last prompt, at a size: bytes of zeros and ones. */
async function mask({ index, size }) {
  const area = (bundle.img_size / 4) ** 2;
  return upscale(decoded.logits.subarray(index * area, (index + 1) * area), size);
}

function upscale(logits, size) {
  if (String(image.upscaling?.size) !== String(size)) {
    image.upscaling = new Upscaling(image.size, bundle.img_size, bundle.img_size / 4, size);
  }
  return image.upscaling.mask(logits, bundle.mask_threshold);
}

/** Adds the masks of points [x, y] to the candidates. isFirst: start without earlier candidates. */
async function scan({ points, isFirst }) {
  const side = bundle.img_size / 4;
  if (isFirst) {
    image.candidates = new Candidates(image.size, bundle.img_size, side, bundle.mask_threshold);
  }
  const prompts = points.map(([x, y]) =>
    tokens({ points: [{ x, y, label: 1 }], box: null }, image.size, bundle.img_size),
  );
  const joined = (name) => Float32Array.from(prompts.flatMap((prompt) => [...prompt[name]]));
  const { logits, predictedIou } = await runDecoder(joined("coords"), joined("labels"), points.length);
  points.forEach((point, row) => {
    for (const index of AMBIGUOUS) {
      const k = 4 * row + index;
      const maskLogits = logits.subarray(k * side * side, (k + 1) * side * side);
      image.candidates.add(maskLogits, predictedIou[k], { point, index });
    }
  });
}

/** Ends a scan. Returns {predictedIou, area, point, index} of its masks, best first. */
async function finishScan() {
  image.automatic = image.candidates.best();
  image.candidates = null;
  return image.automatic.map(({ predictedIou, area, point, index }) => ({ predictedIou, area, point, index }));
}

/** Returns one of the masks of the last scan, like `mask`. */
async function automaticMask({ number, size }) {
  return upscale(image.automatic[number].logits, size);
}

const CALLS = { load, encode, decode, mask, scan, finishScan, automaticMask };
let queue = Promise.resolve();
self.onmessage = ({ data: { number, call, values } }) => {
  queue = queue.then(async () => {
    try {
      self.postMessage({ number, value: await CALLS[call](values) });
    } catch (error) {
      self.postMessage({ number, error: error.message ?? String(error) });
    }
  });
};
