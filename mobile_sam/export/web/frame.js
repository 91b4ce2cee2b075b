// Conversion of images and points to the model frame, equal to predictor.py in the bundle.
// Sizes are [height, width], points [x, y].

const WEIGHT_BITS = 22; // fraction bits of Pillow's resampling weights
const PADDING = -1, TOP_LEFT = 2, BOTTOM_RIGHT = 3; // further labels; 0 is background, 1 foreground

/** The size that an image takes up in a model frame of side `imgSize`. */
export function modelFrameSize([height, width], imgSize) {
  const scale = imgSize / Math.max(height, width);
  return [Math.trunc(height * scale + 0.5), Math.trunc(width * scale + 0.5)];
}

/** Converts RGBA bytes to the encoder's input (3, S, S): resizes, normalises, pads with zeros. */
export function imageToModelFrame(rgba, size, imgSize, mean, std) {
  const [height, width] = modelFrameSize(size, imgSize);
  const pixels = resize(withoutAlpha(rgba), size, [height, width]);
  const frame = new Float32Array(3 * imgSize * imgSize);
  for (let channel = 0; channel < 3; channel++) {
    for (let y = 0; y < height; y++) {
      const row = (channel * imgSize + y) * imgSize;
      for (let x = 0; x < width; x++) {
        frame[row + x] = (pixels[3 * (y * width + x) + channel] - mean[channel]) / std[channel];
      }
    }
  }
  return frame;
}

/** Converts RGBA bytes to RGB bytes. */
export function withoutAlpha(rgba) {
  const rgb = new Uint8Array((rgba.length / 4) * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    rgb[to] = rgba[from];
    rgb[to + 1] = rgba[from + 1];
    rgb[to + 2] = rgba[from + 2];
  }
  return rgb;
}

/** Resizes RGB bytes exactly as Pillow's bilinear filter does, columns before rows. */
export function resize(rgb, [height, width], [newHeight, newWidth]) {
  const columns = resizeAxis(rgb, height, width, 3, newWidth);
  return resizeAxis(columns, 1, height, 3 * newWidth, newHeight);
}

/** Resizes bytes (outer, length, inner) to (outer, count, inner): weighted sums of neighbours. */
function resizeAxis(bytes, outer, length, inner, count) {
  if (length === count) return bytes;
  const resized = new Uint8ClampedArray(outer * count * inner);
  const sums = new Int32Array(inner);
  const taps = Array.from({ length: count }, (_, place) => weightsAt(place, length, count));
  for (let block = 0; block < outer; block++) {
    for (let place = 0; place < count; place++) {
      const { first, weights } = taps[place];
      sums.fill(1 << (WEIGHT_BITS - 1));
      for (let tap = 0; tap < weights.length; tap++) {
        const from = (block * length + first + tap) * inner;
        for (let k = 0; k < inner; k++) sums[k] += bytes[from + k] * weights[tap];
      }
      const to = (block * count + place) * inner;
      for (let k = 0; k < inner; k++) resized[to + k] = sums[k] >> WEIGHT_BITS;
    }
  }
  return resized;
}

/** Returns the first of the `length` pixels that form pixel `place` of `count`, and integer weights. */
function weightsAt(place, length, count) {
  const step = length / count;
  const reach = Math.max(step, 1); // widens with the step, so that no pixel is skipped
  const centre = (place + 0.5) * step;
  const first = Math.max(Math.trunc(centre - reach + 0.5), 0);
  const last = Math.min(Math.trunc(centre + reach + 0.5), length);
  const weights = [];
  for (let tap = first; tap < last; tap++) {
    weights.push(Math.max(1 - Math.abs((tap - centre + 0.5) * (1 / reach)), 0));
  }
  const sum = weights.reduce((a, b) => a + b, 0);
  return { first, weights: weights.map((weight) => Math.trunc((weight / sum) * 2 ** WEIGHT_BITS + 0.5)) };
}

/**
 * Converts a prompt to points (T, 2) in the model frame and labels (T): points come first, then the
 * corners of the box or padding.
 * prompt: {points: [{x, y, label}], box: [x0, y0, x1, y1] or null}, in the image frame.
 */
export function tokens({ points, box }, size, imgSize) {
  const [height, width] = modelFrameSize(size, imgSize);
  const scale = [width / size[1], height / size[0]];
  const all = points.map(({ x, y, label }) => [x, y, label]);
  if (box) all.push([box[0], box[1], TOP_LEFT], [box[2], box[3], BOTTOM_RIGHT]);
  else all.push([0, 0, PADDING]);
  return {
    coords: Float32Array.from(all.flatMap(([x, y]) => [x * scale[0], y * scale[1]])),
    labels: Float32Array.from(all.map(([, , label]) => label)),
  };
}
