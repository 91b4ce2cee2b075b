// The image with its mask and prompt, and its reactions to mouse, touch and keys.
// Points are [x, y] and boxes [x0, y0, x1, y1], in pixels of the image.

import { drawMasks } from "./pixels.js";

const CANVAS_SIDE = 1024; // pixels of the longer side of the canvas
const MIN_DRAG = 6; // CSS pixels above which a press becomes a box
const STEP = 0.02, FINE_STEP = 0.004; // of an arrow key, as a share of the longer side
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export const isEmpty = (prompt) => !prompt.box && !prompt.points.length;

export class Stage {
  /**
   * on: callbacks {point(position, inverted), box(corners), preview(position or null), undo(), clear()}.
   * inverted: with a modifier key, or the right button.
   */
  constructor(element, on) {
    this.element = element;
    this.on = on;
    [this.photo, this.mask] = element.querySelectorAll("canvas");
    this.marks = element.querySelector("#marks");
    this.reset();
    element.classList.add("empty");
    element.addEventListener("pointerdown", (event) => this.press(event));
    element.addEventListener("pointermove", (event) => this.move(event));
    element.addEventListener("pointerup", (event) => this.release(event));
    element.addEventListener("pointercancel", () => this.cancelPress());
    element.addEventListener("pointerleave", () => this.size && this.on.preview(null));
    element.addEventListener("contextmenu", (event) => event.preventDefault());
    element.addEventListener("keydown", (event) => this.key(event));
    element.addEventListener("blur", () => this.setCross(null));
  }

  reset() {
    this.size = null; // [height, width] of the image
    this.pressed = null; // {position, x, y, inverted} of a pointer that is down
    this.corner = null; // the first corner of a box drawn with keys
    this.cross = null;
    this.prompt = { points: [], box: null };
  }

  /** Shows an image from `readImage`, without mask or prompt. */
  show({ size, bitmap }) {
    this.reset();
    this.size = size;
    const scale = CANVAS_SIDE / Math.max(...size);
    this.shown = size.map((side) => Math.max(1, Math.round(side * scale)));
    for (const canvas of [this.photo, this.mask]) [canvas.height, canvas.width] = this.shown;
    const context = this.photo.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, this.shown[1], this.shown[0]);
    this.element.parentElement.style.setProperty("--ratio", size[1] / size[0]);
    this.element.classList.remove("empty");
    this.draw();
  }

  /** Draws masks of size `shown`, see `drawMasks`. */
  showMasks(masks, preview = false) {
    drawMasks(this.mask.getContext("2d"), masks, this.shown);
    this.mask.classList.toggle("preview", preview);
  }

  /** Draws the points and the box of a prompt, see `tokens`. */
  showPrompt(prompt) {
    this.prompt = prompt;
    this.draw();
  }

  draw(box = this.prompt.box) {
    const [height, width] = this.size;
    const percent = (value, side) => `${(100 * value) / side}%`;
    const put = (kind, x, y) => {
      const mark = this.marks.appendChild(document.createElement("div"));
      mark.className = kind;
      mark.style.left = percent(x, width);
      mark.style.top = percent(y, height);
      [mark.dataset.x, mark.dataset.y] = [x, y];
      return mark;
    };
    this.marks.replaceChildren();
    if (box) {
      const mark = put("box", box[0], box[1]);
      mark.style.width = percent(box[2] - box[0], width);
      mark.style.height = percent(box[3] - box[1], height);
      mark.dataset.box = JSON.stringify(box);
    }
    for (const { x, y, label } of this.prompt.points) put(label ? "point object" : "point other", x, y);
    if (this.cross) put("cross", ...this.cross);
  }

  position({ clientX, clientY }) {
    const { left, top, width, height } = this.element.getBoundingClientRect();
    return this.clamp([
      ((clientX - left) / width) * this.size[1],
      ((clientY - top) / height) * this.size[0],
    ]);
  }

  clamp([x, y]) {
    return [Math.min(Math.max(x, 0), this.size[1]), Math.min(Math.max(y, 0), this.size[0])];
  }

  press(event) {
    if (!this.size || event.button === 1 || this.pressed) return;
    this.element.setPointerCapture(event.pointerId);
    const inverted = event.button === 2 || event.shiftKey || event.altKey;
    this.pressed = { position: this.position(event), x: event.clientX, y: event.clientY, inverted };
  }

  move(event) {
    if (!this.size) return;
    if (this.pressed) this.draw(this.dragged(event) ?? this.prompt.box);
    else if (event.pointerType === "mouse") this.on.preview(this.position(event));
  }

  release(event) {
    if (!this.pressed) return;
    const { position, inverted } = this.pressed;
    const box = this.dragged(event);
    this.cancelPress();
    if (box) this.on.box(box);
    else this.on.point(position, inverted);
  }

  cancelPress() {
    this.pressed = null;
    if (this.size) this.draw();
  }

  /** Returns the box between the start of the press and the pointer; null for a short distance. */
  dragged(event) {
    const { position, x, y } = this.pressed;
    const isDrag = Math.hypot(event.clientX - x, event.clientY - y) >= MIN_DRAG;
    return isDrag ? boxBetween(position, this.position(event)) : null;
  }

  setCross(position) {
    if (!position) this.corner = null;
    this.cross = position;
    if (this.size) this.draw(this.corner && position ? boxBetween(this.corner, position) : undefined);
  }

  key(event) {
    if (!this.size || event.ctrlKey || event.metaKey) return;
    const arrow = ARROWS[event.key];
    const [x, y] = this.cross ?? [this.size[1] / 2, this.size[0] / 2];
    if (arrow) {
      const step = Math.max(...this.size) * (event.altKey ? FINE_STEP : STEP);
      this.setCross(this.cross ? this.clamp([x + arrow[0] * step, y + arrow[1] * step]) : [x, y]);
      this.on.preview(this.corner ? null : this.cross);
    } else if (event.key === "Enter" && this.cross && !this.corner) {
      this.on.point(this.cross, event.shiftKey);
    } else if ((event.key === "b" || event.key === "Enter") && this.cross) {
      this.setCorner();
    } else if (event.key === "u") this.on.undo();
    else if (event.key === "Escape") this.escape();
    else return;
    event.preventDefault();
  }

  setCorner() {
    const box = this.corner && boxBetween(this.corner, this.cross);
    this.corner = this.corner ? null : this.cross;
    this.on.preview(null);
    if (box && box[2] > box[0] && box[3] > box[1]) this.on.box(box);
  }

  escape() {
    const wasDrawing = this.corner || this.pressed;
    this.corner = null;
    this.cancelPress();
    if (!wasDrawing) this.on.clear();
  }
}

function boxBetween([x, y], [otherX, otherY]) {
  return [Math.min(x, otherX), Math.min(y, otherY), Math.max(x, otherX), Math.max(y, otherY)];
}
