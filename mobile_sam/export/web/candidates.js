// Masks of many points, and the best of those that are of one thing. As in
// SamAutomaticMaskGenerator, but taken at a quarter of the model frame's side, and with the IoU of
// masks in place of that of their boxes: a speck far off makes a box of anything.

import { modelFrameSize } from "./frame.js";

const OFFSET = 1; // in logits, by which a mask is made a bit smaller and a bit larger
const STABLE = 0.75; // IoU of the two. In the frame of a small model few masks reach SAM's 0.95
const SAME = 0.7; // IoU above which two masks are of one thing

export class Candidates {
  /** size: [height, width] of the image. side: S/4. */
  constructor(size, imgSize, side, threshold) {
    this.size = modelFrameSize(size, imgSize).map((length) => Math.ceil(length / 4));
    this.side = side;
    this.threshold = threshold;
    this.all = [];
  }

  /** Takes a mask (side, side) in logits, unless it is empty or not stable. origin: kept with it. */
  add(logits, predictedIou, origin) {
    const { threshold, side, size: [height, width] } = this;
    const mask = new Uint8Array(height * width);
    let inner = 0, outer = 0, area = 0;
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const value = logits[y * side + x];
        if (value > threshold - OFFSET) outer++;
        if (value > threshold + OFFSET) inner++;
        if (value > threshold) area += mask[y * width + x] = 1;
      }
    }
    if (!area || inner / outer < STABLE) return;
    this.all.push({ logits: logits.slice(), mask, area, predictedIou, ...origin });
  }

  /** The best of those of one thing, of the highest predicted IoU first. */
  best() {
    const kept = [];
    for (const one of this.all.sort((a, b) => b.predictedIou - a.predictedIou)) {
      if (kept.every((other) => !same(one, other))) kept.push(one);
    }
    return kept;
  }
}

function same(one, other) {
  if (Math.min(one.area, other.area) <= SAME * Math.max(one.area, other.area)) return false;
  let both = 0;
  for (let k = 0; k < one.mask.length; k++) both += one.mask[k] & other.mask[k];
  return both > SAME * (one.area + other.area - both);
}
