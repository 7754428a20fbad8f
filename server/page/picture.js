// picture.js: a picture of any size to the pixels that a model sees, by the server's own filter, so that what is
// shown and sent is what the server would have made: of a PNG, every byte. The server shrinks a large JPEG while it
// decodes it, and turns a picture after the filter; there the pixels are close. Whole numbers throughout.

/** Weights of the triangle filter: for each of `target` pixels, its first source pixel, weights and their sum. */
function spans(source, target) {
  const reach = 2 * Math.max(source, target);
  return Array.from({ length: target }, (_, i) => {
    const weights = [];
    let first = -1;
    for (let j = 0; j < source; j++) {
      const weight = reach - Math.abs((2 * j + 1) * target - (2 * i + 1) * source);
      if (weight <= 0) continue;
      if (first < 0) first = j;
      weights.push(weight);
    }
    return { first, weights, total: weights.reduce((a, b) => a + b, 0) };
  });
}

/** The largest centred part of width x height that has the shape of W x H. */
function cropped(width, height, W, H) {
  const part = (extent, other, target, targetOther) =>
    Math.min(extent, Math.max(1, Math.floor((other * target) / targetOther)));
  const [w, h] = [part(width, height, W, H), part(height, width, H, W)];
  return [Math.floor((width - w) / 2), Math.floor((height - h) / 2), w, h];
}

/** RGBA pixels over white to planar u8 [3][H][W]. */
export function reduce({ data, width, height }, squash, W, H) {
  const [x0, y0, w, h] = squash ? [0, 0, width, height] : cropped(width, height, W, H);
  const [across, down] = [spans(w, W), spans(h, H)];
  const rows = new Uint16Array(h * 3 * W);
  for (let y = 0; y < h; y++) {
    for (const [i, { first, weights, total }] of across.entries()) {
      const sum = [0, 0, 0];
      let at = 4 * ((y0 + y) * width + x0 + first);
      for (const weight of weights) {
        const alpha = data[at + 3];
        for (let c = 0; c < 3; c++) {
          const over = Math.floor((data[at + c] * alpha + 255 * (255 - alpha) + 127) / 255);
          sum[c] += weight * over;
        }
        at += 4;
      }
      for (let c = 0; c < 3; c++) {
        rows[(y * 3 + c) * W + i] = Math.floor((sum[c] * 256 + Math.floor(total / 2)) / total);
      }
    }
  }
  const planar = new Uint8Array(3 * W * H);
  for (const [i, { first, weights, total }] of down.entries()) {
    for (let x = 0; x < 3 * W; x++) {
      let sum = 0;
      weights.forEach((weight, j) => (sum += weight * rows[(first + j) * 3 * W + x]));
      const at = Math.floor(x / W) * W * H + i * W + (x % W);
      planar[at] = Math.floor((sum + total * 128) / (total * 256));
    }
  }
  return planar;
}

/** Draws planar [3][H][W] on a canvas of its size. */
export function showPlanar(canvas, planar, W, H) {
  const image = new ImageData(W, H);
  const plane = W * H;
  for (let i = 0; i < plane; i++) {
    image.data.set([planar[i], planar[plane + i], planar[2 * plane + i], 255], 4 * i);
  }
  [canvas.width, canvas.height] = [W, H];
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** The pixels of a File or Blob, upright; throws if the browser cannot read it. */
export async function pixelsOf(file) {
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height);
}
