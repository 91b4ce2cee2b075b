// Everything in an image: a grid of points is asked, and what is found can be looked through.

const SIDE = 16, BATCH = 8; // points along each side, and in one pass of the decoder
const GOOD = 0.7, FEW = 10; // predicted IoU to begin with, and how many where all are below it
// Of Okabe and Ito, which are told apart by all eyes.
const COLOURS = [
  [230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0],
  [204, 121, 167],
];

/**
 * Asks the grid. Returns what was found, best first, or null when it was stopped.
 * size: [height, width] of the image. progress: called with the share that is done.
 */
export async function search(engine, size, progress, stopped) {
  const places = Array.from({ length: SIDE }, (_, k) => (k + 0.5) / SIDE);
  const points = places.flatMap((y) => places.map((x) => [x * size[1], y * size[0]]));
  for (let done = 0; done < points.length; done += BATCH) {
    if (stopped()) return null;
    await engine.call("scan", { points: points.slice(done, done + BATCH), first: done === 0 });
    progress((done + BATCH) / points.length);
  }
  return stopped() ? null : engine.call("sift", {});
}

/** The predicted IoU from which on masks are shown at first. */
export function leastAtFirst(found) {
  if (!found.length || found[0].predictedIou >= GOOD) return GOOD;
  const last = found[Math.min(FEW, found.length) - 1].predictedIou;
  return Math.max(0, Math.floor(100 * last) / 100);
}

/** Masks of at least some predicted IoU, large ones first, so that small ones lie upon them. */
export async function masksFrom(engine, found, least, size) {
  const numbers = found.flatMap((one, number) => (one.predictedIou >= least ? [number] : []));
  numbers.sort((a, b) => found[b].area - found[a].area);
  const masks = [];
  for (const number of numbers) {
    const mask = await engine.call("found", { number, size });
    masks.push({ mask, colour: COLOURS[number % COLOURS.length], level: masks.length + 1 });
  }
  return masks;
}
