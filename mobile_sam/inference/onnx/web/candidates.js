// Masks of many points, and the best of those that are of one thing. The measures are those of
// SamAutomaticMaskGenerator, taken in the model frame, at a quarter of its side.

import { modelFrameSize } from "./frame.js";

const OFFSET = 1, STABLE = 0.95; // in logits, and the IoU of a mask a bit smaller and a bit larger
const SAME = 0.7; // IoU of boxes, above which two masks are of one thing

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
    let inner = 0, outer = 0, area = 0;
    const box = [Infinity, Infinity, -Infinity, -Infinity];
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        const value = logits[y * side + x];
        if (value > threshold - OFFSET) outer++;
        if (value > threshold + OFFSET) inner++;
        if (value <= threshold) continue;
        area++;
        box[0] = Math.min(box[0], x);
        box[1] = Math.min(box[1], y);
        box[2] = Math.max(box[2], x + 1);
        box[3] = Math.max(box[3], y + 1);
      }
    }
    if (!area || inner / outer < STABLE) return;
    this.all.push({ logits: logits.slice(), predictedIou, box, area, ...origin });
  }

  /** The best of those of one thing, of the highest predicted IoU first. */
  best() {
    const kept = [];
    for (const one of this.all.sort((a, b) => b.predictedIou - a.predictedIou)) {
      if (kept.every((other) => boxIou(one.box, other.box) <= SAME)) kept.push(one);
    }
    return kept;
  }
}

/** Of boxes [x0, y0, x1, y1]. */
export function boxIou(a, b) {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  if (width <= 0 || height <= 0) return 0;
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  return (width * height) / (area(a) + area(b) - width * height);
}
