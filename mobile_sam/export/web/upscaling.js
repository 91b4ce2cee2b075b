// Upscaling of low_res_logits (S/4, S/4) to masks of any size, equal to predictor.py in the bundle.
// Sizes are [height, width].

import { modelFrameSize } from "./frame.js";

/**
 * Upscales logits of one image to the model frame, removes its padding, and resizes to `size`. Each
 * step is bilinear between the centres of pixels; together they weight four pixels along each axis.
 */
export class Upscaling {
  /** imageSize: of the image, which may differ from the displayed `size`. side: S/4. */
  constructor(imageSize, imgSize, side, size) {
    const cropped = modelFrameSize(imageSize, imgSize);
    this.side = side;
    this.size = size;
    [this.rows, this.columns] = [0, 1].map((axis) =>
      combinedWeights(side, imgSize, cropped[axis], size[axis]),
    );
  }

  /** Returns a mask (height, width) of zeros and ones from logits (side, side). */
  mask(logits, threshold) {
    const [height, width] = this.size;
    const { side, rows, columns } = this;
    const wide = new Float32Array(side * width);
    for (let y = 0; y < side; y++) {
      const row = logits.subarray(y * side, (y + 1) * side);
      for (let x = 0; x < width; x++) wide[y * width + x] = weightedSum(row, columns, x, 1, 0);
    }
    const mask = new Uint8Array(height * width);
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        mask[y * width + x] = weightedSum(wide, rows, y, width, x) > threshold ? 1 : 0;
      }
    }
    return mask;
  }
}

function weightedSum(values, { pixels, weights }, place, stride, offset) {
  let sum = 0;
  for (let tap = 4 * place; tap < 4 * place + 4; tap++) {
    sum += values[pixels[tap] * stride + offset] * weights[tap];
  }
  return sum;
}

/** Combines both steps: for each of `count` pixels, four pixels of `side` and their weights. */
function combinedWeights(side, frame, cropped, count) {
  const pixels = new Int32Array(4 * count), weights = new Float32Array(4 * count);
  const first = neighbours(side, frame);
  neighbours(cropped, count).forEach(({ before, after, share }, place) => {
    [[before, 1 - share], [after, share]].forEach(([middle, weight], k) => {
      const inner = first[middle];
      pixels.set([inner.before, inner.after], 4 * place + 2 * k);
      weights.set([weight * (1 - inner.share), weight * inner.share], 4 * place + 2 * k);
    });
  });
  return { pixels, weights };
}

/** Returns for each of `count` pixels the pixels of `length` around its centre, and their weights. */
function neighbours(length, count) {
  return Array.from({ length: count }, (_, pixel) => {
    const place = Math.max((pixel + 0.5) * (length / count) - 0.5, 0);
    const before = Math.trunc(place);
    return { before, after: Math.min(before + 1, length - 1), share: place - before };
  });
}
