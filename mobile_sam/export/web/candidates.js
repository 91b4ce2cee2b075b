// Masks of many points, without duplicates. Like SamAutomaticMaskGenerator, but at a quarter of the
// model frame's side, and with the IoU of masks in place of boxes: a distant speck enlarges a box.

import { modelFrameSize } from "./frame.js";

const OFFSET = 1; // in logits, by which the threshold is raised and lowered
const MIN_STABILITY = 0.75; // IoU of the two masks; in a small frame few masks reach SAM's 0.95
const DUPLICATE_IOU = 0.7; // IoU above which two masks are duplicates

export class Candidates {
  /** size: [height, width] of the image. side: S/4. */
  constructor(size, imgSize, side, threshold) {
    this.size = modelFrameSize(size, imgSize).map((length) => Math.ceil(length / 4));
    this.side = side;
    this.threshold = threshold;
    this.all = [];
  }

  /** Adds a mask (side, side) in logits unless it is empty or unstable. origin: stored with it. */
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
    if (!area || inner / outer < MIN_STABILITY) return;
    this.all.push({ logits: logits.slice(), mask, area, predictedIou, ...origin });
  }

  /** Candidates by falling predicted IoU, without duplicates of better ones. */
  best() {
    const kept = [];
    for (const candidate of this.all.sort((a, b) => b.predictedIou - a.predictedIou)) {
      if (kept.every((better) => !areDuplicates(candidate, better))) kept.push(candidate);
    }
    return kept;
  }
}

function areDuplicates(a, b) {
  if (Math.min(a.area, b.area) <= DUPLICATE_IOU * Math.max(a.area, b.area)) return false;
  let intersection = 0;
  for (let k = 0; k < a.mask.length; k++) intersection += a.mask[k] & b.mask[k];
  return intersection > DUPLICATE_IOU * (a.area + b.area - intersection);
}
