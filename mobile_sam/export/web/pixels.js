// Pixels of image files, and masks as pixels. A mask is bytes of zeros and ones.

const BAND = 256; // rows at a time: some browsers have no canvas for a whole photograph
const INSIDE = 110, EDGE = 255; // of opacity

/** An upright image {size: [height, width], rgba, bitmap}; colour profiles are left aside. */
export async function readImage(blob) {
  const options = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
  const bitmap = await createImageBitmap(blob, options);
  const { height, width } = bitmap;
  const rgba = new Uint8ClampedArray(4 * height * width);
  const canvas = document.createElement("canvas");
  [canvas.height, canvas.width] = [Math.min(BAND, height), width];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  for (let y = 0; y < height; y += BAND) {
    const rows = Math.min(BAND, height - y);
    context.clearRect(0, 0, width, BAND);
    context.drawImage(bitmap, 0, -y);
    rgba.set(context.getImageData(0, 0, width, rows).data, 4 * y * width);
  }
  return { size: [height, width], rgba, bitmap };
}

/** Masks [{mask, level}] as one grey PNG: each in its level, 0..255, later ones upon earlier. */
export async function maskFile(masks, [height, width]) {
  const canvas = document.createElement("canvas");
  [canvas.height, canvas.width] = [height, width];
  const context = canvas.getContext("2d");
  const picture = context.createImageData(width, height);
  const words = new Uint32Array(picture.data.buffer).fill(word(0, 0, 0, 255));
  for (const { mask, level } of masks) {
    if (level > 255) throw new Error("A label map has room for 255 masks; ask for fewer.");
    const painted = word(level, level, level, 255);
    for (let k = 0; k < mask.length; k++) if (mask[k]) words[k] = painted;
  }
  context.putImageData(picture, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  if (!blob) throw new Error(`This browser cannot write an image of ${width} × ${height} pixels.`);
  return blob;
}

/** Draws masks [{mask, colour: [r, g, b]}] on a canvas of their size, later ones upon earlier. */
export function drawMasks(context, masks, [height, width]) {
  const picture = context.createImageData(width, height);
  const words = new Uint32Array(picture.data.buffer);
  const reach = Math.max(1, Math.round(Math.max(height, width) / 350));
  for (const { mask, colour } of masks) {
    const [inner, edge] = [word(...colour, INSIDE), word(...colour, EDGE)];
    const at = (y, x) => y >= 0 && x >= 0 && y < height && x < width && mask[y * width + x] === 1;
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        if (!mask[y * width + x]) continue;
        const inside = at(y - reach, x) && at(y + reach, x) && at(y, x - reach) && at(y, x + reach);
        words[y * width + x] = inside ? inner : edge;
      }
    }
  }
  context.putImageData(picture, 0, 0);
}

/** A pixel as one number, whatever order of bytes this machine has. */
const word = (...rgba) => new Uint32Array(new Uint8ClampedArray(rgba).buffer)[0];
