// Reading of image files, and drawing of masks. A mask is an array of zeros and ones.

const BAND = 256; // rows at a time: some browsers limit the size of a canvas
const FILL_OPACITY = 110, EDGE_OPACITY = 255;

/** Reads an upright image {size: [height, width], rgba, bitmap}; ignores colour profiles. */
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

/** Writes masks [{mask, level}] as one grey PNG: each with its level, 0..255, later ones on top. */
export async function maskFile(masks, [height, width]) {
  const canvas = document.createElement("canvas");
  [canvas.height, canvas.width] = [height, width];
  const context = canvas.getContext("2d");
  const imageData = context.createImageData(width, height);
  const pixels = new Uint32Array(imageData.data.buffer).fill(packed(0, 0, 0, 255));
  for (const { mask, level } of masks) {
    if (level > 255) throw new Error("A label map holds at most 255 masks; raise the predicted IoU.");
    const value = packed(level, level, level, 255);
    for (let k = 0; k < mask.length; k++) if (mask[k]) pixels[k] = value;
  }
  context.putImageData(imageData, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  if (!blob) throw new Error(`This browser cannot write an image of ${width} × ${height} pixels.`);
  return blob;
}

/** Draws masks [{mask, colour: [r, g, b]}] on a canvas of their size, later ones on top. */
export function drawMasks(context, masks, [height, width]) {
  const imageData = context.createImageData(width, height);
  const pixels = new Uint32Array(imageData.data.buffer);
  const edgeWidth = Math.max(1, Math.round(Math.max(height, width) / 350));
  for (const { mask, colour } of masks) {
    const [inner, edge] = [packed(...colour, FILL_OPACITY), packed(...colour, EDGE_OPACITY)];
    const at = (y, x) => y >= 0 && x >= 0 && y < height && x < width && mask[y * width + x] === 1;
    for (let y = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        if (!mask[y * width + x]) continue;
        const inside = at(y - edgeWidth, x) && at(y + edgeWidth, x) && at(y, x - edgeWidth) && at(y, x + edgeWidth);
        pixels[y * width + x] = inside ? inner : edge;
      }
    }
  }
  context.putImageData(imageData, 0, 0);
}

/** Packs a pixel into one number, in the byte order of this machine. */
const packed = (...rgba) => new Uint32Array(new Uint8ClampedArray(rgba).buffer)[0];
