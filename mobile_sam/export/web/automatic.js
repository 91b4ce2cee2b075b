// Automatic masks: the points of a grid prompt the model; a threshold selects among the results.

const SIDE = 16, BATCH = 8; // points along each side, and per pass of the decoder
const THRESHOLD = 0.7, MIN_COUNT = 10; // initial predicted IoU, and number of masks if all are below it
// Okabe and Ito's palette, which remains distinct with colour-vision deficiency.
const COLOURS = [
  [230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0],
  [204, 121, 167],
];

/**
 * Decodes the grid. Returns the masks by falling predicted IoU, or null if it was stopped.
 * size: [height, width] of the image. progress: called with the share of points that are done.
 */
export async function search(engine, size, progress, isStopped) {
  const centres = Array.from({ length: SIDE }, (_, k) => (k + 0.5) / SIDE);
  const points = centres.flatMap((y) => centres.map((x) => [x * size[1], y * size[0]]));
  for (let done = 0; done < points.length; done += BATCH) {
    if (isStopped()) return null;
    await engine.call("scan", { points: points.slice(done, done + BATCH), isFirst: done === 0 });
    progress((done + BATCH) / points.length);
  }
  return isStopped() ? null : engine.call("finishScan", {});
}

/** The predicted IoU above which masks are shown initially. */
export function initialThreshold(results) {
  if (!results.length || results[0].predictedIou >= THRESHOLD) return THRESHOLD;
  const last = results[Math.min(MIN_COUNT, results.length) - 1].predictedIou;
  return Math.max(0, Math.floor(100 * last) / 100);
}

/** Masks of at least a predicted IoU, large ones first, so that small ones are drawn over them. */
export async function masksAbove(engine, results, threshold, size) {
  const numbers = results.flatMap((result, number) => (result.predictedIou >= threshold ? [number] : []));
  numbers.sort((a, b) => results[b].area - results[a].area);
  const masks = [];
  for (const number of numbers) {
    const mask = await engine.call("automaticMask", { number, size });
    masks.push({ mask, colour: COLOURS[number % COLOURS.length], level: masks.length + 1 });
  }
  return masks;
}
