// One image into the network's input, with the same numbers as rtmo_deploy/runtime/letterbox.py (cv2.warpAffine).

const PAD = 114;

// cv2.warpAffine adds coordinates up in 1024ths of a pixel, rounds them to 32nds, and blends with weights of 1/1024.
const FIXED = 1024;
const STEP = 32;

/** Rounds half to even, as OpenCV does. */
function rint(value) {
  const nearest = Math.round(value);
  return Math.abs(value % 1) === 0.5 && nearest % 2 !== 0 ? nearest - 1 : nearest;
}

/** `[x0, xs, y0, ys]`: an output pixel (x, y) shows the original at (x0 + xs x, y0 + ys y); fitted to float32 points. */
function inverse(columns, rows, width, height) {
  const f = Math.fround;
  const fitted = f((columns * width) / Math.min(width, height * (columns / rows)));
  const x = f(columns / 2);
  const y = f(rows / 2);
  const above = f(y - fitted / 2);
  const left = f(x - f(y - above));
  const scaleX = width / 2 / (x - left);
  const scaleY = width / 2 / (y - above);
  const determinant = 1 / (scaleX * scaleY);
  const [xs, ys] = [scaleY * determinant, scaleX * determinant];
  return [-xs * (width / 2 - scaleX * x), xs, -ys * (height / 2 - scaleY * y), ys];
}

/** Places of the first of two source pixels along one axis, and the weight (of 32) of the second. */
function taps(count, start, step) {
  const places = new Int32Array(count);
  const weights = new Int32Array(count);
  const origin = rint(start * FIXED) + FIXED / STEP / 2;
  for (let i = 0; i < count; i++) {
    const at = (origin + rint(step * i * FIXED)) >> 5;
    places[i] = at >> 5;
    weights[i] = at & (STEP - 1);
  }
  return [places, weights];
}

/**
 * Scales an image into the canvas, centred, padded with 114.
 *
 * Takes RGBA bytes as ImageData has them. Returns `tensor`, a Float32Array (3, height, width) of BGR planes from 0 to
 * 255, and how to come back: `original = (input - offset) / scale`.
 */
export function letterbox(rgba, columns, rows, width, height) {
  const [x0, xs, y0, ys] = inverse(columns, rows, width, height);
  const [lefts, rights] = taps(width, x0, xs);
  const [tops, bottoms] = taps(height, y0, ys);
  const plane = width * height;
  const tensor = new Float32Array(3 * plane).fill(PAD);
  for (let y = 0, out = 0; y < height; y++) {
    const [top, down] = [tops[y], bottoms[y]];
    if (top < -1 || top >= rows) {
      out += width;
      continue;
    }
    const [hasTop, hasBottom] = [top >= 0, top + 1 < rows];
    for (let x = 0; x < width; x++, out++) {
      const [left, right] = [lefts[x], rights[x]];
      if (left < -1 || left >= columns) continue;
      const at = 4 * (top * columns + left);
      const below = at + 4 * columns;
      const [hasLeft, hasRight] = [left >= 0, left + 1 < columns];
      for (let channel = 0; channel < 3; channel++) {
        const a = hasTop && hasLeft ? rgba[at + channel] : PAD;
        const b = hasTop && hasRight ? rgba[at + 4 + channel] : PAD;
        const c = hasBottom && hasLeft ? rgba[below + channel] : PAD;
        const d = hasBottom && hasRight ? rgba[below + 4 + channel] : PAD;
        const upper = a * (STEP - right) + b * right;
        const lower = c * (STEP - right) + d * right;
        tensor[(2 - channel) * plane + out] = (upper * (STEP - down) + lower * down + 512) >> 10;
      }
    }
  }
  const scale = Math.min(height / rows, width / columns);
  return { tensor, scale, offset: [(width - scale * columns) / 2, (height - scale * rows) / 2] };
}
