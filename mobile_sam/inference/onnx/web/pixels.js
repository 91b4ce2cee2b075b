// Pixels of an image file, and files of masks.

const BAND = 256; // rows at a time: some browsers have no canvas for a whole photograph

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

/** A mask of zeros and ones as PNG, black and white. */
export async function maskFile(mask, [height, width]) {
  const canvas = document.createElement("canvas");
  [canvas.height, canvas.width] = [height, width];
  const context = canvas.getContext("2d");
  const picture = context.createImageData(width, height);
  const words = new Uint32Array(picture.data.buffer);
  for (let k = 0; k < mask.length; k++) words[k] = mask[k] ? 0xffffffff : 0xff000000;
  context.putImageData(picture, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  if (!blob) throw new Error(`This browser cannot write an image of ${width} × ${height} pixels.`);
  return blob;
}

/** Draws a mask in a colour [r, g, b] on a canvas of its size, its edge stronger than its inside. */
export function drawMask(context, mask, [height, width], colour) {
  const picture = context.createImageData(width, height);
  const [edge, inner] = [255, 110].map((alpha) => new Uint8ClampedArray([...colour, alpha]));
  const [edgeWord, innerWord] = [edge, inner].map((bytes) => new Uint32Array(bytes.buffer)[0]);
  const words = new Uint32Array(picture.data.buffer);
  const reach = Math.max(1, Math.round(Math.max(height, width) / 350));
  const at = (y, x) => y >= 0 && x >= 0 && y < height && x < width && mask[y * width + x] === 1;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (!mask[y * width + x]) continue;
      const inside = at(y - reach, x) && at(y + reach, x) && at(y, x - reach) && at(y, x + reach);
      words[y * width + x] = inside ? innerWord : edgeWord;
    }
  }
  context.putImageData(picture, 0, 0);
}
